//! The first sandbox of a load on this worker: what it runs, how it starts, and what the registry
//! records of it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use shared::protocol::reply::{Failure, FailureCode};
use shared::protocol::schemas::SchemaText;
use shared::queue::QueueError;
use shared::queue::ownership::Sandbox;
use shared::queue::references::Reference;

use super::{Claimed, Loader};
use crate::contracts::Tenure;
use crate::executables;
use crate::jobs::execute::not_assigned;
use crate::jobs::load::{LoadError, schemas};
use crate::sandbox::{Blueprint, Engine, Instance, StartError};

/// An executable with its schemas, and the outcome of starting its first sandbox.
pub(super) struct Started<I> {
    pub(super) executable: Arc<str>,
    pub(super) schemas: Option<SchemaText>,
    pub(super) instance: Result<I, StartError>,
}

impl<E: Engine> Loader<'_, E> {
    /// Reads the executable from the store.
    pub(super) async fn fetch(&self) -> Result<Arc<str>, LoadError> {
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

    /// Starts the contract's first sandbox on this worker.
    async fn start(&self, executable: &str, generation: u64) -> Result<E::Instance, StartError> {
        let plan = Blueprint {
            address: &self.load.address,
            generation,
            spec: &self.load.spec,
            executable,
            image: self.image(),
        };
        let begun = Instant::now();
        let started = self.engine.start(plan).await;
        let metrics = self.worker.metrics.of(plan.spec.engine);
        metrics.load.record(begun.elapsed());
        started
    }

    /// As [`Self::start`], for a load that a caller asked for: its schemas must be valid.
    pub(super) async fn start_checked(
        &self,
        executable: &str,
        generation: u64,
    ) -> Result<(E::Instance, Option<SchemaText>), StartError> {
        let instance = self.start(executable, generation).await?;
        let own = instance.schemas().cloned();
        match schemas::of_load(executable, own).await {
            Ok(schemas) => Ok((instance, schemas)),
            Err(error) => {
                instance.close().await;
                Err(error)
            }
        }
    }

    /// Fetches the executable of a contract that was loaded before, and starts a sandbox.
    pub(super) async fn start_known(
        &self,
        claimed: &Claimed,
        has_schemas: bool,
    ) -> Result<Started<E::Instance>, LoadError> {
        let (queue, address) = (&self.worker.queue, &self.load.address);
        let executable = self.fetch().await?;
        claimed.handle.keep_executable(executable.clone());
        let schemas = schemas::of_record(queue, address, &executable, has_schemas).await?;
        let generation = claimed.tenure.generation();
        let instance = self.start(&executable, generation).await;
        Ok(Started {
            executable,
            schemas,
            instance,
        })
    }

    /// Fetches the executable of a claimed contract and starts its first sandbox, which must
    /// succeed. Records the load.
    pub(super) async fn start_and_record(
        &self,
        claimed: &Claimed,
    ) -> Result<Started<E::Instance>, LoadError> {
        let executable = self.fetch().await?;
        claimed.handle.keep_executable(executable.clone());
        let generation = claimed.tenure.generation();
        let (instance, schemas) = self.start_checked(&executable, generation).await?;
        let sandbox = facts(&instance, schemas.clone());
        if let Err(error) = self.record(&claimed.tenure, &executable, sandbox).await {
            instance.close().await;
            return Err(error);
        }
        Ok(Started {
            executable,
            schemas,
            instance: Ok(instance),
        })
    }

    /// Records that a load has succeeded.
    async fn record(
        &self,
        tenure: &Tenure,
        executable: &str,
        sandbox: Sandbox,
    ) -> Result<(), LoadError> {
        if let Err(error) = self.keep(executable, &tenure.reference()).await {
            // The contract is loaded all the same. The comparison stores its executable as soon as
            // Redis takes it.
            tracing::warn!(contract = %self.load.address, %error, "executable not stored yet");
            self.unkept.store(true, Ordering::Relaxed);
        }
        if !tenure.record_load(&self.load.spec, &sandbox).await? {
            return Err(LoadError::from(not_assigned()).after_start());
        }
        Ok(())
    }

    pub(super) async fn keep(
        &self,
        executable: &str,
        reference: &Reference,
    ) -> Result<(), QueueError> {
        let (queue, digest) = (&self.worker.queue, &self.load.spec.digest);
        executables::keep(queue, digest, executable, reference).await?;
        Ok(())
    }
}

/// What the registry records of a sandbox.
pub(super) fn facts(instance: &impl Instance, schemas: Option<SchemaText>) -> Sandbox {
    Sandbox {
        endpoints: instance.endpoints().unwrap_or_default().to_vec(),
        image: instance.image().cloned(),
        schemas,
    }
}
