//! How a contract fares: written by its host task, read by whoever asks.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use shared::protocol::id::{ContractAddress, WorkerId};
use shared::protocol::job::ContractSpec;
use shared::protocol::reply::{ContractState, ContractStatus};

/// The state of one host.
#[derive(Debug)]
pub(crate) struct Status {
    now: Mutex<Now>,
    waiting: AtomicU64,
    calls: AtomicU64,
    errors: AtomicU64,
}

#[derive(Debug, Clone)]
struct Now {
    state: ContractState,
    generation: u64,
    endpoints: Vec<String>,
    image: Option<String>,
}

impl Status {
    /// The status of a host that was claimed in this generation, and does not serve yet.
    pub(crate) fn loading(generation: u64) -> Self {
        let now = Now {
            state: ContractState::Loading,
            generation,
            endpoints: Vec::new(),
            image: None,
        };
        Self {
            now: Mutex::new(now),
            waiting: AtomicU64::default(),
            calls: AtomicU64::default(),
            errors: AtomicU64::default(),
        }
    }

    /// The status of a host that replaces this one: its counts go on.
    pub(crate) fn successor(&self, generation: u64) -> Self {
        Self {
            calls: AtomicU64::new(self.calls.load(Ordering::Relaxed)),
            errors: AtomicU64::new(self.errors.load(Ordering::Relaxed)),
            ..Self::loading(generation)
        }
    }

    /// Changes the state.
    pub(crate) fn enter(&self, state: ContractState) {
        self.now().state = state;
    }

    /// A fresh sandbox serves.
    pub(crate) fn ready(&self, generation: u64, endpoints: Vec<String>, image: Option<String>) {
        *self.now() = Now {
            state: ContractState::Ready,
            generation,
            endpoints,
            image,
        };
    }

    /// The generation that serves, or shall, its endpoints and its image as far as they are known.
    pub(crate) fn serves(&self) -> (u64, Vec<String>, Option<String>) {
        let now = self.now();
        (now.generation, now.endpoints.clone(), now.image.clone())
    }

    pub(crate) fn state(&self) -> ContractState {
        self.now().state
    }

    /// Calls that wait or run.
    pub(crate) fn waiting(&self) -> u64 {
        self.waiting.load(Ordering::Relaxed)
    }

    pub(crate) fn generation(&self) -> u64 {
        self.now().generation
    }

    pub(crate) fn call_arrived(&self) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn call_refused(&self) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn call_ended(&self, failed: bool) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.errors.fetch_add(u64::from(failed), Ordering::Relaxed);
    }

    /// What a caller is told.
    pub(crate) fn report(
        &self,
        contract_address: ContractAddress,
        spec: &ContractSpec,
        worker: WorkerId,
    ) -> ContractStatus {
        let Now {
            state,
            generation,
            endpoints,
            image,
        } = self.now().clone();
        ContractStatus {
            contract_address,
            engine: spec.engine,
            state,
            endpoints,
            host: Some(worker.to_string()),
            replicas: spec.replicas,
            hosts: vec![worker.to_string()],
            generation,
            digest: spec.digest.clone(),
            image,
            queue_depth: self.waiting.load(Ordering::Relaxed),
            calls: self.calls.load(Ordering::Relaxed),
            errors: self.errors.load(Ordering::Relaxed),
        }
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
