//! Clears up after workers that died. Every process does it; it may be interrupted anywhere, and
//! the next one finishes it.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use redis::Script;
use tokio::time::Instant;

use super::config::ReaperConfig;
use super::contact::Contact;
use super::inbox::EntryId;
use super::leases::{API_KEYS, LEASE};
use super::orphans::Orphan;
use super::stream::{CONSUMER, Entry, GROUP, range};
use super::{Queue, QueueError};
use crate::protocol::frame::{FrameError, Reply, encode_item, pack_replies, unpack_jobs};
use crate::protocol::id::{ContractAddress, WorkerId};
use crate::protocol::job::{EngineKind, Job, Load};
use crate::protocol::reply::{Failure, FailureCode};
use crate::service::lifecycle::Lifecycle;

/// How often it is looked for dead workers.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How often it is looked for executables that nobody needs. Walks the whole key space.
const SWEEP_EVERY: Duration = Duration::from_mins(1);

/// How long clearing up may take before another process tries.
const LOCK: Duration = Duration::from_secs(10);

/// Entries of a dead inbox that are read at once.
const PAGE: usize = 100;

/// Looks for dead workers, and for what they have left, until the process stops.
pub async fn run(queue: Queue, config: ReaperConfig, life: Lifecycle) {
    let mut swept = Instant::now();
    let mut contact = Contact::new(Instant::now());
    loop {
        // Jitter, so that the processes do not all look at once.
        let pause = LOOK_EVERY.mul_f64(rand::random_range(0.8..1.2));
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = life.stopping() => return,
        }
        if let Err(error) = look(&queue, config, &mut contact).await {
            tracing::debug!(%error, "cannot look for dead workers");
        }
        if swept.elapsed() > SWEEP_EVERY {
            swept = Instant::now();
            if let Err(error) = queue.sweep_blobs().await {
                tracing::debug!(%error, "cannot look for executables that nobody needs");
            }
        }
    }
}

async fn look(
    queue: &Queue,
    config: ReaperConfig,
    contact: &mut Contact,
) -> Result<(), QueueError> {
    queue.forget_silent_apis().await?;
    contact.confirm(Instant::now());
    let suspects = queue.silent_workers().await?;
    if suspects.is_empty()
        || contact.is_fresh(Instant::now())
        || queue.uptime().await? < config.grace
    {
        return Ok(());
    }
    for worker in suspects {
        if queue.begin_reaping(worker).await? {
            tracing::warn!(%worker, "a worker died; clearing up after it");
            if let Err(error) = reap(queue, worker, config).await {
                queue.interrupt_reaping(worker).await?;
                return Err(error);
            }
        }
    }
    Ok(())
}

/// Repeats nothing that was done before, and ends with the evidence's removal.
async fn reap(queue: &Queue, worker: WorkerId, config: ReaperConfig) -> Result<(), QueueError> {
    let progress = queue.progress(worker).await?;
    let running = running(queue, worker, progress.as_ref()).await?;
    let contracts = queue.owned_by(worker).await?;
    for address in &contracts {
        let was_running = running.contains(address);
        orphan(queue, address, worker, was_running, config).await?;
    }
    let answered = answer_all(queue, worker, progress.as_ref()).await?;
    for engine in EngineKind::ALL {
        queue.hand_on_loads(engine, worker).await?;
    }
    queue.end_reaping(worker).await?;
    queue.counts().reaps.increment(1);
    tracing::info!(%worker, contracts = contracts.len(), jobs = answered, "cleared up");
    Ok(())
}

/// How far a dead worker had come with its inbox.
struct Progress {
    /// The last entry that it was given.
    delivered: EntryId,
    /// Those of them that it has not acknowledged.
    pending: HashSet<String>,
}

