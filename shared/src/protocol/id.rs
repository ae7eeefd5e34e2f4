//! Identifiers of jobs, processes and contracts.
//!
//! Only the identifiers are defined here. What they identify is defined where it is used.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer};
use uuid::Uuid;

/// The number of a job. It is unique together with the [`ApiId`] of its frame.
///
/// ```
/// use shared::protocol::id::JobId;
///
/// assert_eq!(serde_json::to_string(&JobId(7))?, "7");
/// # Ok::<_, serde_json::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobId(pub u64);

/// Defines an identifier that is generated at every start of a process. So the data that a dead
/// process left in Redis can never be mistaken for that of its successor.
macro_rules! process_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(#[serde(with = "uuid::serde::simple")] Uuid);

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
    /// Identifies an api process, from its start to its end.
    ///
    /// ```
    /// use shared::protocol::id::ApiId;
    ///
    /// let api = ApiId::random();
    /// assert_eq!(api.to_string().len(), 32, "128 bits in hexadecimal");
    /// assert_eq!(api.to_string().parse(), Ok(api));
    /// ```
    ApiId
);
process_id!(
    /// Identifies a worker. The last 16 bits count the *epochs* of the process: a worker that was
    /// declared dead although it lives goes on under its next id. For everybody else that is
    /// another worker.
    WorkerId
);

/// The bits of a worker id that count its epochs.
const EPOCH: u128 = 0xffff;

impl WorkerId {
    /// Generates the first id of a new process.
    ///
    /// ```
    /// use shared::protocol::id::WorkerId;
    ///
    /// let worker = WorkerId::random();
    /// assert_ne!(worker, WorkerId::random());
    /// assert_eq!(worker.to_string().parse(), Ok(worker));
    /// ```
    pub fn random() -> Self {
        Self(Uuid::from_u128(Uuid::new_v4().as_u128() & !EPOCH))
    }

    /// The next id of the same process, which it takes after it was fenced.
    ///
    /// ```
    /// use shared::protocol::id::WorkerId;
    ///
    /// let (worker, other) = (WorkerId::random(), WorkerId::random());
    /// let next = worker.next_epoch();
    /// assert_ne!(next, worker);
    /// assert!(next.same_process(worker) && !next.same_process(other));
    /// ```
    #[must_use]
    pub fn next_epoch(self) -> Self {
        if self.0.as_u128() & EPOCH == EPOCH {
            // Fenced 65,535 times. As another process it is as safe.
            return Self::random();
        }
        Self(Uuid::from_u128(self.0.as_u128() + 1))
    }

    /// Whether both ids belong to the same process.
    pub fn same_process(self, other: Self) -> bool {
        self.0.as_u128() | EPOCH == other.0.as_u128() | EPOCH
    }
}

impl ApiId {
    /// Generates a random identifier.
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }
}

/// The address of a contract: 1 to 128 characters of `a-z 0-9 . _ : -`.
///
/// Upper case is accepted and converted to lower case. The alphabet has no glob character of Redis
/// and no brace, so that a key can hold an address in its hash tag unchanged.
///
/// Internally the second and further replicas of a contract are contracts themselves, with the
/// addresses `ADDRESS~2`, `ADDRESS~3`, and so on. Callers cannot name them: [`FromStr`], which
/// parses what callers send, rejects them. `TryFrom<String>` parses what the farm itself has
/// written.
///
/// ```
/// use shared::protocol::id::ContractAddress;
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
/// # Ok::<_, shared::protocol::id::InvalidAddress>(())
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

    /// The address as text, in lower case.
    pub fn as_str(&self) -> &str {
        &self.0
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

/// Whether a text is a replica number as [`ContractAddress::replica`] writes it.
fn is_replica_number(text: &str) -> bool {
    text.parse().is_ok_and(|number: u32| {
        (2..=ContractAddress::MAX_REPLICAS).contains(&number) && number.to_string() == text
    })
}

impl FromStr for ContractAddress {
    type Err = InvalidAddress;

    /// Parses an address that a caller sent.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.contains('~') {
            return Err(InvalidAddress);
        }
        Self::try_from(text.to_owned())
    }
}

impl TryFrom<String> for ContractAddress {
    type Error = InvalidAddress;

    /// Parses an address that the farm itself has written.
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
