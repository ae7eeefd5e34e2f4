//! How many contracts were called lately without an answer of their own.
//!
//! One contract that loops or is called too often is its author's business. When the calls of
//! several contracts end that way, the farm is the cause: alerts tell the two apart by this number.
//! Only calls that end without an answer come here, so those that succeed pay nothing.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a contract counts: at least this time, and less than twice as long.
const WINDOW: Duration = Duration::from_mins(1);

/// The most contracts that are counted in a window. Alerts compare the number with a few.
const MOST: usize = 1000;

/// The contracts whose calls ended without an answer of their own.
#[derive(Debug)]
pub(crate) struct UnansweredContracts {
    hashes: RandomState,
    seen: Mutex<Seen>,
}

/// Hashes of the contracts' names, which callers choose.
#[derive(Debug)]
struct Seen {
    since: Instant,
    current: HashSet<u64>,
    previous: HashSet<u64>,
}

impl Default for UnansweredContracts {
    fn default() -> Self {
        Self {
            hashes: RandomState::new(),
            seen: Mutex::new(Seen {
                since: Instant::now(),
                current: HashSet::new(),
                previous: HashSet::new(),
            }),
        }
    }
}

impl UnansweredContracts {
    /// Counts a contract, by its caller's tenant and the name that its caller used.
    pub(crate) fn add(&self, tenant: Option<&str>, contract: &str, now: Instant) {
        let name = contract.to_ascii_lowercase();
        let hash = self.hashes.hash_one((tenant, name));
        self.at(now, |seen| {
            if seen.current.len() < MOST {
                seen.current.insert(hash);
            }
        });
    }

    /// How many contracts were counted in this window and the last one.
    pub(crate) fn count(&self, now: Instant) -> usize {
        self.at(now, |seen| seen.current.union(&seen.previous).count())
    }

    fn at<T>(&self, now: Instant, act: impl FnOnce(&mut Seen) -> T) -> T {
        // A set is whole after every change, so a poisoned lock holds a valid value.
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let age = now.saturating_duration_since(seen.since);
        if age >= WINDOW {
            let last = std::mem::take(&mut seen.current);
            seen.previous = if age < WINDOW * 2 {
                last
            } else {
                HashSet::new()
            };
            seen.since = now;
        }
        act(&mut seen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_contract_counts_once_and_not_for_long() {
        let contracts = UnansweredContracts::default();
        let start = Instant::now();
        assert_eq!(contracts.count(start), 0);
        for name in ["abcd", "ABCD", "other"] {
            contracts.add(None, name, start);
        }
        assert_eq!(contracts.count(start), 2);
        let next = start + WINDOW;
        contracts.add(Some("acme"), "abcd", next);
        assert_eq!(contracts.count(next), 3);
        assert_eq!(contracts.count(next + WINDOW), 1);
        assert_eq!(contracts.count(next + WINDOW * 5), 0);
    }

    #[test]
    fn the_number_of_contracts_is_bounded() {
        let contracts = UnansweredContracts::default();
        let now = Instant::now();
        for number in 0..2 * MOST {
            contracts.add(None, &number.to_string(), now);
        }
        assert_eq!(contracts.count(now), MOST);
    }
}
