//! What a caller may do: scopes such as `contracts:execute`, or `contracts:execute:pay-*` for some
//! addresses only.

use std::fmt;
use std::str::FromStr;

use glob::Pattern;
use shared::protocol::id::ContractAddress;

/// How many scopes a key may have.
pub(crate) const SCOPES_LIMIT: usize = 32;

/// How many characters all scopes of a key may have together.
pub(crate) const SCOPES_LENGTH: usize = 1024;

/// Defines the permissions with their names.
macro_rules! permissions {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)+) => {
        /// A kind of request.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Permission {
            $($(#[$doc])* $name,)+
        }

        impl Permission {
            /// All of them.
            pub(crate) const ALL: &[Self] = &[$(Self::$name),+];

            /// Its name in scopes.
            pub(crate) fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)+
                }
            }
        }
    };
}

permissions! {
    /// Load contracts.
    ContractsLoad = "contracts:load",
    /// Call them.
    ContractsExecute = "contracts:execute",
    /// List them and see how they fare.
    ContractsRead = "contracts:read",
    /// Unload them.
    ContractsUnload = "contracts:unload",
    /// See what became of calls.
    CallsRead = "calls:read",
    /// Read what contracts print.
    LogsRead = "logs:read",
    /// See dead letters; of the default tenant also workers and metrics.
    FarmRead = "farm:read",
    /// Remove dead letters; of the default tenant also drain workers, and see other tenants.
    FarmOperate = "farm:operate",
    /// Create, list and revoke keys.
    KeysManage = "keys:manage",
}

impl Permission {
    /// Whether it can be limited to some addresses.
    fn is_by_address(self) -> bool {
        !matches!(self, Self::FarmRead | Self::FarmOperate | Self::KeysManage)
    }

    /// Whether it only permits to see something.
    pub(crate) fn is_reading(self) -> bool {
        matches!(
            self,
            Self::ContractsRead | Self::CallsRead | Self::LogsRead | Self::FarmRead
        )
    }
}

/// A permission, for all addresses or for some.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Scope {
    permission: Permission,
    addresses: Option<Pattern>,
}

/// A text is no scope.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0:?} is no scope: {1}")]
pub(crate) struct InvalidScope(String, &'static str);

impl FromStr for Scope {
    type Err = InvalidScope;

    fn from_str(text: &str) -> Result<Self, InvalidScope> {
        let invalid = |why| InvalidScope(text.chars().take(160).collect(), why);
        let named = |permission: &&Permission| {
            let rest = text.strip_prefix(permission.name());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
        };
        let permission = *Permission::ALL
            .iter()
            .find(named)
            .ok_or_else(|| invalid("GET /openapi.json lists the scopes"))?;
        let addresses = text[permission.name().len()..].strip_prefix(':');
        let addresses = addresses
            .map(|glob| {
                if !permission.is_by_address() {
                    return Err(invalid("it cannot be limited to addresses"));
                }
                pattern(glob).ok_or_else(|| {
                    invalid("an address has 1 to 128 of A-Z a-z 0-9 . _ : - and here * and ?")
                })
            })
            .transpose()?;
        Ok(Self {
            permission,
            addresses,
        })
    }
}

/// The addresses that a glob names. Addresses are in lower case.
fn pattern(glob: &str) -> Option<Pattern> {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"._:-*?".contains(&byte);
    let is_glob = (1..=ContractAddress::MAX_LENGTH).contains(&glob.len())
        && glob.bytes().all(is_part)
        && !glob.contains("**");
    let pattern = Pattern::new(&glob.to_ascii_lowercase());
    pattern.ok().filter(|_| is_glob)
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.permission.name())?;
        match &self.addresses {
            Some(pattern) => write!(f, ":{pattern}"),
            None => Ok(()),
        }
    }
}

impl Scope {
    /// A permission for all addresses.
    pub(crate) fn everywhere(permission: Permission) -> Self {
        Self {
            permission,
            addresses: None,
        }
    }

    fn permits(&self, permission: Permission, address: &str) -> bool {
        let is_among = |pattern: &Pattern| pattern.matches(address);
        self.permission == permission && self.addresses.as_ref().is_none_or(is_among)
    }

