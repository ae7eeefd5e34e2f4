//! Replicas that belong to no contract: an api has died between two loads, unloads or a roll-back,
//! or Redis has lost the record of the first replica. No caller can reach or unload them, and they
//! would keep their capacity for ever. The sweep unloads them.

use std::collections::{HashMap, HashSet};

use super::contracts::ContractRecord;
use super::timing::UNUSED_ENTRY;
use super::{Queue, QueueError};
use crate::protocol::frame::{Envelope, encode_item, pack_jobs};
use crate::protocol::id::{ContractAddress, JobId, WorkerId};
use crate::protocol::job::{Job, Unload};

impl Queue {
    /// Which of these replicas belong to no contract: their contract is not loaded, or has fewer
    /// replicas.
    ///
    /// To be asked of replicas only that were last loaded longer than [`UNUSED_ENTRY`] ago. The
    /// load of their contract, which came with theirs, has ended by then.
    pub(super) async fn surplus_replicas(
        &self,
        replicas: Vec<&ContractAddress>,
    ) -> Result<HashSet<ContractAddress>, QueueError> {
        if replicas.is_empty() {
            return Ok(HashSet::new());
        }
        let contracts: Vec<_> = replicas.iter().map(|address| address.replica(1)).collect();
        let (records, _) = self.contracts_and_workers(&contracts).await?;
        let found = self.ownerships(&contracts).await?;
        let sizes: HashMap<_, _> = contracts
            .iter()
            .zip(records.iter().zip(found))
            .map(|(contract, (record, found))| {
                let is_absent = found.load.is_none() && found.standing.owner.is_none();
                let size = match record {
                    Some(record) => record.spec.replicas,
                    None if is_absent => 0,
                    // It is being loaded, or the record is one of another version.
                    None => ContractAddress::MAX_REPLICAS,
                };
                (contract, size)
            })
            .collect();
        let is_surplus = |address: &&ContractAddress| {
            let size = sizes.get(&address.replica(1));
            size.is_some_and(|size| address.replica_number() > *size)
        };
        Ok(replicas.into_iter().filter(is_surplus).cloned().collect())
    }

    /// Unloads a replica that belongs to no contract, or asks its owner to do so. Whatever fails is
    /// repeated by the next sweep. Its executable loses its reference in the sweep of executables.
    pub(super) async fn unload_surplus(
        &self,
        address: &ContractAddress,
        record: &ContractRecord,
        living: &HashSet<WorkerId>,
    ) -> Result<(), QueueError> {
        let standing = record.standing();
        match standing.owner {
            Some(owner) if living.contains(&owner) => {
                tracing::warn!(contract = %address, %owner, "replica without its contract: unloading it");
                self.request_unload(owner, address).await
            }
            // Its reaper releases it.
            Some(_) => {
                self.release_from_lost_owner(address, standing).await?;
                Ok(())
            }
            None => {
                tracing::warn!(contract = %address, "replica without its contract: unloaded");
                self.unload(address, standing).await?;
                Ok(())
            }
        }
    }

    /// Puts an unload into a worker's inbox, if it exists. No reply is sent.
    async fn request_unload(
        &self,
        worker: WorkerId,
        address: &ContractAddress,
    ) -> Result<(), QueueError> {
        let now = self.clock().now_ms();
        let envelope: Envelope = Envelope {
            // The worker drops numbers that it has had. Then the next sweep asks again.
            id: JobId(now),
            deadline: self.clock().after(UNUSED_ENTRY),
            attempt: 1,
            trace: None,
            request: None,
            job: Job::Unload(Unload {
                address: address.clone(),
            }),
        };
        let inbox = self.keys().inbox(worker);
        Ok(redis::cmd("XADD")
            .arg(&[&inbox, "NOMKSTREAM", "*", "b"])
            .arg(pack_jobs(None, [encode_item(&envelope)]))
            .query_async(&mut self.pooled().await?)
            .await?)
    }
}
