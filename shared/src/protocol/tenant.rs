//! Tenants: who shares a farm without seeing each other.
//!
//! Each contract belongs to one. Inside the farm a contract has the address `TENANT/ADDRESS`, for
//! its callers it has `ADDRESS`. The default tenant has no prefix, so a farm without tenants is one
//! that has only this one.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The name of a tenant: 1 to 64 characters of `a-z 0-9 . _ -`, or the default tenant.
///
/// Names are compared exactly: another spelling is another tenant or none, because identity
/// providers may tell `Acme` and `acme` apart.
///
/// ```
/// use shared::protocol::tenant::Tenant;
///
/// let tenant: Tenant = "acme".parse()?;
/// assert_eq!(tenant.to_string(), "acme");
/// assert_eq!("default".parse(), Ok(Tenant::default()));
/// assert!("Acme".parse::<Tenant>().is_err());
/// # Ok::<_, shared::protocol::tenant::InvalidTenant>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Tenant(Option<Arc<str>>);

/// A text is not the name of a [`Tenant`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be 1 to {} characters of a-z 0-9 . _ -", Tenant::MAX_LENGTH)]
pub struct InvalidTenant;

impl Tenant {
    /// The maximum length of a name in characters, which are all ASCII.
    pub const MAX_LENGTH: usize = 64;

    /// What the default tenant is called.
    pub const DEFAULT: &str = "default";

    /// Whether this is the default tenant.
    pub fn is_default(&self) -> bool {
        self.0.is_none()
    }

    /// The name, `default` for the default tenant.
    pub fn as_str(&self) -> &str {
        self.0.as_deref().unwrap_or(Self::DEFAULT)
    }

    /// The name of another tenant than the default one.
    pub fn name(&self) -> Option<&str> {
        self.0.as_deref()
    }
}

impl FromStr for Tenant {
    type Err = InvalidTenant;

    fn from_str(text: &str) -> Result<Self, InvalidTenant> {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b);
        if !(1..=Self::MAX_LENGTH).contains(&text.len()) || !text.bytes().all(allowed) {
            return Err(InvalidTenant);
        }
        Ok(Self((text != Self::DEFAULT).then(|| text.into())))
    }
}

impl TryFrom<String> for Tenant {
    type Error = InvalidTenant;

    fn try_from(text: String) -> Result<Self, InvalidTenant> {
        text.parse()
    }
}

impl From<Tenant> for String {
    fn from(tenant: Tenant) -> Self {
        tenant.as_str().to_owned()
    }
}

impl fmt::Display for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_hold_a_separator() {
        let too_long = "a".repeat(65);
        for text in [
            "", "a/b", "a~2", "A", "a b", "ä", "*", "{a}", "a:b", "a@b", &too_long,
        ] {
            assert_eq!(text.parse::<Tenant>(), Err(InvalidTenant), "{text:?}");
        }
        let tenant: Tenant = serde_json::from_str("\"acme\"").unwrap();
        assert_eq!(serde_json::to_string(&tenant).unwrap(), "\"acme\"");
        assert!(!tenant.is_default() && tenant.name() == Some("acme"));
        assert_eq!(Tenant::default().name(), None);
    }
}
