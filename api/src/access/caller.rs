//! Who sent a request, and what they may do.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use http::request::Parts;
use shared::protocol::id::{ContractAddress, InvalidAddress};
use shared::protocol::quota::Quota;
use shared::protocol::tenant::Tenant;
use shared::queue::key_store::KeyRecord;

use super::scope::{Permission, SCOPES_LIMIT, Scope, Scopes};
use super::view::View;
use crate::error::{ApiError, cut};
use crate::limits::{Meter, MeterPermit, Meters};

/// The sender of a request.
#[derive(Debug)]
pub(crate) struct Caller {
    /// The key's id, or who the caller is otherwise; for logs.
    pub(crate) name: String,
    /// Whose contracts the caller's addresses mean.
    pub(crate) tenant: Tenant,
    pub(crate) scopes: Scopes,
    /// What the caller and its tenant may use. None where callers need no key.
    meters: Option<CallerMeters>,
}

/// What bounds the calls of a caller.
#[derive(Debug)]
struct CallerMeters {
    own: Arc<Meter>,
    tenant: Arc<Meter>,
}

/// Counts a call of a caller in flight; released on drop.
#[derive(Debug)]
pub(crate) struct CallerPermit {
    _own: Option<MeterPermit>,
    _tenant: Option<MeterPermit>,
}

impl CallerMeters {
    fn new(meters: &Meters, tenant: &Tenant, name: &str, quota: Quota) -> Self {
        Self {
            own: meters.caller(tenant, name, quota),
            tenant: meters.tenant(tenant),
        }
    }
}

impl Caller {
    /// Whoever reaches an api that needs no key.
    pub(crate) fn anybody() -> Self {
        Self {
            name: "anybody".to_owned(),
            tenant: Tenant::default(),
            scopes: Scopes::all(),
            meters: None,
        }
    }

    /// The owner of a key.
    pub(crate) fn of_key(id: &str, record: &KeyRecord, meters: &Meters) -> Self {
        let name = format!("key:{id}");
        let scope = |text: &String| {
            let parsed = text.parse::<Scope>();
            // A newer version may know more scopes.
            parsed
                .inspect_err(|error| tracing::warn!(key = id, %error, "scope ignored"))
                .ok()
        };
        Self {
            meters: Some(CallerMeters::new(
                meters,
                &record.tenant,
                &name,
                record.quota,
            )),
            name,
            tenant: record.tenant.clone(),
            scopes: record.scopes.iter().filter_map(scope).collect(),
        }
    }

    /// Whom a token names. Scopes of other services may be among its own.
    pub(crate) fn of_token(subject: &str, tenant: Tenant, scope: &str, meters: &Meters) -> Self {
        let name = format!("token:{}", cut(subject));
        let scopes = scope
            .split(' ')
            .filter_map(|text| text.parse::<Scope>().ok());
        Self {
            meters: Some(CallerMeters::new(meters, &tenant, &name, Quota::default())),
            name,
            tenant,
            scopes: scopes.take(SCOPES_LIMIT).collect(),
        }
    }

    /// Fails unless the caller may do this for some address.
    pub(crate) fn may(&self, permission: Permission) -> Result<(), ApiError> {
        if self.scopes.has(permission) {
            return Ok(());
        }
        Err(ApiError::InsufficientScope(permission.name().to_owned()))
    }

    /// Whether the caller operates the whole farm, and so may see what belongs to other tenants.
    pub(crate) fn is_operator(&self) -> bool {
        self.tenant.is_default() && self.scopes.has(Permission::FarmOperate)
    }

    /// Whether the caller may see what belongs to a tenant.
    pub(crate) fn sees_of(&self, tenant: &Tenant) -> bool {
        self.tenant == *tenant || self.is_operator()
    }

    /// Fails unless the caller may do this, which is about the farm itself.
    pub(crate) fn may_for_farm(&self, permission: Permission) -> Result<(), ApiError> {
        self.may(permission)?;
        if self.tenant.is_default() {
            return Ok(());
        }
        Err(ApiError::OfDefaultTenant)
    }

    /// The contract that the caller means by an address, if they may do this to it.
    ///
    /// Together with [`View`], this is the only place where addresses of callers become those of
    /// the farm. What a caller may not read does not exist for it.
    pub(crate) fn contract(
        &self,
        permission: Permission,
        text: &str,
    ) -> Result<ContractAddress, ApiError> {
        View::own(self).contract(permission, text)
    }

    /// The contract that the caller means by an address. To be followed by [`Self::may_for`].
    pub(crate) fn address(&self, text: &str) -> Result<ContractAddress, InvalidAddress> {
        ContractAddress::of(&self.tenant, text)
    }

    /// Fails unless the caller may do this to a contract. What it may not read does not exist.
    pub(crate) fn may_for(
        &self,
        permission: Permission,
        address: &ContractAddress,
    ) -> Result<(), ApiError> {
        if self.scopes.permits(permission, address) {
            return Ok(());
        }
        if permission.is_reading() {
            return Err(ApiError::ContractNotLoaded);
        }
        let needed = format!("{}:{}", permission.name(), address.local());
        Err(ApiError::InsufficientScope(needed))
    }

    /// Lets a call begin, unless the caller or its tenant has used up what it may use.
    pub(crate) async fn admit(&self) -> Result<(), ApiError> {
        let Some(CallerMeters { own, tenant }) = &self.meters else {
            return Ok(());
        };
        own.admit().await?;
        tenant.admit().await.inspect_err(|_| own.take_back())
    }

    /// Counts a call in flight, unless the caller or its tenant has as many as it may.
    pub(crate) fn enter(&self) -> Result<Option<CallerPermit>, ApiError> {
        let Some(CallerMeters { own, tenant }) = &self.meters else {
            return Ok(None);
        };
        Ok(Some(CallerPermit {
            _own: own.enter()?,
            _tenant: tenant.enter()?,
        }))
    }

    /// Counts a call that was answered.
    pub(crate) fn answered(&self, is_error: bool, cpu_us: u64) {
        if let Some(CallerMeters { own, tenant }) = &self.meters {
            own.answered(is_error, cpu_us);
            tenant.answered(is_error, cpu_us);
        }
    }

    /// What the caller sees: what belongs to its own tenant, or to those that it asks for.
    pub(crate) fn view(&self, asked: Option<&str>) -> Result<View<'_>, ApiError> {
        View::of(self, asked)
    }
}

/// The caller, whom the layer around the routes has recognised.
pub(crate) struct By(pub(crate) Arc<Caller>);

impl<S: Sync> FromRequestParts<S> for By {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let caller = parts.extensions.get::<Arc<Caller>>().cloned();
        // Without the layer nobody may do anything.
        caller.map(By).ok_or(ApiError::Unauthenticated(None))
    }
}
