//! All contracts that this worker owns, the capacity for them, and one lock per contract.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use shared::protocol::id::ContractAddress;
use shared::protocol::job::ContractSpec;
use tokio::sync::{OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};

use super::handle::{ContractHandle, TaskEnds};
use super::status::Status;
use super::tenure::Tenure;

/// Capacity for one contract. A load takes it before it claims the contract.
#[derive(Debug)]
pub(crate) struct CapacityPermit {
    _permit: OwnedSemaphorePermit,
}

type Table = HashMap<ContractAddress, OwnedContract>;

#[derive(Debug)]
struct OwnedContract {
    handle: Arc<ContractHandle>,
    permit: CapacityPermit,
}

/// All contracts of this worker.
#[derive(Debug)]
pub(crate) struct Contracts {
    table: Mutex<Table>,
    /// Serializes the loads and unloads of a contract, including those of its replicas.
    locks: Mutex<HashMap<ContractAddress, Arc<tokio::sync::Mutex<()>>>>,
    /// The contracts whose registry record is being repaired.
    repairs: Arc<Mutex<HashSet<ContractAddress>>>,
    permits: Arc<Semaphore>,
    capacity: usize,
    queue_limit: usize,
}

/// Marks a contract's registry record as being repaired until it is dropped.
#[derive(Debug)]
pub(crate) struct RepairGuard {
    address: ContractAddress,
    repairs: Arc<Mutex<HashSet<ContractAddress>>>,
}

impl Drop for RepairGuard {
    fn drop(&mut self) {
        let mut repairs = self.repairs.lock().unwrap_or_else(PoisonError::into_inner);
        repairs.remove(&self.address);
    }
}

impl Contracts {
    /// Capacity for `capacity` contracts, each with a queue of `queue_limit` calls.
    pub(crate) fn new(capacity: usize, queue_limit: usize) -> Self {
        Self {
            table: Mutex::default(),
            locks: Mutex::default(),
            repairs: Arc::default(),
            permits: Arc::new(Semaphore::new(capacity)),
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

    /// Waits for capacity for another contract.
    pub(crate) async fn capacity_permit(&self) -> CapacityPermit {
        let permit = self.permits.clone().acquire_owned().await;
        CapacityPermit {
            _permit: permit.expect("the semaphore is never closed"),
        }
    }

    /// Waits for the exclusive right to load or unload the contract at `address`.
    pub(crate) async fn lock(&self, address: &ContractAddress) -> OwnedMutexGuard<()> {
        self.lock_of(address).lock_owned().await
    }

    /// The exclusive right to load or unload the contract at `address`, if nobody has it.
    pub(crate) fn try_lock(&self, address: &ContractAddress) -> Option<OwnedMutexGuard<()>> {
        self.lock_of(address).try_lock_owned().ok()
    }

    fn lock_of(&self, address: &ContractAddress) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        locks.retain(|_, lock| Arc::strong_count(lock) > 1);
        locks.entry(address.replica(1)).or_default().clone()
    }

    /// Starts a repair of a contract's registry record. None if one is already in progress.
    pub(crate) fn begin_repair(&self, address: &ContractAddress) -> Option<RepairGuard> {
        let mut repairs = self.repairs.lock().unwrap_or_else(PoisonError::into_inner);
        repairs.insert(address.clone()).then(|| RepairGuard {
            address: address.clone(),
            repairs: self.repairs.clone(),
        })
    }

    /// Whether this worker owns the contract or another replica of it.
    pub(crate) fn owns_replica_of(&self, address: &ContractAddress) -> bool {
        self.table()
            .keys()
            .any(|owned| owned.is_sibling_of(address))
    }

    pub(crate) fn get(&self, address: &ContractAddress) -> Option<Arc<ContractHandle>> {
        self.table().get(address).map(|owned| owned.handle.clone())
    }

    pub(crate) fn all(&self) -> Vec<(ContractAddress, Arc<ContractHandle>)> {
        self.table()
            .iter()
            .map(|(address, owned)| (address.clone(), owned.handle.clone()))
            .collect()
    }

    /// Adds a contract that was claimed. Its calls are queued from now on.
    pub(crate) fn insert(
        &self,
        address: &ContractAddress,
        spec: ContractSpec,
        tenure: Arc<Tenure>,
        permit: CapacityPermit,
    ) -> (Arc<ContractHandle>, TaskEnds) {
        let status = Status::loading(tenure.generation());
        let (handle, ends) = ContractHandle::new(spec, tenure, status, self.queue_limit);
        let owned = OwnedContract {
            handle: handle.clone(),
            permit,
        };
        self.table().insert(address.clone(), owned);
        (handle, ends)
    }

    /// Creates the handle that will [replace](Self::replace) the current one once it is ready.
    pub(crate) fn successor(
        &self,
        current: &ContractHandle,
        spec: ContractSpec,
        tenure: Arc<Tenure>,
    ) -> (Arc<ContractHandle>, TaskEnds) {
        let status = current.status.successor(tenure.generation());
        ContractHandle::new(spec, tenure, status, self.queue_limit)
    }

    /// Sends new calls to `handle`. The old task finishes the calls that it has and then ends,
    /// because its queue is closed.
    pub(crate) fn replace(&self, address: &ContractAddress, handle: Arc<ContractHandle>) {
        let mut table = self.table();
        if let Some(owned) = table.get_mut(address) {
            owned.handle = handle;
        }
    }

    /// Removes a contract. Its capacity is free once the caller drops the permit.
    pub(crate) fn remove(
        &self,
        address: &ContractAddress,
    ) -> Option<(Arc<ContractHandle>, CapacityPermit)> {
        self.table()
            .remove(address)
            .map(|owned| (owned.handle, owned.permit))
    }

    /// Removes a contract, unless its handle was replaced and has another status now.
    pub(crate) fn remove_if_current(
        &self,
        address: &ContractAddress,
        status: &Arc<Status>,
    ) -> Option<CapacityPermit> {
        let mut table = self.table();
        if !Arc::ptr_eq(&table.get(address)?.handle.status, status) {
            return None;
        }
        table.remove(address).map(|owned| owned.permit)
    }

    /// Whether the contract's current handle has this status.
    pub(crate) fn is_current(&self, address: &ContractAddress, status: &Arc<Status>) -> bool {
        self.table()
            .get(address)
            .is_some_and(|owned| Arc::ptr_eq(&owned.handle.status, status))
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // No code panics between two related changes, so a poisoned table is consistent.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
