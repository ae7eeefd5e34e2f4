//! The hosted contracts: who can be called here, and where the calls wait.
//!
//! A contract's life is a state machine, held by its [`host`] task:
//!
//! ```text
//! Loading --> Ready <--> Restarting
//!     \          \          /    \
//!      `----------`--> Unloading   `--> Quarantined (hosted by nobody)
//! ```
//!
//! Calls queue up in every state but the last. What a call means to a sandbox is
//! [`crate::sandbox`]'s business.

pub(crate) mod host;
mod refusal;
mod restart;
mod status;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use serde_json::value::RawValue;
use shared::protocol::id::ContractAddress;
use shared::protocol::job::ContractSpec;
use shared::protocol::reply::{Failure, FailureCode};
use tokio::sync::{OwnedMutexGuard, OwnedSemaphorePermit, Semaphore, mpsc, watch};

pub(crate) use self::status::Status;
use crate::settle::Delivery;

/// One call that waits for its turn.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) method: String,
    pub(crate) argument: Option<Box<RawValue>>,
    pub(crate) delivery: Delivery,
    /// How often the sandbox was lost under it.
    pub(crate) losses: u32,
}

/// How a host's life ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// It does not: calls are taken and run.
    No,
    /// What runs is finished, what waits is refused with this code.
    Refusing(FailureCode),
}

/// A place for one contract, taken before it is made.
#[derive(Debug)]
pub(crate) struct Place {
    _permit: OwnedSemaphorePermit,
}

/// One contract as its callers see it.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) spec: ContractSpec,
    pub(crate) status: Arc<Status>,
    executable: OnceLock<Arc<str>>,
    calls: mpsc::Sender<Call>,
    stop: watch::Sender<Stop>,
}

/// The host task's ends of a [`Host`].
#[derive(Debug)]
pub(crate) struct HostEnds {
    pub(crate) calls: mpsc::Receiver<Call>,
    pub(crate) stop: watch::Receiver<Stop>,
    pub(crate) status: Arc<Status>,
}

impl Host {
    fn new(spec: ContractSpec, status: Status, queue_limit: usize) -> (Arc<Self>, HostEnds) {
        let (sender, calls) = mpsc::channel(queue_limit);
        let (stop_sender, stop) = watch::channel(Stop::No);
        let status = Arc::new(status);
        let host = Self {
            executable: OnceLock::new(),
            spec,
            status: status.clone(),
            calls: sender,
            stop: stop_sender,
        };
        (
            Arc::new(host),
            HostEnds {
                calls,
                stop,
                status,
            },
        )
    }

    /// Notes what runs, to be able to put it into an empty store again.
    pub(crate) fn keep_executable(&self, executable: Arc<str>) {
        _ = self.executable.set(executable);
    }

    /// What runs, once it is known.
    pub(crate) fn executable(&self) -> Option<&Arc<str>> {
        self.executable.get()
    }

    /// Queues a call, or refuses it.
    pub(crate) fn call(&self, call: Call) {
        self.status.call_arrived();
        let (call, code, message) = match self.calls.try_send(call) {
            Ok(()) => return,
            Err(mpsc::error::TrySendError::Full(call)) => (
                call,
                FailureCode::Rejected,
                "Too many calls wait for the contract",
            ),
            Err(mpsc::error::TrySendError::Closed(call)) => {
                (call, FailureCode::NotHosted, "The contract was closed")
            }
        };
        self.status.call_refused();
        call.delivery.refuse(Failure::not_started(code, message));
    }

    /// Ends the host; waits until its sandbox is closed.
    pub(crate) async fn stop(&self, code: FailureCode) {
        self.stop.send_replace(Stop::Refusing(code));
        // The task drops its receiver when it ends.
        self.stop.closed().await;
    }
}

type Table = HashMap<ContractAddress, Hosted>;

#[derive(Debug)]
struct Hosted {
    host: Arc<Host>,
    place: Place,
}

/// All contracts of this worker.
#[derive(Debug)]
pub(crate) struct Contracts {
    table: Mutex<Table>,
    /// Loads and unloads of one contract take turns, those of its replicas too.
    turns: Mutex<HashMap<ContractAddress, Arc<tokio::sync::Mutex<()>>>>,
    /// The contracts whose record is being mended.
    amended: Arc<Mutex<HashSet<ContractAddress>>>,
    places: Arc<Semaphore>,
    capacity: usize,
    queue_limit: usize,
}

