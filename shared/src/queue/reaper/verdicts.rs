//! Replies on behalf of a dead worker: whether each job in its inbox may have been started.

use super::record::{Pages, Progress};
use crate::protocol::frame::{FrameError, Reply, encode_item, pack_replies, unpack_jobs};
use crate::protocol::id::WorkerId;
use crate::protocol::reply::{Failure, FailureCode};
use crate::queue::stream::{Entry, EntryId};
use crate::queue::{Queue, QueueError};

/// Replies to every job in the inbox of a dead worker. Returns how many there were.
pub(super) async fn reply_to_all(
    queue: &Queue,
    worker: WorkerId,
    progress: Option<&Progress>,
) -> Result<usize, QueueError> {
    let Some(Progress { delivered, pending }) = progress else {
        return Ok(0);
    };
    let mut replied = 0;
    let mut pages = Pages::of(queue, worker);
    while let Some(entries) = pages.next().await? {
        for entry in &entries {
            let failure = if EntryId::parse(&entry.id) > *delivered {
                Failure::not_started(
                    FailureCode::NotHosted,
                    "The worker died before it started the job",
                )
            } else if pending.contains(&entry.id) {
                Failure::started(
                    FailureCode::WorkerLost,
                    "The worker died; it may have started the job",
                )
            } else {
                continue;
            };
            replied += reply(queue, worker, entry, &failure).await?;
        }
    }
    Ok(replied)
}

async fn reply(
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
            queue
                .record_unreadable(&inbox, &entry.body, &error.to_string())
                .await?;
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
            cpu_us: None,
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
