//! One worker's ownership of one contract, from the claim on.
//!
//! This is the only part of the worker that calls the scripts of the registry. Each call names this
//! worker and the generation that it holds, and Redis refuses it if the record says otherwise. A
//! refusal ends the ownership: the contract must be closed here.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use shared::protocol::id::{ContractAddress, WorkerId};
use shared::protocol::image::PinnedImage;
use shared::protocol::job::{ContractSpec, EngineKind, Load};
use shared::queue::ownership::{ChangeId, Host, LoadId, Outcome, Ownership, Sandbox, Standing};
use shared::queue::references::Reference;
use shared::queue::{Queue, QueueError};
use shared::service::backoff::Backoff;

use crate::worker::Worker;

/// How often a script that got no answer is sent before its outcome counts as unknown.
const ATTEMPTS: u32 = 3;

/// The ownership of one contract by one load.
#[derive(Debug)]
pub(crate) struct Tenure {
    queue: Queue,
    address: ContractAddress,
    load: LoadId,
    held: Mutex<Held>,
    /// Held while a script is under way: each one names the generation that the last one left.
    turn: tokio::sync::Mutex<()>,
    /// Whether the contract has entered service. Until then the load that is in progress decides.
    in_service: AtomicBool,
}

/// A contract that this worker has claimed because it had no owner.
#[derive(Debug)]
pub(crate) struct Adopted {
    pub(crate) tenure: Arc<Tenure>,
    pub(crate) spec: ContractSpec,
    /// The image that was resolved at the load, if the executable is an image.
    pub(crate) image: Option<PinnedImage>,
    /// The digest of its schemas, if it was loaded with some.
    pub(crate) schemas: Option<String>,
}

/// What this worker holds.
#[derive(Debug, Clone, Copy)]
struct Held {
    worker: WorkerId,
    generation: u64,
}

impl Tenure {
    fn new(
        queue: &Queue,
        address: &ContractAddress,
        load: LoadId,
        worker: WorkerId,
        generation: u64,
    ) -> Arc<Self> {
        Arc::new(Self {
            queue: queue.clone(),
            address: address.clone(),
            load,
            held: Mutex::new(Held { worker, generation }),
            turn: tokio::sync::Mutex::default(),
            in_service: AtomicBool::new(false),
        })
    }

    /// Claims a contract for a load that a caller asked for. None if another worker owns it, or if
    /// the contract has changed since the load was asked for.
    pub(crate) async fn claim(
        worker: &Worker,
        load: &Load,
    ) -> Result<Option<Arc<Self>>, QueueError> {
        let (queue, address) = (&worker.queue, &load.address);
        let Standing { owner, generation } = queue.ownership(address).await?.standing;
        if load.seen.is_some_and(|seen| seen != generation) {
            return Ok(None);
        }
        let Some(id) = worker.may_claim().await else {
            return Ok(None);
        };
        if let Some(owner) = owner
            && !queue.fate(owner).await?.may_be_replaced()
        {
            return Ok(None);
        }
        let expected = Standing { owner, generation };
        let claimed = queue
            .claim(address, expected, id, Some(&load.spec))
            .await?
            .done();
        Ok(claimed
            .map(|generation| Self::new(queue, address, LoadId::new(generation), id, generation)))
    }

    /// Claims a contract that is loaded for this `engine`, has no owner and is not quarantined.
    /// Otherwise returns none. What is loaded is in the record.
    pub(crate) async fn adopt(
        worker: &Worker,
        address: &ContractAddress,
        engine: EngineKind,
    ) -> Result<Option<Adopted>, QueueError> {
        let queue = &worker.queue;
        let Some(record) = queue.contract(address).await? else {
            return Ok(None);
        };
        let is_quarantined = record.quarantined_until > queue.clock().now_ms();
        if record.owner.is_some() || is_quarantined || record.spec.engine != engine {
            return Ok(None);
        }
        let Some(id) = worker.may_claim().await else {
            return Ok(None);
        };
        let claimed = queue.claim(address, record.standing(), id, None).await?;
        Ok(claimed.done().map(|generation| Adopted {
            tenure: Self::new(queue, address, record.load, id, generation),
            spec: record.spec,
            image: record.image,
            schemas: record.schemas,
        }))
    }