/// The contracts that a worker had in hand when it died: called, or being loaded. One of them may
/// be the cause; those that it merely hosted are not.
async fn running(
    queue: &Queue,
    worker: WorkerId,
    progress: Option<&Progress>,
) -> Result<HashSet<ContractAddress>, QueueError> {
    let mut running = HashSet::new();
    let mut note = |entry: &Entry| {
        // What cannot be read has not been run.
        let jobs = unpack_jobs(&entry.body).map(|frame| frame.jobs);
        for envelope in jobs.unwrap_or_default() {
            match envelope.job {
                Job::Execute(execute) => drop(running.insert(execute.address)),
                Job::Load(load) => drop(running.insert(load.address)),
                _ => {}
            }
        }
    };
    for engine in EngineKind::ALL {
        let loads = queue.loads_taken_by(engine, worker).await?;
        loads.iter().for_each(&mut note);
    }
    if let Some(progress) = progress {
        let mut pages = Pages::of(queue, worker);
        while let Some(entries) = pages.next().await? {
            let pending = |entry: &&Entry| progress.pending.contains(&entry.id);
            entries.iter().filter(pending).for_each(&mut note);
        }
    }
    Ok(running)
}

async fn orphan(
    queue: &Queue,
    address: &ContractAddress,
    worker: WorkerId,
    was_running: bool,
    config: ReaperConfig,
) -> Result<(), QueueError> {
    match queue
        .orphan(address, worker, was_running, config.quarantine_ms())
        .await?
    {
        Orphan::Adopted => {}
        Orphan::Free => {
            if let Some(record) = queue.contract(address).await? {
                queue
                    .offer(Load {
                        address: address.clone(),
                        spec: record.spec,
                    })
                    .await?;
            }
        }
        Orphan::Quarantined => {
            queue.counts().quarantined_by_deaths.increment(1);
            tracing::error!(contract = %address, "quarantined: its workers died three times");
            queue
                .record_dead_letter(&[
                    ("kind", "quarantine"),
                    ("contract", address.as_str()),
                    ("reason", "its workers died three times within an hour"),
                ])
                .await?;
        }
    }
    queue.erase_hosting(address, worker).await
}

/// The entries of a dead inbox, some at a time.
struct Pages<'a> {
    queue: &'a Queue,
    inbox: String,
    from: String,
}

impl<'a> Pages<'a> {
    fn of(queue: &'a Queue, worker: WorkerId) -> Self {
        Self {
            queue,
            inbox: queue.keys().dead_inbox(worker),
            from: "-".to_owned(),
        }
    }

    async fn next(&mut self) -> Result<Option<Vec<Entry>>, QueueError> {
        let entries = range(self.queue, &self.inbox, &self.from, PAGE).await?;
        let Some(last) = entries.last() else {
            return Ok(None);
        };
        self.from = format!("({}", last.id);
        Ok(Some(entries))
    }
}

/// Tells the apis of every job in the dead inbox whether it may have been started.
async fn answer_all(
    queue: &Queue,
    worker: WorkerId,
    progress: Option<&Progress>,
) -> Result<usize, QueueError> {
    let Some(Progress { delivered, pending }) = progress else {
        return Ok(0);
    };
    let mut answered = 0;
    let mut pages = Pages::of(queue, worker);
    while let Some(entries) = pages.next().await? {
        for entry in &entries {
            let failure = if EntryId::parse(&entry.id) > *delivered {
                Failure::not_started(FailureCode::NotHosted, "The worker died before it")
            } else if pending.contains(&entry.id) {
                Failure::started(FailureCode::WorkerLost, "The worker died with it")
            } else {
                continue;
            };
            answered += answer(queue, worker, entry, &failure).await?;
        }
    }
    Ok(answered)
}

async fn answer(
    queue: &Queue,
    worker: WorkerId,
    entry: &Entry,
    failure: &Failure,
) -> Result<usize, QueueError> {
    let (api, jobs) = match unpack_jobs(&entry.body) {
        Ok(frame) => (frame.api, frame.jobs.iter().map(|job| job.id).collect()),
        Err(FrameError::UnsupportedVersion { api, jobs, .. }) if !jobs.is_empty() => (api, jobs),
        Err(error) => {
            let inbox = queue.keys().dead_inbox(worker);
            queue.bury(&inbox, &entry.body, &error.to_string()).await?;
            return Ok(0);
        }
    };
    let Some(api) = api else { return Ok(0) };
    let replies: Vec<_> = jobs
        .into_iter()
        .map(|id| Reply {
            id,
            generation: None,
            ran_us: None,
            outcome: Err(failure.clone()),
        })
        .map(|reply| encode_item(&reply))
        .collect();
    let count = replies.len();
    queue.counts().reaped(failure.started, count);
    queue
        .settle(worker, &[(api, pack_replies(worker, replies))], &[])
        .await?;
    Ok(count)
}

