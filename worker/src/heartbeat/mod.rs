//! Renews the worker's lease every second. A worker that was fenced meanwhile takes another id and
//! keeps the contracts that no other worker has taken. So does one whose server of a cluster is
//! away for long.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use shared::protocol::id::WorkerId;
use shared::queue::QueueError;
use shared::queue::farm::Farm;
use shared::queue::leases::Renewal;
use shared::queue::timing::{HEARTBEAT, HEARTBEAT_RETRY, RELOCATE_AFTER};
use shared::service::backoff::Backoff;
use shared::service::moment::Moment;

use crate::reconcile;
use crate::worker::Worker;

/// Sends heartbeats until the process stops.
pub(crate) async fn run(worker: Arc<Worker>, farm: Farm) {
    let life = worker.life.clone();
    let mut keeper = LeaseKeeper {
        renewed: Moment::now(),
        owned: Moment::now(),
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
                Ok(()) if std::mem::take(&mut has_failed) => keeper.reconnected(),
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
    /// The same, while the worker certainly owned its contracts.
    owned: Moment,
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
        match worker.queue.renew_lease(worker.id()).await {
            Ok(Renewal::Held) => self.lease_held(sent),
            // A draining worker gives its lease up on purpose, so it does not register again.
            Ok(Renewal::Fenced) if worker.life.is_draining() => {}
            Ok(Renewal::Fenced) => {
                tracing::warn!(worker = %worker.id(), "worker fenced; it takes another id");
                self.take(worker.id().next_epoch()).await?;
            }
            Err(error) => {
                let id = self.id_elsewhere().ok_or(error)?;
                tracing::warn!(
                    worker = %worker.id(),
                    "redis server of the inbox is away; worker takes an id on another one"
                );
                self.take(id).await?;
            }
        }
        let id = worker.id();
        worker.queue.report_worker(id, &worker.info()).await?;
        let depth = worker.queue.inbox_depth(id).await?;
        worker.metrics.inbox_depth.set(depth);
        Ok(())
    }

    /// Redis answers again. It may have lost writes, and another server may have taken the place
    /// of the one that has the subscription.
    fn reconnected(&self) {
        self.worker.comparison.notify_one();
        self.worker.reconnected.notify_one();
    }

    /// An id with its inbox on another server, if a cluster has lacked that of the current one for
    /// long. Whether its contracts are still this worker's is found out when they are resumed.
    fn id_elsewhere(&self) -> Option<WorkerId> {
        let is_long = Moment::now() - self.renewed >= RELOCATE_AFTER;
        let may_relocate = is_long && !self.worker.life.is_draining();
        may_relocate
            .then(|| self.worker.queue.id_elsewhere(self.worker.id()))
            .flatten()
    }

    /// Goes on under another id.
    async fn take(&mut self, id: WorkerId) -> Result<(), QueueError> {
        let worker = self.worker.clone();
        // This state is set before any other step. So even if a reply of Redis is lost from here
        // on, the contracts are resumed before the worker acts.
        worker.fence.lease_lost();
        self.ownership = Ownership::Unknown;
        // An id whose registration got no answer may exist, so it is not used again.
        let sent = Moment::now();
        let registered = worker.queue.register_worker(id).await;
        worker.identity.renew(id, self.owned);
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
            Ownership::Confirmed => self.confirmed(),
            Ownership::Unknown => {
                let resuming = resume_all(self.worker.clone(), self.farm.clone());
                self.ownership = Ownership::Resuming(resuming.boxed());
            }
            Ownership::Resuming(_) => {}
        }
    }

    /// The worker owned its contracts when the lease was renewed last, so it may act.
    fn confirmed(&mut self) {
        self.owned = self.renewed;
        self.worker.fence.lease_renewed(self.renewed);
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
                self.confirmed();
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
    let current = match worker.queue.farm(Some(&farm)).await {
        // The server that knows it may be the one that is away.
        Err(_) if worker.queue.is_cluster() => farm.clone(),
        current => current?,
    };
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
                    () = worker.reconnected.notified() => continue,
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
