//! Renews the worker's lease each second; when the lease was lost, finds out what is left.

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
use tokio::time::Instant;

use crate::Worker;
use crate::contracts::Host;

/// Contracts that are claimed again at once.
const RECLAIMED_AT_ONCE: usize = 16;

/// Beats until the process stops.
pub(crate) async fn beat(worker: Arc<Worker>, farm: Farm) {
    let life = worker.life.clone();
    let mut heart = Heart {
        renewed: Instant::now(),
        claims: Claims::Held,
        farm,
        worker,
    };
    let mut interval = tokio::time::interval(HEARTBEAT);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = interval.tick() => if let Err(error) = heart.beat().await {
                tracing::warn!(%error, "no heartbeat");
                interval.reset_after(HEARTBEAT_RETRY);
            },
            outcome = heart.reclaiming() => heart.reclaimed(outcome),
            () = life.stopping() => return,
        }
    }
}

/// Keeps the lease, and knows whether the contracts are the worker's as well.
struct Heart {
    worker: Arc<Worker>,
    /// The farm, when it was looked at last.
    farm: Farm,
    /// When the renewal was sent that succeeded last.
    renewed: Instant,
    claims: Claims,
}

/// Whether the contracts are this worker's.
enum Claims {
    /// They are.
    Held,
    /// Nobody knows: the lease was lost since.
    Lost,
    /// It is being found out, which gives the farm. The lease is renewed meanwhile.
    Reclaiming(BoxFuture<'static, Result<Farm, QueueError>>),
}

impl Heart {
    async fn beat(&mut self) -> Result<(), QueueError> {
        let worker = self.worker.clone();
        let sent = Instant::now();
        if worker.queue.renew_lease(worker.id).await? {
            self.holds_lease(sent);
        } else if !worker.life.is_draining() {
            // Noted before anything is done about it: whichever answer is lost from here on, the
            // contracts are claimed again before the worker acts.
            worker.fence.lost();
            self.claims = Claims::Lost;
            let sent = Instant::now();
            if !worker.queue.register_worker(worker.id).await? {
                tracing::info!("the lease was lost, and is being cleared up after");
                return Ok(());
            }
            self.holds_lease(sent);
        }
        // On its way out a worker has given its lease back on purpose.
        worker
            .queue
            .report_worker(worker.id, &worker.info())
            .await?;
        let depth = worker.queue.inbox_depth(worker.id).await?;
        worker.metrics.inbox_depth.set(depth);
        Ok(())
    }

    /// The lease was renewed, or made, by a command that was sent at `moment`. The fence stays closed
    /// until the contracts are claimed, too.
    fn holds_lease(&mut self, moment: Instant) {
        self.renewed = moment;
        match self.claims {
            Claims::Held => self.worker.fence.renewed(moment),
            Claims::Lost => {
                let reclaiming = reclaim_all(self.worker.clone(), self.farm.clone());
                self.claims = Claims::Reclaiming(reclaiming.boxed());
            }
            Claims::Reclaiming(_) => {}
        }
    }

    /// Claims the contracts again, if that is to be done.
    async fn reclaiming(&mut self) -> Result<Farm, QueueError> {
        match &mut self.claims {
            Claims::Reclaiming(reclaiming) => reclaiming.await,
            Claims::Held | Claims::Lost => std::future::pending().await,
        }
    }

    fn reclaimed(&mut self, outcome: Result<Farm, QueueError>) {
        match outcome {
            Ok(farm) => {
                self.farm = farm;
                self.claims = Claims::Held;
                self.worker.fence.renewed(self.renewed);
            }
            Err(error) => {
                tracing::warn!(%error, "cannot claim the contracts again yet");
                self.claims = Claims::Lost;
            }
        }
    }
}

/// Keeps the contracts that nobody took meanwhile, closes the others; gives the farm. May be done
/// again.
async fn reclaim_all(worker: Arc<Worker>, farm: Farm) -> Result<Farm, QueueError> {
    let current = worker.queue.farm(Some(&farm)).await?;
    let lost_data = current.data != farm.data;
    tracing::warn!(lost_data, "the lease was lost; registered again");
    let contracts = futures::stream::iter(worker.contracts.all()).map(Ok);
    contracts
        .try_for_each_concurrent(RECLAIMED_AT_ONCE, |(address, host)| {
            keep_or_give_up(worker.clone(), address, host, lost_data)
        })
        .await?;
    Ok(current)
}

async fn keep_or_give_up(
    worker: Arc<Worker>,
    address: ContractAddress,
    host: Arc<Host>,
    lost_data: bool,
) -> Result<(), QueueError> {
    if !reclaim(&worker, &address, &host, lost_data).await? {
        let tasks = worker.life.clone();
        tasks.spawn("give up", async move {
            give_up(&worker, &address, &host).await;
        });
    }
    Ok(())
}

async fn reclaim(
    worker: &Worker,
    address: &ContractAddress,
    host: &Host,
    lost_data: bool,
) -> Result<bool, QueueError> {
    let (generation, endpoints, image) = host.status.serves();
    let record = ContractRecord {
        spec: host.spec.clone(),
        generation,
        owner: Some(worker.id),
        endpoints,
        image,
        quarantined_until: 0,
    };
    let queue = &worker.queue;
    if !queue
        .confirm_ownership(address, worker.id, &record, lost_data)
        .await?
    {
        return Ok(false);
    }
    // One that is still being loaded puts its executable there itself.
    if lost_data && let Some(executable) = host.executable() {
        queue
            .store_blob(&host.spec.digest, executable.as_bytes(), address)
            .await?;
    }
    Ok(true)
}

/// Closes a contract that is another worker's meanwhile.
async fn give_up(worker: &Worker, address: &ContractAddress, host: &Arc<Host>) {
    tracing::warn!(contract = %address, "another worker has it now");
    let place = worker.contracts.remove_served_by(address, &host.status);
    host.stop(FailureCode::NotHosted).await;
    drop(place);
}

/// Holds the subscription by which others see that this worker is there.
pub(crate) async fn show_presence(worker: Arc<Worker>) {
    let mut backoff = Backoff::redis();
    loop {
        match worker.queue.subscribe_alive(worker.id).await {
            Ok(mut subscription) => {
                backoff.reset();
                let mut messages = subscription.on_message();
                tokio::select! {
                    // Nothing is ever published; the end of the stream is the connection's.
                    () = async { while messages.next().await.is_some() {} } => {}
                    () = worker.life.stopping() => return,
                }
            }
            Err(error) => tracing::debug!(%error, "cannot show presence"),
        }
        tokio::select! {
            () = backoff.wait() => {}
            () = worker.life.stopping() => return,
        }
    }
}
