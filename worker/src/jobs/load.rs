//! Loads a contract: a new one from the placement stream, or another executable for a contract that
//! this worker owns.

use std::sync::Arc;
use std::time::Instant;

use shared::protocol::job::{ContractSpec, EngineKind, Load};
use shared::protocol::reply::{Failure, FailureCode, Output};
use shared::queue::QueueError;

use super::execute::not_assigned;
use super::load_record::LoadRecord;
use crate::contracts::{
    Assignment, CapacityPermit, ContractHandle, ContractTask, TaskEnds, Tenure,
};
use crate::sandbox::{Blueprint, Engine, Instance, StartError};
use crate::settle::{Delivery, RunInfo};
use crate::worker::Worker;

/// Why a contract is not loaded.
#[derive(Debug, thiserror::Error)]
enum LoadError {
    /// The caller gets this failure.
    #[error(transparent)]
    Failed(#[from] Failure),
    /// Redis failed.
    #[error(transparent)]
    Queue(#[from] QueueError),
}

impl LoadError {
    /// The same failure of a load that may have been carried out.
    fn after_start(self) -> Self {
        match self {
            Self::Failed(failure) => Self::Failed(Failure {
                started: true,
                ..failure
            }),
            other @ Self::Queue(_) => other,
        }
    }
}

impl From<StartError> for LoadError {
    fn from(error: StartError) -> Self {
        Self::Failed(match error {
            StartError::Invalid(message) => {
                Failure::started(FailureCode::InvalidExecutable, message)
            }
            // The contract may have been claimed, and its code may have run.
            StartError::Unavailable(message) => {
                Failure::started(FailureCode::SandboxUnavailable, message)
            }
        })
    }
}

/// Why a contract from the placement stream is to be loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LoadReason {
    /// A caller requested the load and awaits the outcome.
    Requested,
    /// The contract's owner is gone. The contract has run before, so a sandbox that does not start
    /// at once is retried.
    Failover,
}

/// Runs a load from the inbox: the sender considers this worker the contract's owner.
pub(crate) async fn reload(worker: Arc<Worker>, load: Load, delivery: Delivery) {
    let outcome = match (load.spec.engine, &worker.chromium, &worker.docker) {
        (EngineKind::Javascript, Some(engine), _) => {
            Loader::new(&worker, engine, &load).reload().await
        }
        (EngineKind::Docker, _, Some(engine)) => Loader::new(&worker, engine, &load).reload().await,
        (engine, ..) => Err(no_engine(engine)),
    };
    delivery.settle(reply_to(&load, outcome), RunInfo::default());
}

/// Runs a load from the placement stream: this worker is to become the contract's owner.
pub(crate) async fn load_new(
    worker: &Arc<Worker>,
    load: &Load,
    permit: CapacityPermit,
    reason: LoadReason,
) -> Result<Output, Failure> {
    let outcome = match (load.spec.engine, &worker.chromium, &worker.docker) {
        (EngineKind::Javascript, Some(engine), _) => {
            Loader::new(worker, engine, load)
                .load_new(permit, reason)
                .await
        }
        (EngineKind::Docker, _, Some(engine)) => {
            Loader::new(worker, engine, load)
                .load_new(permit, reason)
                .await
        }
        (engine, ..) => Err(no_engine(engine)),
    };
    reply_to(load, outcome)
}

fn no_engine(engine: EngineKind) -> LoadError {
    let message = format!("This worker does not offer {engine} contracts");
    Failure::not_started(FailureCode::NoCapacity, message).into()
}

fn reply_to(load: &Load, outcome: Result<(), LoadError>) -> Result<Output, Failure> {
    match outcome {
        Ok(()) => Ok(Output::Done),
        Err(LoadError::Failed(failure)) => Err(failure),
        Err(LoadError::Queue(error)) => {
            tracing::warn!(contract = %load.address, %error, "load failed");
            let message = "The queue is unavailable; the contract may be loaded; try again later";
            Err(Failure::started(FailureCode::SandboxUnavailable, message))
        }
    }
}

/// One load in progress.
struct Loader<'a, E> {
    worker: &'a Arc<Worker>,
    engine: &'a E,
    load: &'a Load,
}

/// A new contract whose calls are queued already, and whose task is not running yet.
struct Claimed {
    tenure: Tenure,
    handle: Arc<ContractHandle>,
    ends: TaskEnds,
    /// What was loaded at the address before the claim.
    before: Option<ContractSpec>,
}

/// An executable, and the outcome of starting its first sandbox.
struct Started<I> {
    executable: Arc<str>,
    instance: Result<I, StartError>,
}