    /// Ends the ownership of a contract that the registry assigns to this worker by mistake: a
    /// claim's answer was lost, or a claim could not be withdrawn. Offers the contract to the
    /// others. Returns whether there was something to do.
    pub(crate) async fn release_unknown(
        worker: &Worker,
        address: &ContractAddress,
    ) -> Result<bool, QueueError> {
        let queue = &worker.queue;
        let standing = queue.ownership(address).await?.standing;
        if standing.owner != Some(worker.id()) {
            return Ok(false);
        }
        let dropped = queue.drop_ownership(address, standing).await?;
        if dropped.done().is_some()
            && let Some(record) = queue.contract(address).await?
        {
            queue.offer(address.clone(), record.spec).await?;
        }
        Ok(dropped.done().is_some())
    }

    pub(crate) fn address(&self) -> &ContractAddress {
        &self.address
    }

    /// The reference of the load to its executable.
    pub(crate) fn reference(&self) -> Reference {
        Reference::new(&self.address, &self.load)
    }

    pub(crate) fn generation(&self) -> u64 {
        self.held().generation
    }

    /// The id under which this process owns the contract.
    pub(crate) fn worker(&self) -> WorkerId {
        self.held().worker
    }

    /// Whether the contract has entered service.
    pub(crate) fn is_in_service(&self) -> bool {
        self.in_service.load(Ordering::SeqCst)
    }

    /// The contract enters service. False if this worker has had to take another id meanwhile and
    /// cannot keep the contract.
    pub(crate) async fn enter_service(&self, worker: &Worker) -> Result<bool, QueueError> {
        // From here on, a worker that takes another id resumes this ownership itself.
        self.in_service.store(true, Ordering::SeqCst);
        if self.worker() == worker.id() {
            return Ok(true);
        }
        let Some(id) = worker.may_claim().await else {
            return Ok(false);
        };
        Ok(self.resume(id).await?.done().is_some())
    }

    /// Records that the load has succeeded. False if this worker is no longer the owner.
    pub(crate) async fn record_load(
        &self,
        spec: &ContractSpec,
        sandbox: &Sandbox,
    ) -> Result<bool, QueueError> {
        let record = async |standing| {
            let load = (&self.load, spec);
            let queue = &self.queue;
            queue
                .record_load(&self.address, standing, load, sandbox)
                .await
        };
        Ok(self.change(record).await?.is_some())
    }

    /// Records that another load has replaced this one. Returns its ownership, or none if this
    /// worker is no longer the owner.
    ///
    /// `keep` adds the reference of the new load. The generation does not change in between:
    /// otherwise the sweep could take the reference for one of a load that has failed.
    pub(crate) async fn switch(
        &self,
        spec: &ContractSpec,
        sandbox: &Sandbox,
        keep: impl AsyncFnOnce(Reference) -> Result<(), QueueError>,
    ) -> Result<Option<Arc<Self>>, QueueError> {
        let _turn = self.turn.lock().await;
        let Held { worker, generation } = self.held();
        let load = LoadId::new(generation);
        keep(Reference::new(&self.address, &load)).await?;
        let standing = Standing::of(worker, generation);
        let (queue, address) = (&self.queue, &self.address);
        let mut backoff = Backoff::redis();
        let mut attempt = 1;
        // The script answers the same when it is repeated.
        let switched = loop {
            let load = (&load, spec);
            match queue.switch_load(address, standing, load, sandbox).await {
                Err(_) if attempt < ATTEMPTS => backoff.wait().await,
                answer => break answer?,
            }
            attempt += 1;
        };
        let generation = switched.done();
        Ok(generation.map(|generation| Self::new(queue, address, load, worker, generation)))
    }

    /// Starts a new generation for a restarted sandbox. False if this worker is no longer the
    /// owner.
    ///
    /// A call that got no answer is repeated with the same `change`.
    pub(super) async fn raise_generation(&self, change: &ChangeId) -> Result<bool, QueueError> {
        let (queue, address) = (&self.queue, &self.address);
        let raise = async |standing| queue.raise_generation(address, standing, change).await;
        Ok(self.change(raise).await?.is_some())
    }

    /// Stores the methods of the running sandbox and the image that it runs. False if this worker
    /// is no longer the owner.
    pub(crate) async fn note_sandbox(&self, sandbox: &Sandbox) -> Result<bool, QueueError> {
        let note = async |standing| {
            let queue = &self.queue;
            queue.note_sandbox(&self.address, standing, sandbox).await
        };
        Ok(self.change(note).await?.is_some())
    }

    /// Ends the ownership. A contract that is loaded stays so, without an owner. False if this
    /// worker was not the owner any more.
    pub(crate) async fn release(&self) -> Result<bool, QueueError> {
        let drop = async |standing| self.queue.drop_ownership(&self.address, standing).await;
        Ok(self.change(drop).await?.is_some())
    }

