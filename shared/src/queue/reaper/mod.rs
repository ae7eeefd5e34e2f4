//! The reaper cleans up after dead workers. Every process runs one.
//!
//! For each dead worker it renames the inbox, releases the contracts and offers them to other
//! workers, replies to the jobs in the inbox (`verdicts.rs`), and offers pending loads again. What
//! it needs to know is in the recovery record (`record.rs`). A clean-up may be interrupted anywhere:
//! the next reaper repeats or finishes it.

mod record;
mod verdicts;

use redis::Script;
use tokio::time::Instant;

use self::record::running_contracts;
use self::verdicts::reply_to_all;
use super::config::ReaperConfig;
use super::failover::Failover;
use super::outage::OutageDetector;
use super::timing::{API_KEYS, LEASE, REAP_INTERVAL, REAP_LOCK, millis};
use super::{Queue, QueueError};
use crate::protocol::id::{ContractAddress, WorkerId};
use crate::protocol::job::{EngineKind, Load};
use crate::service::lifecycle::Lifecycle;

/// Cleans up after dead workers until the process stops.
pub async fn run(queue: Queue, config: ReaperConfig, life: Lifecycle) {
    let mut outages = OutageDetector::new(Instant::now());
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
    outages: &mut OutageDetector,
) -> Result<(), QueueError> {
    queue.remove_expired_apis().await?;
    outages.record_response(Instant::now());
    let suspects = queue.expired_workers().await?;
    if suspects.is_empty()
        || outages.is_recovering(Instant::now())
        || queue.uptime().await? < config.grace
    {
        return Ok(());
    }
    for worker in suspects {
        if queue.begin_cleanup(worker).await? {
            tracing::warn!(%worker, "worker dead: cleaning up");
            if let Err(error) = clean_up(queue, worker, config).await {
                queue.unlock_cleanup(worker).await?;
                return Err(error);
            }
        }
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
    queue.finish_cleanup(worker).await?;
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
    match queue
        .fail_over(address, worker, was_running, config.quarantine_ms())
        .await?
    {
        Failover::Reassigned => {}
        Failover::Released => {
            if let Some(record) = queue.contract(address).await? {
                queue
                    .offer(Load {
                        address: address.clone(),
                        spec: record.spec,
                    })
                    .await?;
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

    /// Declares a worker dead if its lease has lapsed: takes the clean-up lock and renames the
    /// inbox. False if the worker lives or another reaper holds the lock.
    async fn begin_cleanup(&self, worker: WorkerId) -> Result<bool, QueueError> {
        let script = Script::new(
            "if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
             if not redis.call('SET', KEYS[4], '1', 'NX', 'PX', ARGV[1]) then return 0 end
             if redis.call('EXISTS', KEYS[2]) == 1 then
                 redis.call('RENAME', KEYS[2], KEYS[3])
             end
             return 1",
        );
        let keys = self.keys();
        Ok(script
            .key(keys.lease(worker))
            .key(keys.inbox(worker))
            .key(keys.dead_inbox(worker))
            .key(keys.reap_lock(worker))
            .arg(millis(REAP_LOCK))
            .invoke_async(&mut self.pooled().await?)
            .await?)
    }

    /// Removes the clean-up lock, so that another attempt can begin at once.
    async fn unlock_cleanup(&self, worker: WorkerId) -> Result<(), QueueError> {
        Ok(redis::cmd("DEL")
            .arg(self.keys().reap_lock(worker))
            .query_async(&mut self.pooled().await?)
            .await?)
    }

    /// Removes apis whose keys have expired from the list of apis.
    async fn remove_expired_apis(&self) -> Result<(), QueueError> {
        let since = self.clock().now_ms().saturating_sub(millis(API_KEYS));
        Ok(redis::cmd("ZREMRANGEBYSCORE")
            .arg(self.keys().apis())
            .arg("-inf")
            .arg(since)
            .query_async(&mut self.shared())
            .await?)
    }

    /// Removes the recovery record and everything else that Redis stores about the worker.
    ///
    /// Its entry in the list of workers goes last: if this is interrupted, a reaper finds the
    /// worker there again.
    async fn finish_cleanup(&self, worker: WorkerId) -> Result<(), QueueError> {
        let keys = self.keys();
        let mut connection = self.pooled().await?;
        redis::cmd("DEL")
            .arg(keys.dead_inbox(worker))
            .arg(keys.own(worker))
            .arg(keys.info(worker))
            .arg(keys.reap_lock(worker))
            .query_async::<()>(&mut connection)
            .await?;
        Ok(redis::cmd("ZREM")
            .arg(keys.workers())
            .arg(worker.to_string())
            .query_async(&mut connection)
            .await?)
    }
}
