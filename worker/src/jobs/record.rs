//! Records what the next host of a contract will need: its executable, its methods, its image.
//!
//! The contract serves without that, too. But it must not stay so: without its executable nobody
//! could host it after this worker.

use std::sync::Arc;

use shared::protocol::id::ContractAddress;
use shared::queue::QueueError;
use shared::service::backoff::Backoff;

use crate::Worker;
use crate::contracts::Status;

/// What is known about a contract that has begun to live.
pub(crate) struct Record {
    pub(crate) address: ContractAddress,
    pub(crate) digest: String,
    pub(crate) executable: Arc<str>,
    pub(crate) endpoints: Vec<String>,
    pub(crate) image: Option<String>,
    /// Its host's.
    pub(crate) status: Arc<Status>,
}

impl Record {
    /// Writes it down: at once, or as soon as Redis takes it.
    pub(crate) async fn keep(self, worker: &Arc<Worker>) {
        let Err(error) = self.write(worker).await else {
            return;
        };
        tracing::warn!(contract = %self.address, %error, "could not record a load yet");
        let (tasks, worker) = (worker.life.clone(), worker.clone());
        tasks.spawn("record", async move { self.keep_later(&worker).await });
    }

    /// Tries again for as long as the contract lives here.
    async fn keep_later(self, worker: &Worker) {
        let mut backoff = Backoff::redis();
        loop {
            tokio::select! {
                () = backoff.wait() => {}
                () = worker.life.stopping() => return,
            }
            // What is unloaded meanwhile must not be kept.
            let _turn = worker.contracts.turn(&self.address).await;
            if !worker.contracts.is_served_by(&self.address, &self.status) {
                return;
            }
            match self.write(worker).await {
                Ok(()) => return,
                Err(error) => tracing::debug!(contract = %self.address, %error, "not recorded yet"),
            }
        }
    }

    async fn write(&self, worker: &Worker) -> Result<(), QueueError> {
        let (queue, address) = (&worker.queue, &self.address);
        if !queue.keep_blob(&self.digest, address).await? {
            // It expired meanwhile.
            let executable = self.executable.as_bytes();
            queue.store_blob(&self.digest, executable, address).await?;
        }
        let image = self.image.as_deref();
        queue
            .note_sandbox(address, worker.id, &self.endpoints, image)
            .await
    }
}
