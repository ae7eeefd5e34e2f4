//! Stores what the next owner of a contract needs: its executable, its methods, its image.
//!
//! The contract serves calls without this record. But a worker cannot take the contract over
//! without its executable, so storing the record is retried until it succeeds.

use std::sync::Arc;

use shared::queue::QueueError;
use shared::service::backoff::Backoff;

use crate::contracts::{Status, Tenure};
use crate::worker::Worker;

/// What is known about a contract whose sandbox has started.
pub(super) struct LoadRecord {
    pub(super) tenure: Tenure,
    pub(super) digest: String,
    pub(super) executable: Arc<str>,
    pub(super) endpoints: Vec<String>,
    pub(super) image: Option<String>,
    /// The status of the contract's task.
    pub(super) status: Arc<Status>,
}

impl LoadRecord {
    /// Stores the record now, or in the background once Redis accepts it.
    pub(super) async fn store(self, worker: &Arc<Worker>) {
        let Err(error) = self.write(worker).await else {
            return;
        };
        tracing::warn!(contract = %self.tenure.address(), %error, "load not recorded yet");
        let (tasks, worker) = (worker.life.clone(), worker.clone());
        tasks.spawn("load record", async move { self.retry(&worker).await });
    }

    /// Retries for as long as this task runs the contract.
    async fn retry(self, worker: &Worker) {
        let address = self.tenure.address();
        let mut backoff = Backoff::redis();
        loop {
            tokio::select! {
                () = backoff.wait() => {}
                () = worker.life.stopping() => return,
            }
            // Without the lock, the record of a contract unloaded meanwhile would be stored again.
            let _lock = worker.contracts.lock(address).await;
            if !worker.contracts.is_current(address, &self.status) {
                return;
            }
            match self.write(worker).await {
                Ok(()) => return,
                Err(error) => tracing::debug!(contract = %address, %error, "load not recorded yet"),
            }
        }
    }

    async fn write(&self, worker: &Worker) -> Result<(), QueueError> {
        let (queue, address) = (&worker.queue, self.tenure.address());
        if !queue.keep_blob(&self.digest, address).await? {
            // It expired meanwhile.
            let executable = self.executable.as_bytes();
            queue.store_blob(&self.digest, executable, address).await?;
        }
        let image = self.image.as_deref();
        self.tenure.note_sandbox(&self.endpoints, image).await
    }
}
