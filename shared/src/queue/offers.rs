//! Offers of contracts that have no owner: by an api that is asked for one, and by the sweep.

use super::contracts::ContractRecord;
use super::leases::WorkerInfo;
use super::{Queue, QueueError};
use crate::protocol::id::{ContractAddress, WorkerId};

impl Queue {
    /// Offers a contract without an owner to the workers again, unless that was done recently.
    ///
    /// While no worker has room nothing is offered: the first offer still waits in Redis, and
    /// further ones would only queue behind it.
    pub async fn offer_again(
        &self,
        address: &ContractAddress,
        record: &ContractRecord,
    ) -> Result<(), QueueError> {
        if !self.is_offerable(address, record).await? {
            return Ok(());
        }
        let workers = self.workers().await?;
        self.offer_to(&workers, address, record).await
    }

    /// Whether a contract has no owner, or one that no reaper would find, and is due for an offer.
    pub(super) async fn is_offerable(
        &self,
        address: &ContractAddress,
        record: &ContractRecord,
    ) -> Result<bool, QueueError> {
        let standing = record.standing();
        if standing.owner.is_some() && !self.release_from_lost_owner(address, standing).await? {
            return Ok(false);
        }
        self.is_offer_due(address).await
    }

    pub(super) async fn offer_to(
        &self,
        workers: &[(WorkerId, WorkerInfo)],
        address: &ContractAddress,
        record: &ContractRecord,
    ) -> Result<(), QueueError> {
        let spec = record.spec.clone();
        if workers.iter().all(|(_, info)| info.free(spec.engine) == 0) {
            return Ok(());
        }
        self.offer(address.clone(), spec).await
    }
}
