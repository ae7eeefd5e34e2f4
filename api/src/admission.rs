//! Whether a request may begin: beyond the limits one is refused at once instead of queued, and
//! so is every one while the queue cannot take it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use shared::protocol::id::ContractAddress;

use crate::breaker::{Breaker, State};
use crate::error::ApiError;

/// Hands out permits.
#[derive(Debug)]
pub(crate) struct Admission {
    breaker: Breaker,
    limit: usize,
    limit_per_contract: usize,
    under_way: Arc<AtomicUsize>,
    by_contract: Arc<Mutex<HashMap<ContractAddress, usize>>>,
}

/// One request's place; given back on drop.
#[derive(Debug)]
pub(crate) struct Permit {
    under_way: Arc<AtomicUsize>,
}

/// One call's place among its contract's; given back on drop.
#[derive(Debug)]
pub(crate) struct ContractPermit {
    address: ContractAddress,
    by_contract: Arc<Mutex<HashMap<ContractAddress, usize>>>,
}

impl Admission {
    pub(crate) fn new(breaker: Breaker, limit: usize, limit_per_contract: usize) -> Self {
        Self {
            breaker,
            limit,
            limit_per_contract,
            under_way: Arc::default(),
            by_contract: Arc::default(),
        }
    }

    /// How many requests are under way.
    pub(crate) fn under_way(&self) -> usize {
        self.under_way.load(Ordering::Relaxed)
    }

    /// What the queue can do.
    pub(crate) fn queue_state(&self) -> State {
        self.breaker.state()
    }

    /// Takes a permit, or refuses.
    pub(crate) fn admit(&self) -> Result<Permit, ApiError> {
        match self.breaker.state() {
            State::Closed => {}
            State::Open => {
                let message = "The queue is unavailable at the moment".to_owned();
                return Err(ApiError::QueueUnavailable(message));
            }
            State::Short => {
                let message = "The queue is short of memory".to_owned();
                return Err(ApiError::Overloaded(message));
            }
        }
        let permit = Permit {
            under_way: self.under_way.clone(),
        };
        if self.under_way.fetch_add(1, Ordering::Relaxed) >= self.limit {
            let message = "Too many requests are under way".to_owned();
            return Err(ApiError::Overloaded(message));
        }
        Ok(permit)
    }

    /// Takes a permit for a call of one contract, or refuses: a contract that everybody calls
    /// must not take the places of all others.
    pub(crate) fn admit_call(&self, address: &ContractAddress) -> Result<ContractPermit, ApiError> {
        let mut counts = self
            .by_contract
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(address.clone()).or_default();
        if *count >= self.limit_per_contract {
            let message = "Too many calls of the contract are under way".to_owned();
            return Err(ApiError::Overloaded(message));
        }
        *count += 1;
        drop(counts);
        Ok(ContractPermit {
            address: address.clone(),
            by_contract: self.by_contract.clone(),
        })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for ContractPermit {
    fn drop(&mut self) {
        let mut counts = self
            .by_contract
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_permit_returns_on_drop() {
        let admission = Admission::new(Breaker::default(), 1, 1);
        let permit = admission.admit().unwrap();
        assert!(admission.admit().is_err());
        drop(permit);
        assert!(admission.admit().is_ok());
        assert!(
            admission.admit().is_ok(),
            "a refusal gives its place back, too"
        );
    }

    #[test]
    fn one_contract_does_not_take_anothers_places() {
        let admission = Admission::new(Breaker::default(), 9, 1);
        let (one, other) = ("one".parse().unwrap(), "other".parse().unwrap());
        let permit = admission.admit_call(&one).unwrap();
        assert!(admission.admit_call(&one).is_err());
        assert!(admission.admit_call(&other).is_ok());
        drop(permit);
        assert!(admission.admit_call(&one).is_ok());
        assert!(admission.by_contract.lock().unwrap().is_empty());
    }
}