    /// Whether whatever `other` permits is permitted by this one, as far as that is certain.
    fn includes(&self, other: &Self) -> bool {
        let (Some(own), Some(others)) = (&self.addresses, &other.addresses) else {
            return self.permission == other.permission && self.addresses.is_none();
        };
        // A `*` matches every character, so it also matches those of a glob.
        let is_certain = own == others || !own.as_str().contains('?');
        self.permission == other.permission && is_certain && own.matches(others.as_str())
    }
}

/// All scopes of a caller.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Scopes(Vec<Scope>);

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        Self(scopes.into_iter().collect())
    }
}

impl Scopes {
    /// Everything.
    pub(crate) fn all() -> Self {
        Permission::ALL
            .iter()
            .copied()
            .map(Scope::everywhere)
            .collect()
    }

    /// Whether it permits something for some address.
    pub(crate) fn has(&self, permission: Permission) -> bool {
        self.0.iter().any(|scope| scope.permission == permission)
    }

    /// Whether it permits something for an address, by its name within its tenant.
    pub(crate) fn permits(&self, permission: Permission, address: &ContractAddress) -> bool {
        self.0
            .iter()
            .any(|scope| scope.permits(permission, address.local()))
    }

    /// A scope that whoever has these scopes may not pass on.
    pub(crate) fn missing_for<'a>(&self, wanted: &'a Self) -> Option<&'a Scope> {
        let is_held = |scope: &&Scope| self.0.iter().any(|own| own.includes(scope));
        wanted.0.iter().find(|scope| !is_held(scope))
    }

    /// As texts.
    pub(crate) fn to_texts(&self) -> Vec<String> {
        self.0.iter().map(ToString::to_string).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scopes(texts: &[&str]) -> Scopes {
        texts
            .iter()
            .map(|text| text.parse::<Scope>().unwrap())
            .collect()
    }

    #[test]
    fn a_scope_is_limited_to_the_addresses_of_its_glob() {
        let scopes = scopes(&[
            "contracts:execute:Pay-*",
            "contracts:read",
            "contracts:load:a:b",
        ]);
        let permits =
            |permission, address: &str| scopes.permits(permission, &address.parse().unwrap());
        assert!(permits(Permission::ContractsExecute, "pay-1"));
        assert!(permits(Permission::ContractsExecute, "PAY-x:y"));
        assert!(!permits(Permission::ContractsExecute, "repay-1"));
        assert!(!permits(Permission::ContractsLoad, "pay-1"));
        assert!(permits(Permission::ContractsLoad, "a:b"));
        assert!(permits(Permission::ContractsRead, "anything"));
        assert!(!scopes.has(Permission::FarmRead));
        assert_eq!(scopes.to_texts()[0], "contracts:execute:pay-*");
    }

    #[test]
    fn what_is_no_scope_is_refused() {
        for text in [
            "",
            "contracts",
            "contracts:",
            "contracts:executes",
            "contracts:execute:",
            "contracts:execute:a/b",
            "contracts:execute:[a]",
            "contracts:execute:**",
            "farm:read:a",
            "keys:manage:*",
            "*",
            &format!("contracts:read:{}", "a".repeat(129)),
        ] {
            assert!(text.parse::<Scope>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_scope_that_is_not_held_cannot_be_passed_on() {
        let own = scopes(&["contracts:execute:pay-*", "contracts:read", "keys:manage"]);
        for held in [
            "contracts:execute:pay-1",
            "contracts:execute:pay-*",
            "contracts:execute:pay-a*",
            "contracts:read:x",
            "keys:manage",
        ] {
            assert_eq!(own.missing_for(&scopes(&[held])), None, "{held}");
        }
        for other in [
            "contracts:execute",
            "contracts:execute:p*",
            "contracts:execute:*",
            "contracts:load:pay-1",
            "farm:read",
        ] {
            assert!(own.missing_for(&scopes(&[other])).is_some(), "{other}");
        }
        assert!(
            scopes(&["contracts:read:pay-?"])
                .missing_for(&scopes(&["contracts:read:pay-*"]))
                .is_some()
        );
        assert_eq!(Scopes::all().missing_for(&own), None);
    }
}
