//! What a caller sees of the farm: the contracts, keys and entries of one tenant, or of all.
//!
//! This is where addresses of callers become those of the farm, and the other way round.

use std::fmt::Display;

use shared::protocol::id::{ContractAddress, InvalidAddress};
use shared::protocol::reply::ContractStatus;
use shared::protocol::tenant::{InvalidTenant, Tenant};
use shared::queue::dead_letters::DeadLetter;
use shared::queue::listing::{InvalidPosition, Position};

use super::caller::Caller;
use super::scope::Permission;
use crate::error::ApiError;

/// What stands for all tenants in a query.
const ALL: &str = "*";

/// What a caller sees.
#[derive(Debug)]
pub(crate) struct View<'a> {
    caller: &'a Caller,
    /// None: that of all tenants.
    tenant: Option<Tenant>,
}

impl<'a> View<'a> {
    /// What belongs to the caller's own tenant.
    pub(super) fn own(caller: &'a Caller) -> Self {
        Self {
            caller,
            tenant: Some(caller.tenant.clone()),
        }
    }

    /// What belongs to the tenant that was `asked` for, or to all. Only who operates the farm sees
    /// another than its own.
    pub(super) fn of(caller: &'a Caller, asked: Option<&str>) -> Result<Self, ApiError> {
        let Some(asked) = asked else {
            return Ok(Self::own(caller));
        };
        let tenant = (asked != ALL)
            .then(|| asked.parse::<Tenant>())
            .transpose()
            .map_err(|why: InvalidTenant| ApiError::field("tenant", format!("{why}, or *")))?;
        if tenant.as_ref() != Some(&caller.tenant) && !caller.is_operator() {
            return Err(ApiError::OfDefaultTenant);
        }
        Ok(Self { caller, tenant })
    }

    /// The tenant, if it is only one.
    pub(crate) fn tenant(&self) -> Option<&Tenant> {
        self.tenant.as_ref()
    }

    /// The tenant; fails if it is not only one.
    pub(crate) fn one_tenant(&self) -> Result<&Tenant, ApiError> {
        let one = self.tenant.as_ref();
        one.ok_or_else(|| ApiError::field("tenant", "must be one tenant here"))
    }

    /// The contract that an address means, if the caller may do this to it. What it may not read
    /// does not exist for it.
    pub(crate) fn contract(
        &self,
        permission: Permission,
        text: &str,
    ) -> Result<ContractAddress, ApiError> {
        let address = ContractAddress::of(self.one_tenant()?, text);
        let address = address
            .map_err(|why: InvalidAddress| ApiError::field("contractAddress", why.to_string()))?;
        self.caller.may_for(permission, &address)?;
        Ok(address)
    }

    /// Whether something that belongs to a tenant is in sight.
    pub(crate) fn includes(&self, tenant: &Tenant) -> bool {
        self.tenant.as_ref().is_none_or(|own| own == tenant)
    }

    /// Whether a contract is in sight.
    pub(crate) fn sees(&self, address: &ContractAddress) -> bool {
        let is_in_sight = self
            .tenant
            .as_ref()
            .is_none_or(|tenant| address.is_of(tenant));
        is_in_sight
            && self
                .caller
                .scopes
                .permits(Permission::ContractsRead, address)
    }

    /// A tenant, if it has to be named: it is not the caller's own.
    pub(crate) fn named(&self, tenant: Tenant) -> Option<Tenant> {
        (tenant != self.caller.tenant).then_some(tenant)
    }

    /// The status of a contract as the caller sees it.
    pub(crate) fn status(&self, status: ContractStatus) -> ContractStatus {
        ContractStatus {
            tenant: self.named(status.contract_address.tenant()),
            contract_address: status.contract_address.without_tenant(),
            ..status
        }
    }

