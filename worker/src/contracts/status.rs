//! The state and the counters of one contract. Its task writes them; every part of the worker may
//! read them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use shared::protocol::id::{ContractAddress, WorkerId};
use shared::protocol::image::PinnedImage;
use shared::protocol::job::{ContractSpec, KeptLogs};
use shared::protocol::reply::{ContractState, ContractStatus, LastError};
use shared::protocol::schemas::SchemaText;
use shared::queue::clock::Clock;
use shared::queue::ownership::Sandbox;
use tokio::sync::Notify;

use crate::run_info::micros;
use crate::sandbox::{CallTime, MemoryGauge};

/// The live status of one contract.
#[derive(Debug)]
pub(crate) struct Status {
    sandbox: Mutex<SandboxState>,
    waiting: AtomicU64,
    calls: AtomicU64,
    errors: AtomicU64,
    ran_us: AtomicU64,
    cpu_us: AtomicU64,
    losses: AtomicU64,
    /// Until when its output is stored, in milliseconds by the clock of Redis.
    followed_until: AtomicU64,
    /// Somebody has begun to follow it.
    follow_began: Notify,
    memory: Mutex<Option<MemoryGauge>>,
    last_error: Mutex<Option<LastError>>,
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
    /// The schemas that the contract was loaded with.
    pub(crate) schemas: Option<SchemaText>,
}

impl SandboxState {
    /// What the registry records of it.
    pub(crate) fn record(self) -> Sandbox {
        Sandbox {
            endpoints: self.endpoints,
            image: self.image,
            schemas: self.schemas,
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
            schemas: None,
        };
        Self {
            sandbox: Mutex::new(sandbox),
            waiting: AtomicU64::default(),
            calls: AtomicU64::default(),
            errors: AtomicU64::default(),
            ran_us: AtomicU64::default(),
            cpu_us: AtomicU64::default(),
            losses: AtomicU64::default(),
            followed_until: AtomicU64::default(),
            follow_began: Notify::new(),
            memory: Mutex::default(),
            last_error: Mutex::default(),
        }
    }

    /// The status of the task that replaces this one. It continues the counters.
    pub(crate) fn successor(&self, generation: u64) -> Self {
        let copy = |counter: &AtomicU64| AtomicU64::new(counter.load(Ordering::Relaxed));
        Self {
            calls: copy(&self.calls),
            errors: copy(&self.errors),
            ran_us: copy(&self.ran_us),
            cpu_us: copy(&self.cpu_us),
            losses: copy(&self.losses),
            followed_until: copy(&self.followed_until),
            last_error: Mutex::new(locked(&self.last_error).clone()),
            ..Self::loading(generation)
        }
    }

    /// Changes the state.
    pub(crate) fn enter(&self, state: ContractState) {
        self.lock().state = state;
    }

    /// What is the same for every sandbox of the load: its image, its schemas.
    pub(crate) fn pin(&self, image: Option<PinnedImage>, schemas: Option<SchemaText>) {
        let mut sandbox = self.lock();
        sandbox.image = image;
        sandbox.schemas = schemas;
    }

    /// A new sandbox is ready.
    pub(crate) fn ready(&self, generation: u64, sandbox: Sandbox, memory: Option<MemoryGauge>) {
        *locked(&self.memory) = memory;
        let Sandbox {
            endpoints,
            image,
            schemas,
        } = sandbox;
        *self.lock() = SandboxState {
            state: ContractState::Ready,
            generation,
            endpoints,
            image,
            schemas,
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

    /// A call ended, after it took `time` if it ran.
    pub(crate) fn call_ended(&self, failed: bool, time: Option<CallTime>) {
        let add = |sum: &AtomicU64, time: Option<Duration>| {
            sum.fetch_add(time.map_or(0, micros), Ordering::Relaxed);
        };
        add(&self.ran_us, time.map(|time| time.elapsed));
        add(&self.cpu_us, time.and_then(|time| time.cpu));
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.errors.fetch_add(u64::from(failed), Ordering::Relaxed);
    }

    /// Somebody follows the output until this time, by the clock of Redis.
    pub(crate) fn follow_until(&self, time: u64) {
        self.followed_until.fetch_max(time, Ordering::Relaxed);
        self.follow_began.notify_one();
    }

    /// Waits until somebody begins to follow the output, or nobody does any more. Cancel safe. Only
    /// the contract's task may wait.
    pub(crate) async fn follow_changed(&self, clock: &Clock, is_followed: bool) {
        while self.is_followed_at(clock.now_ms()) == is_followed {
            if is_followed {
                let until = self.followed_until.load(Ordering::Relaxed);
                tokio::time::sleep(clock.until(until)).await;
            } else {
                self.follow_began.notified().await;
            }
        }
    }

    /// Whether somebody follows the output at this time.
    pub(crate) fn is_followed_at(&self, now: u64) -> bool {
        now < self.followed_until.load(Ordering::Relaxed)
    }

    /// A call failed because of the contract.
    pub(crate) fn failed(&self, error: LastError) {
        *locked(&self.last_error) = Some(error);
    }

    /// How much memory the current sandbox holds, and the last failure.
    pub(crate) fn details(&self) -> (Option<u64>, Option<LastError>) {
        let memory = locked(&self.memory).clone();
        let bytes = memory.map(|gauge| gauge.bytes()).filter(|bytes| *bytes > 0);
        (bytes, locked(&self.last_error).clone())
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
            schemas: _,
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
            logs: spec.keep_logs.then_some(KeptLogs::Keep),
            schemas: None,
            queue_depth: Some(self.waiting.load(Ordering::Relaxed)),
            calls: Some(self.calls.load(Ordering::Relaxed)),
            errors: Some(self.errors.load(Ordering::Relaxed)),
            ran_ms: Some(self.ran_us.load(Ordering::Relaxed) / 1000),
            cpu_ms: Some(self.cpu_us.load(Ordering::Relaxed) / 1000),
            losses: Some(self.losses.load(Ordering::Relaxed)),
            memory_bytes: None,
            last_error: None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, SandboxState> {
        locked(&self.sandbox)
    }
}

/// Each value is replaced in one step, so it is valid even if the mutex is poisoned.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
