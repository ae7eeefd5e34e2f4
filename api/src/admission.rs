//! Admits or refuses requests. Over the limits, or while the queue is unavailable, a request is
//! refused at once instead of waiting.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use shared::protocol::id::ContractAddress;

use crate::breaker::{Breaker, QueueState};
use crate::error::ApiError;

/// Issues the permits for requests and calls.
#[derive(Debug)]
pub(crate) struct Admission {
    breaker: Breaker,
    limit: usize,
    limit_per_contract: usize,
    in_flight: Arc<AtomicUsize>,
    by_contract: Arc<Mutex<HashMap<ContractAddress, usize>>>,
}

/// Counts one request; released on drop.
#[derive(Debug)]
pub(crate) struct Permit {
    in_flight: Arc<AtomicUsize>,
}

/// Counts one call of a contract; released on drop.
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
            in_flight: Arc::default(),
            by_contract: Arc::default(),
        }
    }

    /// How many requests are in progress.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Whether the queue takes requests.
    pub(crate) fn queue_state(&self) -> QueueState {
        self.breaker.state()
    }

    /// Admits a request, or refuses it.
    pub(crate) fn admit(&self) -> Result<Permit, ApiError> {
        match self.breaker.state() {
            QueueState::Available => {}
            QueueState::Unavailable => return Err(ApiError::queue_unavailable()),
            QueueState::LowMemory => {
                let message = "The queue is low on memory. Try again later".to_owned();
                return Err(ApiError::Overloaded(message));
            }
        }
        let permit = Permit {
            in_flight: self.in_flight.clone(),
        };
        if self.in_flight.fetch_add(1, Ordering::Relaxed) >= self.limit {
            return Err(ApiError::too_many_requests());
        }
        Ok(permit)
    }

    /// Admits a call of one contract, or refuses it: calls of one busy contract must not use up the
    /// limit of all requests.
    pub(crate) fn admit_call(&self, address: &ContractAddress) -> Result<ContractPermit, ApiError> {
        let mut counts = self
            .by_contract
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(address.clone()).or_default();
        if *count >= self.limit_per_contract {
            let message =
                "Too many calls of this contract are in progress. Try again later".to_owned();
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
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
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
    fn dropping_a_permit_releases_it() {
        let admission = Admission::new(Breaker::default(), 1, 1);
        let permit = admission.admit().unwrap();
        assert!(admission.admit().is_err());
        drop(permit);
        assert!(admission.admit().is_ok());
        assert!(
            admission.admit().is_ok(),
            "a refused request is not counted"
        );
    }

    #[test]
    fn the_limit_of_one_contract_does_not_affect_another() {
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
