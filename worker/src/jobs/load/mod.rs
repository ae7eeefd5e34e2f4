//! Loads a contract: a new one from the placement stream, or another executable for a contract that
//! this worker owns.

mod loader;
mod schemas;

use std::sync::Arc;

use shared::protocol::id::ContractAddress;
use shared::protocol::job::{EngineKind, Load};
use shared::protocol::reply::{Failure, FailureCode, Output};
use shared::queue::QueueError;

use self::loader::{Known, Loader};
use super::execute::not_assigned;
use crate::contracts::{Adopted, CapacityPermit, ContractHandle, Tenure};
use crate::sandbox::{Engine, StartError};
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
    /// Whether the executable is no longer in the store.
    fn is_executable_missing(&self) -> bool {
        matches!(self, Self::Failed(failure) if failure.code == FailureCode::ExecutableMissing)
    }

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
            StartError::Invalid(message) | StartError::NotReady(message) => {
                Failure::started(FailureCode::InvalidExecutable, message)
            }
            // The contract may have been claimed, and its code may have run.
            StartError::Unavailable(message) => {
                Failure::started(FailureCode::SandboxUnavailable, message)
            }
            StartError::ImageUnavailable(message) | StartError::ImageMissing(message) => {
                Failure::started(FailureCode::SandboxUnavailable, message).for_lack_of_image()
            }
        })
    }
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

/// Runs a load from the placement stream that a caller asked for: this worker is to become the
/// contract's owner.
pub(crate) async fn load_new(
    worker: &Arc<Worker>,
    load: &Load,
    permit: CapacityPermit,
) -> Result<Output, Failure> {
    let outcome = match (load.spec.engine, &worker.chromium, &worker.docker) {
        (EngineKind::Javascript, Some(engine), _) => {
            Loader::new(worker, engine, load).load_new(permit).await
        }
        (EngineKind::Docker, _, Some(engine)) => {
            Loader::new(worker, engine, load).load_new(permit).await
        }
        (engine, ..) => Err(no_engine(engine)),
    };
    reply_to(load, outcome)
}

/// Takes a contract over whose owner is gone. It has run before, so a sandbox that does not start
/// at once is retried.
pub(crate) async fn take_over(
    worker: &Arc<Worker>,
    address: &ContractAddress,
    engine: EngineKind,
    permit: CapacityPermit,
) -> Result<Output, Failure> {
    let _lock = worker.contracts.lock(address).await;
    if worker.contracts.owns_replica_of(address) {
        return Err(not_assigned());
    }
    let adopted = match Tenure::adopt(worker, address, engine).await {
        Ok(Some(adopted)) => adopted,
        Ok(None) => return Err(not_assigned()),
        Err(error) => {
            tracing::warn!(contract = %address, %error, "contract not claimed");
            return Err(not_assigned());
        }
    };
    let Adopted {
        tenure,
        spec,
        image,
        schemas,
    } = adopted;
    let known = Known { image, schemas };
    let load = &Load {
        address: address.clone(),
        spec,
        seen: None,
    };
    let outcome = match (engine, &worker.chromium, &worker.docker) {
        (EngineKind::Javascript, Some(engine), _) => {
            let loader = Loader::new(worker, engine, load);
            loader.take_over(tenure, known, permit).await
        }
        (EngineKind::Docker, _, Some(engine)) => {
            let loader = Loader::new(worker, engine, load);
            loader.take_over(tenure, known, permit).await
        }
        (engine, ..) => Err(no_engine(engine)),
    };
    reply_to(load, outcome)
}

/// Whether a contract runs the image that its executable stands for now.
async fn runs_current_image(
    engine: &impl Engine,
    contract: &ContractHandle,
) -> Result<bool, StartError> {
    let Some(executable) = contract.executable() else {
        return Ok(true);
    };
    let current = engine.resolve(executable).await?;
    let running = contract.status.sandbox().image;
    Ok(current.is_none_or(|current| running.is_some_and(|image| image.id == current.id)))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn is_unstarted(error: LoadError) -> bool {
        let load = Load {
            address: "abcd".parse().unwrap(),
            spec: serde_json::from_str(r#"{"engine": "javascript", "digest": "ab"}"#).unwrap(),
            seen: None,
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