impl Queue {
    /// Workers that have not reported for longer than a lease.
    async fn silent_workers(&self) -> Result<Vec<WorkerId>, QueueError> {
        let lease = u64::try_from(LEASE.as_millis()).unwrap_or(u64::MAX);
        let ids: Vec<String> = redis::cmd("ZRANGEBYSCORE")
            .arg(self.keys().workers())
            .arg("-inf")
            .arg(self.clock().now_ms().saturating_sub(lease))
            .query_async(&mut self.hot())
            .await?;
        Ok(ids.iter().filter_map(|id| id.parse().ok()).collect())
    }

    /// Declares a worker dead if its lease has ended, and puts its inbox aside. False when it lives,
    /// or when somebody else is clearing up.
    async fn begin_reaping(&self, worker: WorkerId) -> Result<bool, QueueError> {
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
            .arg(u64::try_from(LOCK.as_millis()).unwrap_or(u64::MAX))
            .invoke_async(&mut self.cold().await?)
            .await?)
    }

    /// Lets the next one go on with clearing up at once.
    async fn interrupt_reaping(&self, worker: WorkerId) -> Result<(), QueueError> {
        Ok(redis::cmd("DEL")
            .arg(self.keys().reap_lock(worker))
            .query_async(&mut self.cold().await?)
            .await?)
    }

    /// Strikes apis off the list whose keys have expired.
    async fn forget_silent_apis(&self) -> Result<(), QueueError> {
        let kept = u64::try_from(API_KEYS.as_millis()).unwrap_or(u64::MAX);
        let since = self.clock().now_ms().saturating_sub(kept);
        Ok(redis::cmd("ZREMRANGEBYSCORE")
            .arg(self.keys().apis())
            .arg("-inf")
            .arg(since)
            .query_async(&mut self.hot())
            .await?)
    }

    /// Removes the evidence, and with it all that is known of the worker. Its place among the workers
    /// goes last: by that it is found, should this be interrupted.
    async fn end_reaping(&self, worker: WorkerId) -> Result<(), QueueError> {
        let keys = self.keys();
        let mut connection = self.cold().await?;
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

    /// How far a dead worker had come. None when it had no inbox: only if Redis says so, since
    /// without an answer the evidence would go unseen.
    async fn progress(&self, worker: WorkerId) -> Result<Option<Progress>, QueueError> {
        let inbox = self.keys().dead_inbox(worker);
        let mut connection = self.cold().await?;
        let exists: bool = redis::cmd("EXISTS")
            .arg(&inbox)
            .query_async(&mut connection)
            .await?;
        if !exists {
            return Ok(None);
        }
        let mut groups: Vec<HashMap<String, redis::Value>> = redis::cmd("XINFO")
            .arg(&["GROUPS", &inbox])
            .query_async(&mut connection)
            .await?;
        let delivered = groups
            .pop()
            .and_then(|mut group| group.remove("last-delivered-id"))
            .ok_or_else(|| QueueError::Unexpected(format!("{inbox} has no group")))?;
        let delivered: String = redis::from_redis_value(delivered)
            .map_err(|error| QueueError::Unexpected(error.to_string()))?;
        let mut pending = HashSet::new();
        let mut from = "-".to_owned();
        loop {
            let page: Vec<(String, String, u64, u64)> = redis::cmd("XPENDING")
                .arg(&[&inbox, GROUP, &from, "+"])
                .arg(PAGE)
                .arg(CONSUMER)
                .query_async(&mut connection)
                .await?;
            let Some((last, ..)) = page.last() else { break };
            from = format!("({last}");
            pending.extend(page.into_iter().map(|(id, ..)| id));
        }
        Ok(Some(Progress {
            delivered: EntryId::parse(&delivered),
            pending,
        }))
    }
}
