//! Names of things: who sent a job, who runs it, which contract it is for.
//!
//! Only names live here; what they name lives where it is used.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
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
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ContractAddress(String);

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

    /// The address as text, in lower case.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ContractAddress {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::try_from(text.to_owned())
    }
}

impl TryFrom<String> for ContractAddress {
    type Error = InvalidAddress;

    fn try_from(mut text: String) -> Result<Self, Self::Error> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._:-".contains(&b);
        if !(1..=Self::MAX_LENGTH).contains(&text.len()) || !text.bytes().all(allowed) {
            return Err(InvalidAddress);
        }
        text.make_ascii_lowercase();
        Ok(Self(text))
    }
}

impl From<ContractAddress> for String {
    fn from(address: ContractAddress) -> Self {
        address.0
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
            "", "a b", "a/b", "a*", "{a}", "ä", "a\0", "[a]", "a?", &too_long,
        ] {
            assert_eq!(
                text.parse::<ContractAddress>(),
                Err(InvalidAddress),
                "{text:?}"
            );
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
