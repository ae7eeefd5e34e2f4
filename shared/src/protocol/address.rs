//! The address of a contract.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer};

use super::tenant::Tenant;

/// The address of a contract: 1 to 128 characters of `a-z 0-9 . _ : -`.
///
/// Upper case is accepted and converted to lower case. The alphabet has no glob character of Redis
/// and no brace, so that a key can hold an address in its hash tag unchanged.
///
/// Internally the second and further replicas of a contract are contracts themselves, with the
/// addresses `ADDRESS~2`, `ADDRESS~3`, and so on. The contracts of a tenant have `TENANT/ADDRESS`;
/// those of the default tenant have no prefix. Callers cannot name either: [`Self::of`], which
/// parses what callers send, rejects them. `TryFrom<String>` parses what the farm itself has
/// written.
///
/// ```
/// use shared::protocol::id::ContractAddress;
/// use shared::protocol::tenant::Tenant;
///
/// let address: ContractAddress = "Shop.Prices:v2".parse()?;
/// assert_eq!(address.as_str(), "shop.prices:v2");
///
/// let second = address.replica(2);
/// assert_eq!(second.as_str(), "shop.prices:v2~2");
/// assert!(second.is_sibling_of(&address));
/// assert_eq!(second.replica(1), address);
///
/// assert!("a/b".parse::<ContractAddress>().is_err());
/// assert!("shop~2".parse::<ContractAddress>().is_err(), "replicas are internal");
///
/// let tenant: Tenant = "acme".parse()?;
/// let other = ContractAddress::of(&tenant, "Shop.Prices:v2")?;
/// assert_eq!(other.as_str(), "acme/shop.prices:v2");
/// assert_eq!((other.tenant(), other.local()), (tenant, "shop.prices:v2"));
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct ContractAddress(Arc<str>);

/// A text is not a [`ContractAddress`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "must be 1 to {} characters of A-Z a-z 0-9 . _ : -",
    ContractAddress::MAX_LENGTH
)]
pub struct InvalidAddress;

impl ContractAddress {
    /// The maximum length in characters, which are all ASCII.
    pub const MAX_LENGTH: usize = 128;

    /// The maximum number of replicas of a contract.
    pub const MAX_REPLICAS: u32 = 16;

    /// Parses an address that a caller of a tenant sent.
    pub fn of(tenant: &Tenant, text: &str) -> Result<Self, InvalidAddress> {
        if text.contains(['~', '/']) {
            return Err(InvalidAddress);
        }
        Self::try_from(match tenant.name() {
            None => text.to_owned(),
            Some(name) => format!("{name}/{text}"),
        })
    }

    /// The address inside the farm as text, in lower case.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The tenant that the contract belongs to.
    pub fn tenant(&self) -> Tenant {
        let prefix = self.0.split_once('/').map(|(tenant, _)| tenant.parse());
        prefix.and_then(Result::ok).unwrap_or_default()
    }

    /// Whether the contract belongs to a tenant.
    pub fn is_of(&self, tenant: &Tenant) -> bool {
        self.0.split_once('/').map(|(name, _)| name) == tenant.name()
    }

    /// The address as the callers of its tenant know it.
    pub fn local(&self) -> &str {
        self.0.split_once('/').map_or(&self.0, |(_, local)| local)
    }

    /// The address that the default tenant would have to use to be shown [`Self::local`].
    #[must_use]
    pub fn without_tenant(&self) -> Self {
        if self.tenant().is_default() {
            return self.clone();
        }
        Self(self.local().into())
    }

    /// The address of the contract, and the number of this replica. The contract itself is replica
    /// 1.
    fn parts(&self) -> (&str, u32) {
        match self.0.split_once('~') {
            Some((contract, number)) => (contract, number.parse().unwrap_or(1)),
            None => (&self.0, 1),
        }
    }

    /// The address of a replica of the contract. Numbers start at 1.
    #[must_use]
    pub fn replica(&self, number: u32) -> Self {
        let (contract, _) = self.parts();
        if number <= 1 {
            Self(contract.into())
        } else {
            Self(format!("{contract}~{number}").into())
        }
    }

    /// Which replica of its contract this is. The contract itself is replica 1.
    pub fn replica_number(&self) -> u32 {
        self.parts().1
    }

    /// Whether both addresses belong to the same contract.
    pub fn is_sibling_of(&self, other: &Self) -> bool {
        self.parts().0 == other.parts().0
    }
}

/// Whether a text is the prefix of a tenant's contracts. The default tenant has none.
fn is_prefix(text: &str) -> bool {
    text.parse::<Tenant>()
        .is_ok_and(|tenant| !tenant.is_default())
}

