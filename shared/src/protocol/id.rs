//! Identifiers of jobs and processes, and the addresses of contracts.
//!
//! Only the identifiers are defined here. What they identify is defined where it is used.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use super::address::{ContractAddress, InvalidAddress};

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