    /// Unloads the contract. False if this worker is no longer the owner.
    pub(crate) async fn unload(&self) -> Result<bool, QueueError> {
        let unload = async |standing| self.queue.unload(&self.address, standing).await;
        Ok(self.change(unload).await?.is_some())
    }

    /// Ends the ownership and quarantines the contract: no worker may claim it for
    /// `quarantine_ms`, unless it is loaded again. False if this worker was not the owner any more.
    pub(super) async fn quarantine(&self, quarantine_ms: u64) -> Result<bool, QueueError> {
        let (queue, address) = (&self.queue, &self.address);
        let quarantine = async |standing| queue.quarantine(address, standing, quarantine_ms).await;
        let is_done = self.change(quarantine).await?.is_some();
        if is_done {
            let fields = [
                ("kind", "quarantine"),
                ("contract", address.as_str()),
                ("reason", "its sandbox crashed repeatedly"),
            ];
            queue.record_dead_letter(&fields).await?;
        }
        Ok(is_done)
    }

    /// Ends the ownership, because this worker cannot get the contract's `image`. Other workers are
    /// offered the contract from time to time.
    pub(crate) async fn leave_without_image(&self, image: Option<&PinnedImage>) {
        let _turn = self.turn.lock().await;
        let Held { worker, generation } = self.held();
        let standing = Standing::of(worker, generation);
        let left = self
            .queue
            .leave_without_image(&self.address, standing, image);
        if let Err(error) = left.await {
            tracing::warn!(contract = %self.address, %error, "missing image not recorded");
        }
    }

    /// Goes on with the ownership under another id of this process.
    pub(crate) async fn resume(&self, worker: WorkerId) -> Result<Outcome, QueueError> {
        let _turn = self.turn.lock().await;
        let held = self.held();
        if held.worker == worker {
            return Ok(Outcome::Done(held.generation));
        }
        let earlier = Standing::of(held.worker, held.generation);
        let outcome = self
            .queue
            .resume_ownership(&self.address, earlier, worker, &self.load)
            .await?;
        if outcome.done().is_some() {
            self.lock().worker = worker;
        }
        Ok(outcome)
    }

    /// Writes the record back. Refused if it is newer, or if another worker owns the contract.
    pub(crate) async fn restore(
        &self,
        worker: WorkerId,
        spec: &ContractSpec,
        sandbox: Sandbox,
    ) -> Result<Outcome, QueueError> {
        let _turn = self.turn.lock().await;
        let host = Host {
            generation: self.generation(),
            load: self.load.clone(),
            spec: spec.clone(),
            sandbox,
        };
        let outcome = self
            .queue
            .restore_ownership(&self.address, worker, &host)
            .await?;
        if outcome.done().is_some() {
            self.lock().worker = worker;
        }
        Ok(outcome)
    }

    /// Compares the ownership with the record, which is read while no script is under way.
    pub(crate) async fn compare(&self) -> Result<Comparison, QueueError> {
        let _turn = self.turn.lock().await;
        let found = self.queue.ownership(&self.address).await?;
        Ok(self.compare_with(&found))
    }

    /// Compares the ownership with what a record says.
    pub(crate) fn compare_with(&self, found: &Ownership) -> Comparison {
        let Held { worker, generation } = self.held();
        let standing = found.standing;
        let is_same = standing.generation == generation;
        let is_own = standing.owner == Some(worker) && is_same;
        let is_free = found.load.is_some() && standing.owner.is_none() && is_same;
        if is_own && found.load.as_ref() == Some(&self.load) {
            Comparison::Equal
        } else if is_own || standing.generation < generation || (is_free && !found.quarantined) {
            Comparison::Older
        } else {
            Comparison::Newer
        }
    }

    /// Runs one script in its turn, and keeps the generation that it returns.
    async fn change(
        &self,
        script: impl AsyncFnOnce(Standing) -> Result<Outcome, QueueError>,
    ) -> Result<Option<u64>, QueueError> {
        let _turn = self.turn.lock().await;
        let Held { worker, generation } = self.held();
        let generation = script(Standing::of(worker, generation)).await?.done();
        if let Some(generation) = generation {
            self.lock().generation = generation;
        }
        Ok(generation)
    }

    fn held(&self) -> Held {
        *self.lock()
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        // Each field is written in one step, so the value is valid even if the mutex is poisoned.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a record compares with the ownership that this worker holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Comparison {
    Equal,
    /// Redis has lost the record, or an update of it: it can be restored.
    Older,
    /// The contract has another owner, was unloaded or is quarantined.
    Newer,
}
