//! Renews the worker's lease every second. A worker that was fenced meanwhile takes another id and
//! keeps the contracts that no other worker has taken.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use shared::queue::QueueError;
use shared::queue::farm::Farm;
use shared::queue::leases::Renewal;
use shared::queue::timing::{HEARTBEAT, HEARTBEAT_RETRY};
use shared::service::backoff::Backoff;
use shared::service::moment::Moment;

use crate::reconcile;
use crate::worker::Worker;

/// Sends heartbeats until the process stops.
pub(crate) async fn run(worker: Arc<Worker>, farm: Farm) {
    let life = worker.life.clone();
    let mut keeper = LeaseKeeper {
        renewed: Moment::now(),
        ownership: Ownership::Confirmed,
        farm,
        worker,
    };
    let mut has_failed = false;
    let mut interval = tokio::time::interval(HEARTBEAT);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = interval.tick() => match keeper.beat().await {
                Err(error) => {
                    tracing::warn!(%error, "heartbeat failed");
                    has_failed = true;
                    interval.reset_after(HEARTBEAT_RETRY);
                }
                // Redis may have lost writes meanwhile.
                Ok(()) if std::mem::take(&mut has_failed) => keeper.worker.comparison.notify_one(),
                Ok(()) => {}
            },
            outcome = keeper.resuming() => keeper.resumed(outcome),
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
    /// Unknown, because the worker was fenced.
    Unknown,
    /// The contracts are being resumed. The future returns the current farm. The lease is renewed
    /// meanwhile.
    Resuming(BoxFuture<'static, Result<Farm, QueueError>>),
}

impl LeaseKeeper {
    async fn beat(&mut self) -> Result<(), QueueError> {
        let worker = self.worker.clone();
        let sent = Moment::now();
        match worker.queue.renew_lease(worker.id()).await? {
            Renewal::Held => self.lease_held(sent),
            // A draining worker gives its lease up on purpose, so it does not register again.
            Renewal::Fenced if worker.life.is_draining() => {}
            Renewal::Fenced => self.take_next_id().await?,
        }
        let id = worker.id();
        worker.queue.report_worker(id, &worker.info()).await?;
        let depth = worker.queue.inbox_depth(id).await?;
        worker.metrics.inbox_depth.set(depth);
        Ok(())
    }

    /// Goes on under another id: this one was fenced.
    async fn take_next_id(&mut self) -> Result<(), QueueError> {
        let worker = self.worker.clone();
        // This state is set before any other step. So even if a reply of Redis is lost from here
        // on, the contracts are resumed before the worker acts.
        worker.fence.lease_lost();
        self.ownership = Ownership::Unknown;
        let fenced = worker.id();
        let id = fenced.next_epoch();
        tracing::warn!(worker = %fenced, next = %id, "worker fenced; it takes another id");
        // An id whose registration got no answer may exist, so it is not used again.
        let sent = Moment::now();
        let registered = worker.queue.register_worker(id).await;
        worker.identity.renew(id);
        if registered? {
            self.lease_held(sent);
        }
        Ok(())
    }

    /// Notes that the lease was renewed or acquired by a command that was sent at `moment`. The
    /// fence stays closed until the contracts are resumed as well.
    fn lease_held(&mut self, moment: Moment) {
        self.renewed = moment;
        match self.ownership {
            Ownership::Confirmed => self.worker.fence.lease_renewed(moment),
            Ownership::Unknown => {
                let resuming = resume_all(self.worker.clone(), self.farm.clone());
                self.ownership = Ownership::Resuming(resuming.boxed());
            }
            Ownership::Resuming(_) => {}
        }
    }

    /// Waits for the contracts to be resumed. Pending while that is not in progress.
    async fn resuming(&mut self) -> Result<Farm, QueueError> {
        match &mut self.ownership {
            Ownership::Resuming(resuming) => resuming.await,
            Ownership::Confirmed | Ownership::Unknown => std::future::pending().await,
        }
    }

    fn resumed(&mut self, outcome: Result<Farm, QueueError>) {
        match outcome {
            Ok(farm) => {
                self.farm = farm;
                self.ownership = Ownership::Confirmed;
                self.worker.fence.lease_renewed(self.renewed);
                self.worker.comparison.notify_one();
            }
            Err(error) => {
                tracing::warn!(%error, "contracts not resumed yet");
                self.ownership = Ownership::Unknown;
            }
        }
    }
}

/// Keeps the contracts that no other worker has taken, closes the others, and returns the current
/// farm. Can be repeated after a failure.
async fn resume_all(worker: Arc<Worker>, farm: Farm) -> Result<Farm, QueueError> {
    let current = worker.queue.farm(Some(&farm)).await?;
    let lost_data = current.data != farm.data;
    let id = worker.identity.usable().await;
    reconcile::resume_all(&worker, id, lost_data).await?;
    tracing::warn!(worker = %id, lost_data, "worker registered again under another id");
    Ok(current)
}

/// Holds the subscription that tells other processes that this worker is connected.
pub(crate) async fn hold_subscription(worker: Arc<Worker>) {
    let mut backoff = Backoff::redis();
    loop {
        let id = worker.id();
        match worker.queue.subscribe_alive(id).await {
            Ok(mut presence) => {
                backoff.reset();
                tokio::select! {
                    () = presence.ended() => {}
                    () = worker.identity.changed_from(id) => continue,
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

#[cfg(test)]
mod tests;