/// Whether a text is a replica number as [`ContractAddress::replica`] writes it.
fn is_replica_number(text: &str) -> bool {
    text.parse().is_ok_and(|number: u32| {
        (2..=ContractAddress::MAX_REPLICAS).contains(&number) && number.to_string() == text
    })
}

impl FromStr for ContractAddress {
    type Err = InvalidAddress;

    /// Parses an address that a caller of the default tenant sent.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::of(&Tenant::default(), text)
    }
}

impl TryFrom<String> for ContractAddress {
    type Error = InvalidAddress;

    /// Parses an address that the farm itself has written.
    fn try_from(mut text: String) -> Result<Self, Self::Error> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._:-".contains(&b);
        let local = match text.split_once('/') {
            Some((tenant, local)) if is_prefix(tenant) => local,
            Some(_) => return Err(InvalidAddress),
            None => &text,
        };
        let contract = match local.split_once('~') {
            Some((contract, number)) if is_replica_number(number) => contract,
            Some(_) => return Err(InvalidAddress),
            None => local,
        };
        if !(1..=Self::MAX_LENGTH).contains(&contract.len()) || !contract.bytes().all(allowed) {
            return Err(InvalidAddress);
        }
        text.make_ascii_lowercase();
        Ok(Self(text.into()))
    }
}

impl Serialize for ContractAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl fmt::Display for ContractAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_address_becomes_lower_case() {
        let address: ContractAddress = "AbC.1_2:3-4".parse().unwrap();
        assert_eq!(address.as_str(), "abc.1_2:3-4");
    }

    #[test]
    fn invalid_addresses_are_rejected() {
        let too_long = "a".repeat(129);
        for text in [
            "", "a b", "a/b", "a*", "{a}", "ä", "a\0", "[a]", "a?", "a~2", &too_long,
        ] {
            assert_eq!(
                text.parse::<ContractAddress>(),
                Err(InvalidAddress),
                "{text:?}"
            );
        }
    }

    #[test]
    fn callers_cannot_name_replicas() {
        let contract: ContractAddress = "abcd".parse().unwrap();
        let third = contract.replica(3);
        assert_eq!(third.as_str(), "abcd~3");
        assert_eq!(third.replica(1), contract);
        assert_eq!(third.replica(2).as_str(), "abcd~2");
        assert!(third.is_sibling_of(&contract) && contract.is_sibling_of(&third));
        assert!(!third.is_sibling_of(&"abcde".parse().unwrap()));
        assert_eq!(ContractAddress::try_from("abcd~3".to_owned()), Ok(third));
        for text in ["a~", "a~1", "a~02", "a~17", "a~2~3", "~2", "a~x"] {
            let read = ContractAddress::try_from(text.to_owned());
            assert_eq!(read, Err(InvalidAddress), "{text:?}");
        }
    }

    #[test]
    fn callers_cannot_name_tenants() {
        let tenant: Tenant = "acme".parse().unwrap();
        let contract = ContractAddress::of(&tenant, "Abcd").unwrap();
        assert_eq!(contract.as_str(), "acme/abcd");
        assert!(contract.is_of(&tenant) && !contract.is_of(&Tenant::default()));
        let second = contract.replica(2);
        assert_eq!(second.as_str(), "acme/abcd~2");
        assert_eq!((second.local(), second.replica_number()), ("abcd~2", 2));
        assert_eq!(second.replica(1), contract);
        let read = ContractAddress::try_from("acme/abcd~2".to_owned());
        assert_eq!(read, Ok(second));
        let same: ContractAddress = "abcd".parse().unwrap();
        assert_eq!(contract.without_tenant(), same);
        assert!(!contract.is_sibling_of(&same));
        for text in ["acme/abcd", "/abcd", "abcd/", "default/abcd", "a/b/c"] {
            for tenant in [&tenant, &Tenant::default()] {
                let named = ContractAddress::of(tenant, text);
                assert_eq!(named, Err(InvalidAddress), "{text:?}");
            }
        }
        for text in ["/a", "a/", "A/b", "default/b", "a/b/c", "a~2/b"] {
            let read = ContractAddress::try_from(text.to_owned());
            assert_eq!(read, Err(InvalidAddress), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn an_accepted_address_has_only_safe_characters(text in "\\PC{0,140}") {
            if let Ok(address) = text.parse::<ContractAddress>() {
                prop_assert!(address.as_str().bytes().all(
                    |b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._:-".contains(&b)
                ));
                prop_assert_eq!(address.as_str(), text.to_ascii_lowercase());
            }
        }
    }
}