impl<'a, E: Engine> Loader<'a, E> {
    fn new(worker: &'a Arc<Worker>, engine: &'a E, load: &'a Load) -> Self {
        Self {
            worker,
            engine,
            load,
        }
    }

    /// Switches an owned contract to another executable, without dropping a call.
    async fn reload(&self) -> Result<(), LoadError> {
        let Self { worker, load, .. } = self;
        let address = &load.address;
        let _lock = worker.contracts.lock(address).await;
        let Some(old) = worker.contracts.get(address) else {
            // The registry names this worker by mistake. The retry must find the contract
            // unassigned.
            worker.queue.release(address, worker.id).await?;
            return Err(not_assigned().into());
        };
        if old.spec == load.spec {
            return Ok(());
        }
        let executable = self.fetch().await?;
        let next = old.status.generation() + 1;
        let instance = self.start(&executable, next).await?;
        let tenure = match self.claim().await {
            Ok(tenure) => tenure,
            Err(error) => {
                instance.close().await;
                return Err(error.after_start());
            }
        };
        let generation = tenure.generation();
        let (handle, ends) = worker
            .contracts
            .successor(&old, load.spec.clone(), generation);
        handle.keep_executable(executable.clone());
        let started = Started {
            executable,
            instance: Ok(instance),
        };
        self.spawn_task(tenure, ends, started).await;
        worker.contracts.replace(address, handle);
        if old.spec.digest != load.spec.digest {
            worker.queue.release_blob(&old.spec.digest, address).await?;
        }
        tracing::info!(contract = %address, generation, "contract switched to another executable");
        Ok(())
    }

    /// Claims a contract and starts its first sandbox on this worker.
    async fn load_new(&self, permit: CapacityPermit, reason: LoadReason) -> Result<(), LoadError> {
        let Self { worker, load, .. } = self;
        let address = &load.address;
        let _lock = worker.contracts.lock(address).await;
        if worker.contracts.owns_replica_of(address) {
            // Of two concurrent loads of one address, the second one is sent through the inbox.
            // Replicas must run on different workers.
            return Err(not_assigned().into());
        }
        let before = worker.queue.contract(address).await?;
        let tenure = self.claim().await?;
        let spec = load.spec.clone();
        let (handle, ends) = worker
            .contracts
            .insert(address, spec, tenure.generation(), permit);
        let claimed = Claimed {
            tenure,
            handle,
            ends,
            before: before.map(|record| record.spec),
        };
        let started = self.start_claimed(&claimed).await;
        let started = match (started, reason) {
            (
                Ok(Started {
                    instance: Err(error),
                    ..
                }),
                LoadReason::Requested,
            ) => {
                self.withdraw(claimed).await;
                return Err(error.into());
            }
            (Ok(started), _) => started,
            (Err(error), _) => {
                let withdrawn = self.withdraw_unstarted(claimed, reason, &error).await;
                return Err(if withdrawn {
                    error
                } else {
                    error.after_start()
                });
            }
        };
        if !worker.contracts.is_current(address, &claimed.handle.status) {
            // The lease was lost meanwhile, and the contract with it.
            if let Ok(instance) = started.instance {
                instance.close().await;
            }
            self.withdraw(claimed).await;
            return Err(LoadError::from(not_assigned()).after_start());
        }
        self.log_loaded(&claimed.tenure, &started);
        self.spawn_task(claimed.tenure, claimed.ends, started).await;
        worker.announce().await;
        Ok(())
    }

    /// Fetches the executable and starts the first sandbox of a claimed contract.
    async fn start_claimed(&self, claimed: &Claimed) -> Result<Started<E::Instance>, LoadError> {
        let executable = self.fetch().await?;
        claimed.handle.keep_executable(executable.clone());
        let generation = claimed.tenure.generation();
        let instance = self.start(&executable, generation).await;
        Ok(Started {
            executable,
            instance,
        })
    }

    /// Starts the contract's first sandbox on this worker.
    async fn start(&self, executable: &str, generation: u64) -> Result<E::Instance, StartError> {
        let plan = Blueprint {
            address: &self.load.address,
            generation,
            spec: &self.load.spec,
            executable,
            image: None,
        };
        let begun = Instant::now();
        let started = self.engine.start(plan).await;
        let metrics = self.worker.metrics.of(plan.spec.engine);
        metrics.load.record(begun.elapsed());
        started
    }

    /// Makes this worker the contract's owner in a new generation.
    async fn claim(&self) -> Result<Tenure, LoadError> {
        let worker = self.worker;
        let tenure = Tenure::claim(&worker.queue, worker.id, self.load).await?;
        tenure.ok_or_else(|| not_assigned().into())
    }

