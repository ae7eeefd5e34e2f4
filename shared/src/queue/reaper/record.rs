//! The recovery record: what Redis still holds of a dead worker, and what it says about its jobs.

use std::collections::{HashMap, HashSet};

use crate::protocol::frame::unpack_jobs;
use crate::protocol::id::{ContractAddress, WorkerId};
use crate::protocol::job::{EngineKind, Job};
use crate::queue::stream::{CONSUMER, Entry, EntryId, GROUP, read_range};
use crate::queue::{Queue, QueueError};

/// Entries of a dead inbox that are read at once.
const PAGE: usize = 100;

/// How far a dead worker had read its inbox.
pub(super) struct Progress {
    /// The last entry that was delivered to it.
    pub(super) delivered: EntryId,
    /// The delivered entries that it has not acknowledged.
    pub(super) pending: HashSet<String>,
}

/// The contracts that a worker was calling or loading when it died.
///
/// One of them may be the cause of its death. Contracts that it merely owned are not.
pub(super) async fn running_contracts(
    queue: &Queue,
    worker: WorkerId,
    progress: Option<&Progress>,
) -> Result<HashSet<ContractAddress>, QueueError> {
    let mut running = HashSet::new();
    let mut note = |entry: &Entry| {
        // An unreadable frame was never run.
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
        let loads = queue.pending_loads(engine, worker).await?;
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

/// The entries of a dead worker's inbox, read page by page.
pub(super) struct Pages<'a> {
    queue: &'a Queue,
    inbox: String,
    from: String,
}

impl<'a> Pages<'a> {
    pub(super) fn of(queue: &'a Queue, worker: WorkerId) -> Self {
        Self {
            queue,
            inbox: queue.keys().dead_inbox(worker),
            from: "-".to_owned(),
        }
    }

    pub(super) async fn next(&mut self) -> Result<Option<Vec<Entry>>, QueueError> {
        let entries = read_range(self.queue, &self.inbox, &self.from, PAGE).await?;
        let Some(last) = entries.last() else {
            return Ok(None);
        };
        self.from = format!("({}", last.id);
        Ok(Some(entries))
    }
}

impl Queue {
    /// How far a dead worker had read its inbox. None only if Redis says that there is no inbox:
    /// after a mere error the jobs in it would stay without replies.
    pub(super) async fn inbox_progress(
        &self,
        worker: WorkerId,
    ) -> Result<Option<Progress>, QueueError> {
        let inbox = self.keys().dead_inbox(worker);
        let mut connection = self.pooled().await?;
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
