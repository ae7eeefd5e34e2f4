//! Renews the worker's lease every second. After a lost lease, claims the contracts again that no
//! other worker has taken.

use std::sync::Arc;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryStreamExt};
use shared::protocol::id::ContractAddress;
use shared::protocol::reply::FailureCode;
use shared::queue::QueueError;
use shared::queue::contracts::ContractRecord;
use shared::queue::farm::Farm;
use shared::queue::timing::{HEARTBEAT, HEARTBEAT_RETRY};
use shared::service::backoff::Backoff;
use shared::service::moment::Moment;

use crate::contracts::ContractHandle;
use crate::worker::Worker;

/// The maximum number of contracts that are reclaimed concurrently.
const CONCURRENT_RECLAIMS: usize = 16;

/// Sends heartbeats until the process stops.
pub(crate) async fn run(worker: Arc<Worker>, farm: Farm) {
    let life = worker.life.clone();
    let mut keeper = LeaseKeeper {
        renewed: Moment::now(),
        ownership: Ownership::Confirmed,
        farm,
        worker,
    };
    let mut interval = tokio::time::interval(HEARTBEAT);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = interval.tick() => if let Err(error) = keeper.beat().await {
                tracing::warn!(%error, "heartbeat failed");
                interval.reset_after(HEARTBEAT_RETRY);
            },
            outcome = keeper.reclaiming() => keeper.reclaimed(outcome),
            () = life.stopping() => return,
        }
    }
}

/// Keeps the lease, and tracks whether this worker still owns its contracts.
struct LeaseKeeper {
    worker: Arc<Worker>,
    /// The farm, as last read from Redis.
    farm: Farm,
    /// When the last successful renewal was sent.
    renewed: Moment,
    ownership: Ownership,
}

/// Whether this worker owns the contracts that it runs.
enum Ownership {
    /// It owns them.
    Confirmed,
    /// Unknown, because the lease was lost.
    Unknown,
    /// The contracts are being reclaimed. The future returns the current farm. The lease is renewed
    /// meanwhile.
    Reclaiming(BoxFuture<'static, Result<Farm, QueueError>>),
}

impl LeaseKeeper {
    async fn beat(&mut self) -> Result<(), QueueError> {
        let worker = self.worker.clone();
        let sent = Moment::now();
        if worker.queue.renew_lease(worker.id).await? {
            self.lease_held(sent);
        } else if !worker.life.is_draining() {
            // A draining worker gives its lease up on purpose, so it does not register again.
            //
            // This state is set before any other step. So even if a reply of Redis is lost from
            // here on, the contracts are reclaimed before the worker acts.
            worker.fence.lease_lost();
            self.ownership = Ownership::Unknown;
            let sent = Moment::now();
            if !worker.queue.register_worker(worker.id).await? {
                tracing::info!("lease lost; failover by another process is in progress");
                return Ok(());
            }
            self.lease_held(sent);
        }
        worker
            .queue
            .report_worker(worker.id, &worker.info())
            .await?;
        let depth = worker.queue.inbox_depth(worker.id).await?;
        worker.metrics.inbox_depth.set(depth);
        Ok(())
    }

    /// Notes that the lease was renewed or acquired by a command that was sent at `moment`. The
    /// fence stays closed until the contracts are reclaimed as well.
    fn lease_held(&mut self, moment: Moment) {
        self.renewed = moment;
        match self.ownership {
            Ownership::Confirmed => self.worker.fence.lease_renewed(moment),
            Ownership::Unknown => {
                let reclaiming = reclaim_all(self.worker.clone(), self.farm.clone());
                self.ownership = Ownership::Reclaiming(reclaiming.boxed());
            }
            Ownership::Reclaiming(_) => {}
        }
    }

    /// Waits for the contracts to be reclaimed. Pending while no reclaim is in progress.
    async fn reclaiming(&mut self) -> Result<Farm, QueueError> {
        match &mut self.ownership {
            Ownership::Reclaiming(reclaiming) => reclaiming.await,
            Ownership::Confirmed | Ownership::Unknown => std::future::pending().await,
        }
    }

    fn reclaimed(&mut self, outcome: Result<Farm, QueueError>) {
        match outcome {
            Ok(farm) => {
                self.farm = farm;
                self.ownership = Ownership::Confirmed;
                self.worker.fence.lease_renewed(self.renewed);
            }
            Err(error) => {
                tracing::warn!(%error, "contracts not reclaimed yet");
                self.ownership = Ownership::Unknown;
            }
        }
    }
}

/// Keeps the contracts that no other worker has taken, closes the others, and returns the current
/// farm. Can be repeated after a failure.
async fn reclaim_all(worker: Arc<Worker>, farm: Farm) -> Result<Farm, QueueError> {
    let current = worker.queue.farm(Some(&farm)).await?;
    let lost_data = current.data != farm.data;
    tracing::warn!(lost_data, "lease lost; worker registered again");
    let contracts = futures::stream::iter(worker.contracts.all()).map(Ok);
    contracts
        .try_for_each_concurrent(CONCURRENT_RECLAIMS, |(address, contract)| {
            keep_or_close(worker.clone(), address, contract, lost_data)
        })
        .await?;
    Ok(current)
}

async fn keep_or_close(
    worker: Arc<Worker>,
    address: ContractAddress,
    contract: Arc<ContractHandle>,
    lost_data: bool,
) -> Result<(), QueueError> {
    if !reclaim(&worker, &address, &contract, lost_data).await? {
        let tasks = worker.life.clone();
        tasks.spawn("close lost contract", async move {
            close_lost(&worker, &address, &contract).await;
        });
    }
    Ok(())
}

/// Claims one contract again. False if another worker owns it.
async fn reclaim(
    worker: &Worker,
    address: &ContractAddress,
    contract: &ContractHandle,
    lost_data: bool,
) -> Result<bool, QueueError> {
    let sandbox = contract.status.sandbox();
    let record = ContractRecord {
        spec: contract.spec.clone(),
        generation: sandbox.generation,
        owner: Some(worker.id),
        endpoints: sandbox.endpoints,
        image: sandbox.image,
        quarantined_until: 0,
    };
    let queue = &worker.queue;
    if !queue
        .confirm_ownership(address, worker.id, &record, lost_data)
        .await?
    {
        return Ok(false);
    }
    // A load that is still in progress stores its executable itself.
    if lost_data && let Some(executable) = contract.executable() {
        queue
            .store_blob(&contract.spec.digest, executable.as_bytes(), address)
            .await?;
    }
    Ok(true)
}

/// Closes a contract that another worker owns now.
async fn close_lost(worker: &Worker, address: &ContractAddress, contract: &ContractHandle) {
    tracing::warn!(contract = %address, "contract reassigned to another worker");
    let permit = worker
        .contracts
        .remove_if_current(address, &contract.status);
    contract.stop(FailureCode::NotHosted).await;
    drop(permit);
}

/// Holds the subscription that tells other processes that this worker is connected.
pub(crate) async fn hold_subscription(worker: Arc<Worker>) {
    let mut backoff = Backoff::redis();
    loop {
        match worker.queue.subscribe_alive(worker.id).await {
            Ok(mut subscription) => {
                backoff.reset();
                let mut messages = subscription.on_message();
                tokio::select! {
                    // No messages are published. The stream ends with the connection.
                    () = async { while messages.next().await.is_some() {} } => {}
                    () = worker.life.stopping() => return,
                }
            }
            Err(error) => tracing::debug!(%error, "presence subscription failed"),
        }
        tokio::select! {
            () = backoff.wait() => {}
            () = worker.life.stopping() => return,
        }
    }
}