/// A contract's record is being mended until this is dropped.
#[derive(Debug)]
pub(crate) struct Amendment {
    address: ContractAddress,
    all: Arc<Mutex<HashSet<ContractAddress>>>,
}

impl Drop for Amendment {
    fn drop(&mut self) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.remove(&self.address);
    }
}

impl Contracts {
    /// Room for `capacity` contracts, each with a queue of `queue_limit` calls.
    pub(crate) fn new(capacity: usize, queue_limit: usize) -> Self {
        Self {
            table: Mutex::default(),
            turns: Mutex::default(),
            amended: Arc::default(),
            places: Arc::new(Semaphore::new(capacity)),
            capacity,
            queue_limit,
        }
    }

    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    pub(crate) fn len(&self) -> usize {
        self.table().len()
    }

    /// Waits for room for another contract.
    pub(crate) async fn place(&self) -> Place {
        let permit = self.places.clone().acquire_owned().await;
        Place {
            _permit: permit.expect("the semaphore is never closed"),
        }
    }

    /// Waits for the turn to change what is hosted at `address`.
    pub(crate) async fn turn(&self, address: &ContractAddress) -> OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            turns.entry(address.replica(1)).or_default().clone()
        };
        turn.lock_owned().await
    }

    /// Begins to mend a contract's record; none when somebody does so already.
    pub(crate) fn amend(&self, address: &ContractAddress) -> Option<Amendment> {
        let mut all = self.amended.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(address.clone()).then(|| Amendment {
            address: address.clone(),
            all: self.amended.clone(),
        })
    }

    /// Whether a contract, or another replica of it, is hosted here.
    pub(crate) fn has_sibling_of(&self, address: &ContractAddress) -> bool {
        self.table()
            .keys()
            .any(|hosted| hosted.is_sibling_of(address))
    }

    pub(crate) fn get(&self, address: &ContractAddress) -> Option<Arc<Host>> {
        self.table().get(address).map(|hosted| hosted.host.clone())
    }

    pub(crate) fn all(&self) -> Vec<(ContractAddress, Arc<Host>)> {
        self.table()
            .iter()
            .map(|(address, hosted)| (address.clone(), hosted.host.clone()))
            .collect()
    }

    /// Starts to host a contract that was claimed in this generation: from now on its calls queue up.
    pub(crate) fn open(
        &self,
        address: &ContractAddress,
        spec: ContractSpec,
        generation: u64,
        place: Place,
    ) -> (Arc<Host>, HostEnds) {
        let (host, ends) = Host::new(spec, Status::loading(generation), self.queue_limit);
        self.table().insert(
            address.clone(),
            Hosted {
                host: host.clone(),
                place,
            },
        );
        (host, ends)
    }

    /// A host that is to [replace](Self::switch) another one once it is ready.
    pub(crate) fn successor(
        &self,
        of: &Host,
        spec: ContractSpec,
        generation: u64,
    ) -> (Arc<Host>, HostEnds) {
        Host::new(spec, of.status.successor(generation), self.queue_limit)
    }

    /// Sends calls to `host` from now on. The old host finishes what it has, then it ends, since
    /// nobody can send it anything any more.
    pub(crate) fn switch(&self, address: &ContractAddress, host: Arc<Host>) {
        let mut table = self.table();
        if let Some(hosted) = table.get_mut(address) {
            hosted.host = host;
        }
    }

    /// Stops hosting a contract; its place is free when the caller drops it.
    pub(crate) fn remove(&self, address: &ContractAddress) -> Option<(Arc<Host>, Place)> {
        self.table()
            .remove(address)
            .map(|hosted| (hosted.host, hosted.place))
    }

    /// Stops hosting a contract, unless a host with another status has taken its place meanwhile.
    pub(crate) fn remove_served_by(
        &self,
        address: &ContractAddress,
        status: &Arc<Status>,
    ) -> Option<Place> {
        let mut table = self.table();
        if !Arc::ptr_eq(&table.get(address)?.host.status, status) {
            return None;
        }
        table.remove(address).map(|hosted| hosted.place)
    }

    /// Whether the host of a contract is still the one with this status.
    pub(crate) fn is_served_by(&self, address: &ContractAddress, status: &Arc<Status>) -> bool {
        self.table()
            .get(address)
            .is_some_and(|hosted| Arc::ptr_eq(&hosted.host.status, status))
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Nothing in here can panic half-way, so a poisoned table is a whole one.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
