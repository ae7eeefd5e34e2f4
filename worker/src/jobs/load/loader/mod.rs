//! One load, step by step: claim, start a sandbox, record it, serve.

mod first_sandbox;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use shared::protocol::image::PinnedImage;
use shared::protocol::job::Load;
use shared::queue::ownership::Sandbox;
use shared::queue::references::Reference;

use self::first_sandbox::{Started, facts};
use super::{LoadError, runs_current_image};
use crate::contracts::{
    Assignment, CapacityPermit, ContractHandle, ContractTask, TaskEnds, Tenure,
};
use crate::jobs::execute::not_assigned;
use crate::sandbox::{Engine, Instance, StartError};
use crate::worker::Worker;
use crate::{executables, reconcile};

/// One load in progress.
pub(super) struct Loader<'a, E> {
    worker: &'a Arc<Worker>,
    engine: &'a E,
    load: &'a Load,
    /// Of a contract that was loaded before: what its record has.
    known: Option<Known>,
    /// Whether Redis has not taken the executable.
    unkept: AtomicBool,
}

/// What the record of a contract has that was loaded before.
pub(super) struct Known {
    /// The image that its sandboxes run.
    pub(super) image: Option<PinnedImage>,
    /// The digest of its schemas.
    pub(super) schemas: Option<String>,
}

/// A new contract whose calls are queued already, and whose task is not running yet.
struct Claimed {
    tenure: Arc<Tenure>,
    handle: Arc<ContractHandle>,
    ends: TaskEnds,
}

impl<'a, E: Engine> Loader<'a, E> {
    pub(super) fn new(worker: &'a Arc<Worker>, engine: &'a E, load: &'a Load) -> Self {
        Self {
            worker,
            engine,
            load,
            known: None,
            unkept: AtomicBool::new(false),
        }
    }

    /// Switches an owned contract to another executable, or to the image that its name stands for
    /// now, without dropping a call.
    pub(super) async fn reload(&self) -> Result<(), LoadError> {
        let Self { worker, load, .. } = self;
        let address = &load.address;
        let _lock = worker.contracts.lock(address).await;
        let Some(old) = worker.contracts.get(address) else {
            // If the registry names this worker by mistake, the retry must find the contract
            // unassigned.
            Tenure::release_unknown(worker, address).await?;
            return Err(not_assigned().into());
        };
        if old.spec == load.spec && runs_current_image(self.engine, &old).await? {
            return Ok(());
        }
        let executable = self.fetch().await?;
        let generation = old.tenure.generation();
        let (instance, schemas) = self.start_checked(&executable, generation).await?;
        let facts = facts(&instance, schemas.clone());
        let tenure = match self.switch(&old, &executable, facts).await {
            Ok(Some(tenure)) => tenure,
            refused => {
                instance.close().await;
                // Whatever has become of the record, the comparison finds it out.
                worker.comparison.notify_one();
                refused.map_err(LoadError::after_start)?;
                reconcile::close(worker, address, &old).await;
                return Err(LoadError::from(not_assigned()).after_start());
            }
        };
        let generation = tenure.generation();
        let (handle, ends) = worker
            .contracts
            .successor(&old, load.spec.clone(), tenure.clone());
        handle.keep_executable(executable.clone());
        let status = ends.status.clone();
        let started = Started {
            executable,
            schemas,
            instance: Ok(instance),
        };
        self.spawn_task(tenure, ends, started);
        worker.contracts.replace(address, handle.clone());
        if !worker.contracts.is_current(address, &status) || !self.enter_service(&handle).await {
            reconcile::close(worker, address, &handle).await;
            return Err(LoadError::from(not_assigned()).after_start());
        }
        let (queue, before) = (&worker.queue, old.tenure.reference());
        executables::release(queue, &old.spec.digest, &before).await;
        tracing::info!(contract = %address, generation, "contract switched to another executable");
        Ok(())
    }

    /// Records that the load whose sandbox has started replaces the old one. None if the contract
    /// is not this worker's any more.
    async fn switch(
        &self,
        old: &ContractHandle,
        executable: &str,
        sandbox: Sandbox,
    ) -> Result<Option<Arc<Tenure>>, LoadError> {
        let keep = async |reference: Reference| self.keep(executable, &reference).await;
        let spec = &self.load.spec;
        Ok(old.tenure.switch(spec, &sandbox, keep).await?)
    }

    /// Claims a contract and starts its first sandbox on this worker.
    pub(super) async fn load_new(&self, permit: CapacityPermit) -> Result<(), LoadError> {
        let Self { worker, load, .. } = self;
        let address = &load.address;
        let _lock = worker.contracts.lock(address).await;
        if worker.contracts.owns_replica_of(address) {
            // Of two concurrent loads of one address, the second one is sent through the inbox.
            // Replicas must run on different workers.
            return Err(not_assigned().into());
        }
        let before = worker.queue.contract(address).await?;
        let tenure = Tenure::claim(worker, load).await?;
        let claimed = self.insert(tenure.ok_or_else(not_assigned)?, permit);
        let started = match self.start_and_record(&claimed).await {
            Ok(started) => started,
            Err(error) => {
                let withdrawn = self.withdraw(claimed).await;
                return Err(if withdrawn {
                    error
                } else {
                    error.after_start()
                });
            }
        };
        self.serve(claimed, started).await?;
        if self.unkept.load(Ordering::Relaxed) {
            worker.comparison.notify_one();
        }
        if let Some(before) = before {
            let reference = Reference::new(address, &before.load);
            executables::release(&worker.queue, &before.spec.digest, &reference).await;
        }
        Ok(())
    }

