//! By what contracts are ranked, for an operator who looks for the one that causes trouble.
//!
//! ```
//! use shared::protocol::rank::Rank;
//!
//! assert_eq!("losses".parse(), Ok(Rank::Losses));
//! assert!("name".parse::<Rank>().is_err());
//! ```

use serde::{Deserialize, Serialize};

use super::reply::ContractStatus;

/// By what contracts are ranked, the highest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub enum Rank {
    /// Sandboxes that were lost.
    Losses,
    /// Calls that were completed.
    Calls,
    /// Completed calls that failed.
    Errors,
    /// Calls that wait or run.
    QueueDepth,
    /// The time that completed calls ran.
    RanMs,
}

/// How many contracts are asked for, and by what they are ranked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Top {
    /// By what.
    pub by: Rank,
    /// How many.
    pub count: usize,
}

impl Rank {
    /// All of them, with the names that callers use.
    pub const ALL: [(&str, Self); 5] = [
        ("losses", Self::Losses),
        ("calls", Self::Calls),
        ("errors", Self::Errors),
        ("queueDepth", Self::QueueDepth),
        ("ranMs", Self::RanMs),
    ];

    /// The figure of a contract that decides its rank. 0 if it is not known.
    pub fn of(self, contract: &ContractStatus) -> u64 {
        let figure = match self {
            Self::Losses => contract.losses,
            Self::Calls => contract.calls,
            Self::Errors => contract.errors,
            Self::QueueDepth => contract.queue_depth,
            Self::RanMs => contract.ran_ms,
        };
        figure.unwrap_or_default()
    }

    /// Keeps the `count` first contracts, in their order.
    pub fn keep_first(self, contracts: &mut Vec<ContractStatus>, count: usize) {
        contracts.sort_by_key(|contract| std::cmp::Reverse(self.of(contract)));
        contracts.truncate(count);
    }
}

impl std::str::FromStr for Rank {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.iter().find(|(name, _)| *name == text);
        found.map(|(_, rank)| *rank).ok_or_else(|| {
            let names = Self::ALL.map(|(name, _)| name).join(", ");
            format!("must be one of {names}")
        })
    }
}
