//! The reaper cleans up after dead workers. Every process runs one.
//!
//! For each dead worker it renames the inbox (the fence), releases the contracts and offers them to
//! other workers, replies to the jobs in the inbox (`verdicts.rs`), and offers pending loads
//! again. What it needs to know is in the recovery record (`record.rs`). A clean-up may be
//! interrupted anywhere: the next reaper repeats or finishes it. Two reapers may clean up after the
//! same worker: every step can be repeated, and nothing depends on the lock.

mod record;
mod verdicts;

use redis::Script;

use self::record::running_contracts;
use self::verdicts::reply_to_all;
use super::config::ReaperConfig;
use super::outage::Outages;
use super::ownership::{Failover, Standing};
use super::timing::{LEASE, REAP_INTERVAL, REAP_LOCK, millis};
use super::{Queue, QueueError};
use crate::protocol::id::{ContractAddress, WorkerId};
use crate::protocol::job::EngineKind;
use crate::service::lifecycle::Lifecycle;
use crate::service::moment::Moment;

/// Cleans up after dead workers until the process stops.
pub async fn run(queue: Queue, config: ReaperConfig, life: Lifecycle) {
    let mut outages = Outages::default();
    loop {
        // Jitter keeps the processes from looking at the same moment.
        let pause = REAP_INTERVAL.mul_f64(rand::random_range(0.8..1.2));
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = life.stopping() => return,
        }
        if let Err(error) = reap_expired(&queue, config, &mut outages).await {
            tracing::debug!(%error, "cannot check for dead workers");
        }
    }
}

async fn reap_expired(
    queue: &Queue,
    config: ReaperConfig,
    outages: &mut Outages,
) -> Result<(), QueueError> {
    outages.record_responses(&queue.servers_that_answer().await, Moment::now());
    // In a cluster, one server may be away while the others answer.
    if let Err(error) = queue.remove_expired_apis().await {
        tracing::debug!(%error, "expired apis not removed yet");
    }
    for worker in queue.expired_workers().await? {
        if let Err(error) = reap(queue, worker, config, outages).await {
            tracing::debug!(%worker, %error, "cannot clean up after a dead worker yet");
        }
    }
    Ok(())
}

async fn reap(
    queue: &Queue,
    worker: WorkerId,
    config: ReaperConfig,
    outages: &Outages,
) -> Result<(), QueueError> {
    let server = queue.server_of(&queue.keys().lease(worker)).await?;
    if outages.is_recovering(server.name(), Moment::now())
        || queue.uptime(&server).await? < config.grace
        || !queue.fence_worker(worker).await?
    {
        return Ok(());
    }
    let lock = queue.keys().reap_lock(worker);
    if let Some(lock) = queue.try_lock(lock, REAP_LOCK).await? {
        tracing::warn!(%worker, "worker dead: cleaning up");
        let cleaned = clean_up(queue, worker, config).await;
        queue.unlock(lock).await?;
        cleaned?;
    }
    Ok(())
}

/// Cleans up after one worker. Removes the recovery record last, so that an interrupted clean-up
/// can be repeated.
async fn clean_up(queue: &Queue, worker: WorkerId, config: ReaperConfig) -> Result<(), QueueError> {
    let progress = queue.inbox_progress(worker).await?;
    let running = running_contracts(queue, worker, progress.as_ref()).await?;
    let contracts = queue.owned_by(worker).await?;
    for address in &contracts {
        let was_running = running.contains(address);
        fail_over(queue, address, worker, was_running, config).await?;
    }
    let replied = reply_to_all(queue, worker, progress.as_ref()).await?;
    for engine in EngineKind::ALL {
        queue.requeue_loads(engine, worker).await?;
    }
    if !queue.finish_cleanup(worker).await? {
        // A failover of Redis has brought the inbox back. The next reaper begins again.
        return Ok(());
    }
    queue.counts().reaps.increment(1);
    tracing::info!(%worker, contracts = contracts.len(), jobs = replied, "dead worker cleaned up");
    Ok(())
}

async fn fail_over(
    queue: &Queue,
    address: &ContractAddress,
    worker: WorkerId,
    was_running: bool,
    config: ReaperConfig,
) -> Result<(), QueueError> {
    let standing = queue.ownership(address).await?.standing;
    // A contract that an earlier attempt has released may not have been offered yet.
    let expected = Standing::of(worker, standing.generation);
    match queue
        .fail_over(address, expected, was_running, config.quarantine_ms())
        .await?
    {
        Failover::Gone => {}
        Failover::Released => {
            if let Some(record) = queue.contract(address).await? {
                queue.offer(address.clone(), record.spec).await?;
            }
        }
        Failover::Quarantined => {
            queue.counts().quarantined_by_deaths.increment(1);
            tracing::error!(contract = %address, "contract quarantined: its workers died three times");
            queue
                .record_dead_letter(&[
                    ("kind", "quarantine"),
                    ("contract", address.as_str()),
                    ("reason", "its workers died three times within an hour"),
                ])
                .await?;
        }
    }
    queue.remove_owned(address, worker).await
}

impl Queue {
    /// Workers whose last heartbeat is older than a lease.
    async fn expired_workers(&self) -> Result<Vec<WorkerId>, QueueError> {
        let ids: Vec<String> = redis::cmd("ZRANGEBYSCORE")
            .arg(self.keys().workers())
            .arg("-inf")
            .arg(self.clock().now_ms().saturating_sub(millis(LEASE)))
            .query_async(&mut self.shared())
            .await?;
        Ok(ids.iter().filter_map(|id| id.parse().ok()).collect())
    }

    /// Removes the recovery record and everything else that Redis stores about the worker. False if
    /// the worker has an inbox again, because a failover of Redis has lost the fence.
    ///
    /// Its entry in the list of workers goes last: if this is interrupted, a reaper finds the
    /// worker there again.
    async fn finish_cleanup(&self, worker: WorkerId) -> Result<bool, QueueError> {
        let script = Script::new(
            "if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
             redis.call('DEL', KEYS[2], KEYS[3], KEYS[4])
             return 1",
        );
        let keys = self.keys();
        let mut connection = self.pooled().await?;
        let removed: bool = script
            .key(keys.inbox(worker))
            .key(keys.dead_inbox(worker))
            .key(keys.own(worker))
            .key(keys.info(worker))
            .invoke_async(&mut connection)
            .await?;
        if removed {
            redis::cmd("ZREM")
                .arg(keys.workers())
                .arg(worker.to_string())
                .query_async::<()>(&mut connection)
                .await?;
        }
        Ok(removed)
    }
}
