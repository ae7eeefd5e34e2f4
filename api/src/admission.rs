//! Admits or refuses requests. Over the limits, or while the queue is unavailable, a request is
//! refused at once instead of waiting.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use shared::protocol::id::ContractAddress;

use crate::breaker::Breaker;
use crate::error::ApiError;

/// What a request asks for. Requests are refused in this order as the memory of Redis fills up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RequestKind {
    /// It needs memory for as long as the contract stays loaded.
    Load,
    /// It needs memory while it is in progress.
    Call,
    /// It frees memory, so it is never refused for lack of it.
    Unload,
}

/// Issues the permits for requests and calls.
#[derive(Debug)]
pub(crate) struct Admission {
    breaker: Breaker,
    limits: InFlightLimits,
    in_flight: Arc<AtomicUsize>,
    loads: Arc<AtomicUsize>,
    by_contract: Arc<Mutex<HashMap<ContractAddress, usize>>>,
}

/// How many requests may be in progress at once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct InFlightLimits {
    /// Of all kinds.
    pub(crate) all: usize,
    pub(crate) loads: usize,
    /// Calls of one contract.
    pub(crate) per_contract: usize,
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
    pub(crate) fn new(breaker: Breaker, limits: InFlightLimits) -> Self {
        Self {
            breaker,
            limits,
            in_flight: Arc::default(),
            loads: Arc::default(),
            by_contract: Arc::default(),
        }
    }

    /// How many requests are in progress.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// The state of the queue.
    pub(crate) fn breaker(&self) -> &Breaker {
        &self.breaker
    }

    /// Refuses a request that the queue cannot take at the moment. To be asked before its body is
    /// read: a request whose body is not complete holds no permit.
    pub(crate) fn check(&self, kind: RequestKind) -> Result<(), ApiError> {
        self.breaker.state().check(kind)
    }

    /// Admits a request whose body is complete, or refuses it.
    pub(crate) fn admit(&self, kind: RequestKind) -> Result<Permit, ApiError> {
        self.check(kind)?;
        Permit::count(&self.in_flight, self.limits.all).ok_or_else(ApiError::too_many_requests)
    }

    /// Admits a load, or refuses it: loads must not use up the limit of all requests.
    pub(crate) fn admit_load(&self) -> Result<Permit, ApiError> {
        Permit::count(&self.loads, self.limits.loads).ok_or_else(ApiError::too_many_loads)
    }

    /// Admits a call of one contract, or refuses it: calls of one busy contract must not use up the
    /// limit of all requests.
    pub(crate) fn admit_call(&self, address: &ContractAddress) -> Result<ContractPermit, ApiError> {
        let mut counts = self
            .by_contract
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(address.clone()).or_default();
        if *count >= self.limits.per_contract {
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

impl Permit {
    /// Counts one more, unless `limit` is reached.
    fn count(in_flight: &Arc<AtomicUsize>, limit: usize) -> Option<Self> {
        let permit = Self {
            in_flight: in_flight.clone(),
        };
        // Otherwise the permit is dropped, which undoes this.
        (in_flight.fetch_add(1, Ordering::Relaxed) < limit).then_some(permit)
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
    use tokio::time::Instant;

    use super::RequestKind::{Call, Load, Unload};
    use super::*;
    use crate::breaker::tests::answered;

    fn admission(all: usize, loads: usize, per_contract: usize) -> Admission {
        let limits = InFlightLimits {
            all,
            loads,
            per_contract,
        };
        Admission::new(Breaker::default(), limits)
    }

    #[test]
    fn dropping_a_permit_releases_it() {
        let admission = admission(1, 1, 1);
        let permit = admission.admit(Call).unwrap();
        assert!(admission.admit(Call).is_err());
        drop(permit);
        assert!(admission.admit(Call).is_ok());
        assert!(
            admission.admit(Call).is_ok(),
            "a refused request is not counted"
        );
    }

    #[test]
    fn loads_do_not_use_up_the_limit_of_all_requests() {
        let admission = admission(9, 1, 9);
        let load = admission.admit_load().unwrap();
        assert!(admission.admit_load().is_err());
        assert!(admission.admit(Call).is_ok());
        drop(load);
        assert!(admission.admit_load().is_ok());
    }

    #[test]
    fn the_limit_of_one_contract_does_not_affect_another() {
        let admission = admission(9, 1, 1);
        let (one, other) = ("one".parse().unwrap(), "other".parse().unwrap());
        let permit = admission.admit_call(&one).unwrap();
        assert!(admission.admit_call(&one).is_err());
        assert!(admission.admit_call(&other).is_ok());
        drop(permit);
        assert!(admission.admit_call(&one).is_ok());
        assert!(admission.by_contract.lock().unwrap().is_empty());
    }

    #[test]
    fn loads_are_refused_first_then_calls_and_unloads_never() {
        let admitted = |used| {
            let admission = admission(9, 9, 9);
            let probe = answered("one", used, 100);
            admission.breaker.found(&[probe], Instant::now());
            [Load, Call, Unload].map(|kind| admission.admit(kind).is_ok())
        };
        assert_eq!(admitted(70), [true, true, true]);
        assert_eq!(admitted(71), [false, true, true]);
        assert_eq!(admitted(80), [false, true, true]);
        assert_eq!(admitted(81), [false, false, true]);
        assert_eq!(admitted(100), [false, false, true]);
    }
}
