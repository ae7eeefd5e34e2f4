//! Names of things: who sent a job, who runs it, which contract it is for.
//!
//! Only names live here; what they name lives where it is used.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer};
use uuid::Uuid;

/// One job of one api process; unique together with the [`ApiId`] of its frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobId(pub u64);

/// Defines an identifier that is made anew for every process start, so that what a dead process
/// left in Redis can never be mistaken for its successor's.
macro_rules! process_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(#[serde(with = "uuid::serde::simple")] Uuid);

        impl $name {
            /// A new, random identifier.
            pub fn random() -> Self {
                Self(Uuid::new_v4())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.as_simple().fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Uuid::parse_str(text).map(Self)
            }
        }
    };
}

process_id!(
    /// One api process.
    ApiId
);
process_id!(
    /// One worker process.
    WorkerId
);

/// The address of a contract: 1 to 128 characters of `a-z 0-9 . _ : -`.
///
/// Upper case is accepted and lowered. The alphabet has none of Redis' glob characters and no
/// brace, so that an address can stand in a key's hash tag as it is.
///
/// The second and further replicas of a contract are contracts of their own to the farm, with the
/// addresses `ADDRESS~2`, `ADDRESS~3`, and so on. No caller can name them: what callers say is read
/// by [`FromStr`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct ContractAddress(Arc<str>);

/// Why a text is no [`ContractAddress`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "must be 1 to {} characters of A-Z a-z 0-9 . _ : -",
    ContractAddress::MAX_LENGTH
)]
pub struct InvalidAddress;

impl ContractAddress {
    /// The greatest length, in characters (which are all ASCII).
    pub const MAX_LENGTH: usize = 128;

    /// The most replicas that a contract may have.
    pub const MAX_REPLICAS: u32 = 16;

    /// The address as text, in lower case.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The contract that this is a replica of, and which one; the first is the contract itself.
    fn parts(&self) -> (&str, u32) {
        match self.0.split_once('~') {
            Some((contract, number)) => (contract, number.parse().unwrap_or(1)),
            None => (&self.0, 1),
        }
    }

    /// The address of the contract's replica with this number, from 1.
    #[must_use]
    pub fn replica(&self, number: u32) -> Self {
        let (contract, _) = self.parts();
        if number <= 1 {
            Self(contract.into())
        } else {
            Self(format!("{contract}~{number}").into())
        }
    }

    /// Whether both are replicas of one contract, or the same.
    pub fn is_sibling_of(&self, other: &Self) -> bool {
        self.parts().0 == other.parts().0
    }
}

/// Whether a replica's number is written as [`ContractAddress::replica`] does.
fn is_replica_number(text: &str) -> bool {
    text.parse().is_ok_and(|number: u32| {
        (2..=ContractAddress::MAX_REPLICAS).contains(&number) && number.to_string() == text
    })
}

impl FromStr for ContractAddress {
    type Err = InvalidAddress;

    /// Reads what a caller says.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.contains('~') {
            return Err(InvalidAddress);
        }
        Self::try_from(text.to_owned())
    }
}

impl TryFrom<String> for ContractAddress {
    type Error = InvalidAddress;

    /// Reads what the farm itself has written.
    fn try_from(mut text: String) -> Result<Self, Self::Error> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._:-".contains(&b);
        let contract = match text.split_once('~') {
            Some((contract, number)) if is_replica_number(number) => contract,
            Some(_) => return Err(InvalidAddress),
            None => &text,
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
    fn an_address_is_lowered() {
        let address: ContractAddress = "AbC.1_2:3-4".parse().unwrap();
        assert_eq!(address.as_str(), "abc.1_2:3-4");
    }

    #[test]
    fn what_is_no_address_is_refused() {
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
    fn replicas_have_addresses_that_only_the_farm_can_name() {
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

    proptest! {
        #[test]
        fn an_accepted_address_has_only_harmless_characters(text in "\\PC{0,140}") {
            if let Ok(address) = text.parse::<ContractAddress>() {
                prop_assert!(address.as_str().bytes().all(
                    |b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._:-".contains(&b)
                ));
                prop_assert_eq!(address.as_str(), text.to_ascii_lowercase());
            }
        }
    }
}
