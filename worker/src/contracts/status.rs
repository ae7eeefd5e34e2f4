//! The state and the counters of one contract. Its task writes them; every part of the worker may
//! read them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use shared::protocol::id::{ContractAddress, WorkerId};
use shared::protocol::image::PinnedImage;
use shared::protocol::job::ContractSpec;
use shared::protocol::reply::{ContractState, ContractStatus};
use shared::queue::ownership::Sandbox;

/// The live status of one contract.
#[derive(Debug)]
pub(crate) struct Status {
    sandbox: Mutex<SandboxState>,
    waiting: AtomicU64,
    calls: AtomicU64,
    errors: AtomicU64,
    ran_us: AtomicU64,
    losses: AtomicU64,
}

/// The contract's state, and what is known about its sandbox.
#[derive(Debug, Clone)]
pub(crate) struct SandboxState {
    pub(crate) state: ContractState,
    /// The current generation, or the one that is being loaded.
    pub(crate) generation: u64,
    /// The methods, as far as known.
    pub(crate) endpoints: Vec<String>,
    /// The image that every sandbox of the load runs, once it is resolved.
    pub(crate) image: Option<PinnedImage>,
}

impl SandboxState {
    /// What the registry records of it.
    pub(crate) fn record(self) -> Sandbox {
        Sandbox {
            endpoints: self.endpoints,
            image: self.image,
        }
    }
}

impl Status {
    /// The status of a contract that was claimed in this generation and is not ready yet.
    pub(crate) fn loading(generation: u64) -> Self {
        let sandbox = SandboxState {
            state: ContractState::Loading,
            generation,
            endpoints: Vec::new(),
            image: None,
        };
        Self {
            sandbox: Mutex::new(sandbox),
            waiting: AtomicU64::default(),
            calls: AtomicU64::default(),
            errors: AtomicU64::default(),
            ran_us: AtomicU64::default(),
            losses: AtomicU64::default(),
        }
    }

    /// The status of the task that replaces this one. It continues the counters.
    pub(crate) fn successor(&self, generation: u64) -> Self {
        let copy = |counter: &AtomicU64| AtomicU64::new(counter.load(Ordering::Relaxed));
        Self {
            calls: copy(&self.calls),
            errors: copy(&self.errors),
            ran_us: copy(&self.ran_us),
            losses: copy(&self.losses),
            ..Self::loading(generation)
        }
    }

    /// Changes the state.
    pub(crate) fn enter(&self, state: ContractState) {
        self.lock().state = state;
    }

    /// The contract's image is resolved: every sandbox of the load runs it.
    pub(crate) fn pin(&self, image: Option<PinnedImage>) {
        self.lock().image = image;
    }

    /// A new sandbox is ready.
    pub(crate) fn ready(
        &self,
        generation: u64,
        endpoints: Vec<String>,
        image: Option<PinnedImage>,
    ) {
        *self.lock() = SandboxState {
            state: ContractState::Ready,
            generation,
            endpoints,
            image,
        };
    }

    /// A copy of the contract's state.
    pub(crate) fn sandbox(&self) -> SandboxState {
        self.lock().clone()
    }

    pub(crate) fn state(&self) -> ContractState {
        self.lock().state
    }

    /// The number of calls that wait or run.
    pub(crate) fn waiting(&self) -> u64 {
        self.waiting.load(Ordering::Relaxed)
    }

    pub(crate) fn call_arrived(&self) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn call_refused(&self) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }

    /// A call ended, after it ran for `time` if it ran.
    pub(crate) fn call_ended(&self, failed: bool, time: Option<Duration>) {
        let ran_us = time.map_or(0, |time| {
            u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
        });
        self.ran_us.fetch_add(ran_us, Ordering::Relaxed);
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.errors.fetch_add(u64::from(failed), Ordering::Relaxed);
    }

    /// A sandbox was lost.
    pub(crate) fn sandbox_lost(&self) {
        self.losses.fetch_add(1, Ordering::Relaxed);
    }

    /// The status as the HTTP API shows it.
    pub(crate) fn report(
        &self,
        contract_address: ContractAddress,
        spec: &ContractSpec,
        worker: WorkerId,
    ) -> ContractStatus {
        let SandboxState {
            state,
            generation,
            endpoints,
            image,
        } = self.sandbox();
        let (image, image_source) = image.map(|image| (image.id, image.source)).unzip();
        ContractStatus {
            contract_address,
            tenant: None,
            engine: spec.engine,
            state,
            endpoints,
            host: Some(worker.to_string()),
            replicas: spec.replicas,
            hosts: vec![worker.to_string()],
            generation,
            digest: spec.digest.clone(),
            image,
            image_source: image_source.flatten(),
            limits: None,
            queue_depth: Some(self.waiting.load(Ordering::Relaxed)),
            calls: Some(self.calls.load(Ordering::Relaxed)),
            errors: Some(self.errors.load(Ordering::Relaxed)),
            ran_ms: Some(self.ran_us.load(Ordering::Relaxed) / 1000),
            losses: Some(self.losses.load(Ordering::Relaxed)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, SandboxState> {
        self.sandbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
