//! One worker's ownership of one contract, from the claim on.
//!
//! This is the only part of a running contract that sends commands to the registry. Each command
//! names this worker as the owner, and Redis ignores it if the registry names another worker.

use shared::protocol::id::{ContractAddress, WorkerId};
use shared::protocol::job::{ContractSpec, Load};
use shared::queue::contracts::Claim;
use shared::queue::{Queue, QueueError};

/// The ownership of one contract in one generation.
#[derive(Clone)]
pub(crate) struct Tenure {
    queue: Queue,
    address: ContractAddress,
    worker: WorkerId,
    generation: u64,
}

impl Tenure {
    /// Makes `worker` the contract's owner in a new generation. None if another live worker owns
    /// the contract.
    pub(crate) async fn claim(
        queue: &Queue,
        worker: WorkerId,
        load: &Load,
    ) -> Result<Option<Self>, QueueError> {
        let Load { address, spec } = load;
        let mut displaced = None;
        loop {
            match queue.claim(address, worker, displaced, spec).await? {
                Claim::Granted(generation) => {
                    return Ok(Some(Self {
                        queue: queue.clone(),
                        address: address.clone(),
                        worker,
                        generation,
                    }));
                }
                Claim::OwnedBy(owner) if queue.is_alive(owner).await? => return Ok(None),
                Claim::OwnedBy(owner) => displaced = Some(owner),
            }
        }
    }

    pub(crate) fn address(&self) -> &ContractAddress {
        &self.address
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// Withdraws a claim after a failed load. A contract that was loaded `before` stays loaded and
    /// unassigned; another one is forgotten.
    pub(crate) async fn withdraw(&self, before: Option<&ContractSpec>) -> Result<(), QueueError> {
        match before {
            Some(before) => {
                self.queue
                    .roll_back_claim(&self.address, self.worker, before)
                    .await?;
            }
            None => {
                self.queue
                    .remove_contract(&self.address, Some(self.worker))
                    .await?;
            }
        }
        Ok(())
    }

    /// Starts a new generation for a restarted sandbox. False if this worker is no longer the
    /// owner.
    pub(super) async fn raise_generation(&mut self) -> Result<bool, QueueError> {
        let raised = self
            .queue
            .raise_generation(&self.address, self.worker)
            .await?;
        if let Some(generation) = raised {
            self.generation = generation;
        }
        Ok(raised.is_some())
    }

    /// Stores the methods of the running sandbox and the image that it runs.
    pub(crate) async fn note_sandbox(
        &self,
        endpoints: &[String],
        image: Option<&str>,
    ) -> Result<(), QueueError> {
        self.queue
            .note_sandbox(&self.address, self.worker, endpoints, image)
            .await
    }

    /// Ends the ownership and quarantines the contract: no worker may claim it for
    /// `quarantine_ms`, unless it is loaded again.
    pub(super) async fn quarantine(&self, quarantine_ms: u64) -> Result<(), QueueError> {
        let Self {
            queue,
            address,
            worker,
            ..
        } = self;
        if queue.quarantine(address, *worker, quarantine_ms).await? {
            let fields = [
                ("kind", "quarantine"),
                ("contract", address.as_str()),
                ("reason", "its sandbox crashed repeatedly"),
            ];
            queue.record_dead_letter(&fields).await?;
        }
        Ok(())
    }
}