    /// Starts a contract on this worker that has lost its owner.
    pub(super) async fn take_over(
        mut self,
        tenure: Arc<Tenure>,
        known: Known,
        permit: CapacityPermit,
    ) -> Result<(), LoadError> {
        let has_schemas = known.schemas.is_some();
        self.known = Some(known);
        let claimed = self.insert(tenure, permit);
        // Whoever looks while it starts sees the image that it keeps.
        claimed.handle.status.pin(self.image().cloned(), None);
        let started = match self.start_known(&claimed, has_schemas).await {
            Ok(started) => started,
            Err(error) => {
                if error.is_executable_missing() {
                    let (queue, digest) = (&self.worker.queue, &self.load.spec.digest);
                    executables::give_up(queue, &claimed.tenure, digest).await;
                }
                self.withdraw(claimed).await;
                return Err(error);
            }
        };
        if let Err(error @ StartError::ImageMissing(_)) = started.instance {
            claimed.tenure.leave_without_image(self.image()).await;
            self.withdraw(claimed).await;
            return Err(error.into());
        }
        if let Ok(instance) = &started.instance
            && let sandbox = facts(instance, started.schemas.clone())
            && let Err(error) = claimed.tenure.note_sandbox(&sandbox).await
        {
            let contract = &self.load.address;
            tracing::debug!(%contract, %error, "methods and image not recorded");
        }
        self.serve(claimed, started).await
    }

    /// Adds a claimed contract to the table: its calls are queued from now on.
    fn insert(&self, tenure: Arc<Tenure>, permit: CapacityPermit) -> Claimed {
        let Load { address, spec, .. } = self.load;
        let contracts = &self.worker.contracts;
        let (handle, ends) = contracts.insert(address, spec.clone(), tenure.clone(), permit);
        Claimed {
            tenure,
            handle,
            ends,
        }
    }

    /// Starts the task of a contract. It enters service, unless this worker has lost it meanwhile.
    async fn serve(
        &self,
        claimed: Claimed,
        started: Started<E::Instance>,
    ) -> Result<(), LoadError> {
        let Claimed {
            tenure,
            handle,
            ends,
        } = claimed;
        let address = &self.load.address;
        self.log_loaded(&tenure, &started);
        self.spawn_task(tenure, ends, started);
        if !self.enter_service(&handle).await {
            reconcile::close(self.worker, address, &handle).await;
            return Err(LoadError::from(not_assigned()).after_start());
        }
        self.worker.announce().await;
        Ok(())
    }

    /// The contract enters service. False if this worker does not own it any more.
    async fn enter_service(&self, handle: &ContractHandle) -> bool {
        match handle.tenure.enter_service(self.worker).await {
            Ok(is_owner) => is_owner,
            Err(error) => {
                let contract = &self.load.address;
                tracing::debug!(%contract, %error, "ownership not resumed yet");
                self.worker.comparison.notify_one();
                true
            }
        }
    }

    /// Undoes a claim after a failed load. What was loaded before stays loaded. False if it may not
    /// be undone.
    async fn withdraw(&self, claimed: Claimed) -> bool {
        let Claimed {
            tenure,
            handle,
            ends,
        } = claimed;
        let address = &self.load.address;
        let withdrawn = tenure.release().await;
        if let Err(error) = &withdrawn {
            tracing::warn!(contract = %address, %error, "failed load not withdrawn");
            self.worker.comparison.notify_one();
        }
        drop(
            self.worker
                .contracts
                .remove_if_current(address, &handle.status),
        );
        ends.refuse_all(&not_assigned()).await;
        withdrawn.is_ok()
    }

    /// The image that earlier sandboxes of the contract ran.
    fn image(&self) -> Option<&PinnedImage> {
        self.known.as_ref()?.image.as_ref()
    }

    fn log_loaded(&self, tenure: &Tenure, started: &Started<E::Instance>) {
        let (contract, generation) = (&self.load.address, tenure.generation());
        match &started.instance {
            Ok(_) => {
                let engine = self.load.spec.engine;
                tracing::info!(%contract, generation, %engine, "contract loaded");
            }
            Err(error) => {
                tracing::warn!(
                    %contract,
                    generation,
                    %error,
                    "contract taken over without sandbox"
                );
            }
        }
    }

    /// Starts the contract's task. The task retries the start if there is no sandbox yet.
    fn spawn_task(&self, tenure: Arc<Tenure>, ends: TaskEnds, started: Started<E::Instance>) {
        let Started {
            executable,
            schemas,
            instance,
        } = started;
        let resolved = instance.as_ref().ok().and_then(Instance::image);
        let image = resolved.or(self.image()).cloned();
        // A load that follows at once must find it.
        ends.status.pin(image.clone(), schemas.clone());
        let assignment = Assignment {
            engine: self.engine.clone(),
            tenure,
            spec: self.load.spec.clone(),
            executable,
            image,
            schemas,
        };
        let task = ContractTask::new(self.worker.clone(), assignment, ends);
        self.worker.life.spawn("contract", task.run(instance));
    }
}
