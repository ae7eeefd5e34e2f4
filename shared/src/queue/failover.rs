//! Failover of contracts: offering those without an owner to the workers.

use super::leases::Fate;
use super::ownership::Standing;
use super::{Queue, QueueError};
use crate::protocol::frame::Envelope;
use crate::protocol::id::{ContractAddress, JobId};
use crate::protocol::job::{ContractSpec, Job, Load};

impl Queue {
    /// Releases a contract whose owner is not alive, if no reaper will. Returns whether the
    /// contract was released.
    ///
    /// A worker that a reaper still has to clean up after is put on the list of workers again, in
    /// case its place there was lost.
    pub async fn release_from_lost_owner(
        &self,
        address: &ContractAddress,
        standing: Standing,
    ) -> Result<bool, QueueError> {
        let Some(owner) = standing.owner else {
            return Ok(false);
        };
        match self.fate(owner).await? {
            Fate::Lives => Ok(false),
            Fate::Lapsed | Fate::Fenced => {
                self.list_again(owner).await?;
                Ok(false)
            }
            Fate::Cleared => {
                let dropped = self.drop_ownership(address, standing).await?;
                Ok(dropped.done().is_some())
            }
        }
    }

    /// Offers a contract to all workers. No reply is sent.
    pub async fn offer(
        &self,
        address: ContractAddress,
        spec: ContractSpec,
    ) -> Result<(), QueueError> {
        let engine = spec.engine;
        let load = Load {
            address,
            spec,
            seen: None,
        };
        let envelope = Envelope {
            id: JobId(0),
            // The offer stays valid until a worker has room.
            deadline: u64::MAX,
            attempt: 1,
            trace: None,
            request: None,
            job: Job::Load(load),
        };
        self.place(engine, None, &envelope).await
    }
}