    /// Withdraws the claim of a contract whose executable could not be fetched. False if that
    /// failed, so that the contract may count as loaded.
    async fn withdraw_unstarted(
        &self,
        claimed: Claimed,
        reason: LoadReason,
        error: &LoadError,
    ) -> bool {
        // Without its executable, no worker can ever run the contract again.
        let is_lost = reason == LoadReason::Failover && is_executable_missing(error);
        let before = claimed.before.filter(|_| !is_lost);
        let withdrawn = self.withdraw(Claimed { before, ..claimed }).await;
        if is_lost {
            self.record_lost().await;
        }
        withdrawn
    }

    /// Undoes a claim after a failed load. What was loaded before stays loaded. False if it may not
    /// be undone.
    async fn withdraw(&self, claimed: Claimed) -> bool {
        let Claimed {
            tenure,
            ends,
            before,
            ..
        } = claimed;
        let address = &self.load.address;
        let withdrawn = tenure.withdraw(before.as_ref()).await;
        if let Err(error) = &withdrawn {
            tracing::warn!(contract = %address, %error, "failed load not withdrawn");
        }
        drop(self.worker.contracts.remove(address));
        ends.refuse_all(&not_assigned());
        withdrawn.is_ok()
    }

    /// Reads the executable from the store.
    async fn fetch(&self) -> Result<Arc<str>, LoadError> {
        let missing = || {
            let message = "The executable is not in the store; load the contract again";
            Failure::not_started(FailureCode::ExecutableMissing, message)
        };
        let digest = &self.load.spec.digest;
        let blob = self.worker.queue.fetch_blob(digest).await?;
        let blob = blob.ok_or_else(missing)?;
        // Checking and copying up to 50 MB would block the other tasks of this thread.
        let text = tokio::task::spawn_blocking(|| String::from_utf8(blob).map(Arc::from))
            .await
            .expect("checking a text does not panic");
        text.map_err(|_| {
            let message = "The executable is not UTF-8 text";
            Failure::started(FailureCode::InvalidExecutable, message).into()
        })
    }

    /// Records that a contract was forgotten, because its executable is gone.
    async fn record_lost(&self) {
        let address = &self.load.address;
        let fields = [
            ("kind", "lost"),
            ("contract", address.as_str()),
            ("reason", "its executable is no longer in the store"),
        ];
        if let Err(error) = self.worker.queue.record_dead_letter(&fields).await {
            tracing::warn!(contract = %address, %error, "lost contract not recorded");
        }
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
    async fn spawn_task(&self, tenure: Tenure, ends: TaskEnds, started: Started<E::Instance>) {
        let Self {
            worker,
            engine,
            load,
        } = self;
        let Started {
            executable,
            instance,
        } = started;
        if let Ok(instance) = &instance {
            let record = LoadRecord {
                tenure: tenure.clone(),
                digest: load.spec.digest.clone(),
                executable: executable.clone(),
                endpoints: instance.endpoints().unwrap_or_default().to_vec(),
                image: instance.image().map(str::to_owned),
                status: ends.status.clone(),
            };
            record.store(worker).await;
        }
        let assignment = Assignment {
            engine: (*engine).clone(),
            tenure,
            spec: load.spec.clone(),
            executable,
        };
        let task = ContractTask::new((*worker).clone(), assignment, ends);
        worker.life.spawn("contract", task.run(instance));
    }
}

/// Whether the executable is no longer in the store.
fn is_executable_missing(error: &LoadError) -> bool {
    matches!(error, LoadError::Failed(failure) if failure.code == FailureCode::ExecutableMissing)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_unstarted(error: LoadError) -> bool {
        let load = Load {
            address: "abcd".parse().unwrap(),
            spec: serde_json::from_str(r#"{"engine": "javascript", "digest": "ab"}"#).unwrap(),
        };
        !reply_to(&load, Err(error)).unwrap_err().started
    }

    #[test]
    fn only_a_load_that_had_no_effect_is_unstarted() {
        let full = || LoadError::from(not_assigned());
        assert!(is_unstarted(full()));
        assert!(!is_unstarted(full().after_start()));
        assert!(!is_unstarted(
            StartError::Unavailable("no page".to_owned()).into()
        ));
        assert!(!is_unstarted(
            StartError::Invalid("a typo".to_owned()).into()
        ));
        let settings = QueueError::Settings("any".to_owned());
        assert!(!is_unstarted(settings.into()));
    }
}