    /// A dead letter as the caller sees it.
    pub(crate) fn dead_letter(&self, mut letter: DeadLetter) -> DeadLetter {
        let Some(contract) = letter.contract() else {
            return letter;
        };
        let shown = contract.local().to_owned();
        letter.fields.insert("contract".to_owned(), shown);
        if let Some(tenant) = self.named(contract.tenant()) {
            letter
                .fields
                .insert("tenant".to_owned(), tenant.to_string());
        }
        letter
    }

    /// Where a page of contracts begins.
    pub(crate) fn position(&self, text: &str) -> Result<Position, ApiError> {
        let position = Position::parse(text, self.tenant.as_ref());
        position.map_err(|why: InvalidPosition| ApiError::field("after", why.to_string()))
    }

    /// The `Link` header to the next page of a route.
    pub(crate) fn link(&self, route: &str, limit: usize, after: impl Display) -> String {
        let whose = match &self.tenant {
            None => "&tenant=*".to_owned(),
            Some(tenant) if *tenant == self.caller.tenant => String::new(),
            Some(tenant) => format!("&tenant={tenant}"),
        };
        format!("<{route}?limit={limit}{whose}&after={after}>; rel=\"next\"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::{Scope, Scopes};

    fn caller(tenant: &str, scopes: &[&str]) -> Caller {
        let scopes = scopes.iter().map(|text| text.parse::<Scope>().unwrap());
        let mut caller = Caller::anybody();
        caller.tenant = tenant.parse().unwrap();
        caller.scopes = scopes.collect::<Scopes>();
        caller
    }

    #[test]
    fn an_address_means_a_contract_of_the_callers_tenant() {
        let scopes = ["contracts:execute:pay-*", "contracts:read:pay-*"];
        let (own, acme) = (caller("default", &scopes), caller("acme", &scopes));
        let execute = |caller: &Caller, text: &str| {
            let contract = caller.contract(Permission::ContractsExecute, text);
            contract.map(|contract| contract.to_string())
        };
        assert_eq!(execute(&own, "Pay-1").unwrap(), "pay-1");
        assert_eq!(execute(&acme, "Pay-1").unwrap(), "acme/pay-1");
        assert_eq!(
            execute(&acme, "acme/pay-1").unwrap_err().code(),
            "invalid_request"
        );
        let refused = execute(&acme, "other").unwrap_err().to_string();
        assert!(refused.ends_with("contracts:execute:other"), "{refused}");
        let hidden = acme.contract(Permission::ContractsRead, "other");
        assert_eq!(hidden.unwrap_err().code(), "contract_not_loaded");
        let other = "pay-1".parse().unwrap();
        assert!(View::own(&own).sees(&other) && !View::own(&acme).sees(&other));
    }

    #[test]
    fn only_an_operator_of_the_farm_sees_other_tenants() {
        let operator = caller("default", &["farm:operate", "contracts:read"]);
        let reader = caller("default", &["contracts:read", "farm:read"]);
        let of_tenant = caller("acme", &["farm:operate", "contracts:read"]);
        for asked in ["*", "other"] {
            assert!(operator.view(Some(asked)).is_ok());
            for refused in [&reader, &of_tenant] {
                let code = refused.view(Some(asked)).unwrap_err().code();
                assert_eq!(code, "insufficient_scope");
            }
        }
        assert!(of_tenant.view(Some("acme")).is_ok());
        assert!(operator.view(Some("A")).is_err());
        let all = operator.view(Some("*")).unwrap();
        let address = ContractAddress::try_from("acme/abcd".to_owned()).unwrap();
        assert!(all.sees(&address) && !View::own(&operator).sees(&address));
        assert!(all.contract(Permission::ContractsRead, "abcd").is_err());
        let one = operator.view(Some("acme")).unwrap();
        assert_eq!(
            one.contract(Permission::ContractsRead, "abcd").unwrap(),
            address
        );
        assert_eq!(
            one.link("/contracts", 1, "5-abcd"),
            "</contracts?limit=1&tenant=acme&after=5-abcd>; rel=\"next\""
        );
        let own = of_tenant.view(None).unwrap();
        assert!(!own.link("/contracts", 1, "5-abcd").contains("acme"));
    }
}
