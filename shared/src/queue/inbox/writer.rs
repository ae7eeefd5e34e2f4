//! Writing to an inbox: one task per worker packs jobs into frames and appends them.

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::mpsc;

use crate::protocol::frame::{Item, MAX_ITEMS, has_room, pack_jobs, pack_jobs_again};
use crate::protocol::id::{ApiId, JobId, WorkerId};
use crate::queue::timing::{RESEND_FOR, VERDICT_WAIT};
use crate::queue::{Queue, QueueError};
use crate::service::backoff::Backoff;
use crate::service::batch::join_batch;

/// Frames of one writer in flight at most. Two keep Redis busy while a third one fills.
const FRAMES_IN_FLIGHT: usize = 2;

/// Jobs that a frame must hold to be sent while another one is in flight. A frame costs both sides
/// the same whatever it holds, and few jobs lose nothing by waiting for the first frame's answer.
const SECOND_FRAME_MIN: usize = 32;

/// Entries that may wait in an inbox. Above this depth an api refuses calls.
pub const DEPTH_LIMIT: u64 = 512;

/// Jobs of one writer that may wait for a frame.
const WAITING: usize = 16 * 1024;

/// A job to be sent to an inbox.
#[derive(Debug)]
pub struct Outgoing {
    /// Identifies the job if it cannot be delivered.
    pub id: JobId,
    /// The encoded envelope.
    pub item: Item,
}

/// Why jobs were not delivered to an inbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Undelivered {
    /// The inbox does not exist: the worker is gone. The jobs were never started.
    NoInbox,
    /// Redis did not accept the jobs in time.
    Unavailable,
    /// The worker is gone, and it may have received the jobs before.
    Unknown,
}

/// Receives the events of an inbox writer.
pub trait InboxObserver: Send + Sync + 'static {
    /// These jobs will not reach the worker.
    fn undelivered(&self, jobs: Vec<JobId>, reason: Undelivered);
    /// The inbox holds this many entries.
    fn depth(&self, entries: u64);
}

/// Creates an inbox writer: a sender, and the task that drives it. The task ends when every sender
/// is dropped.
pub fn writer(
    queue: Queue,
    api: ApiId,
    worker: WorkerId,
    observer: impl InboxObserver,
) -> (mpsc::Sender<Outgoing>, impl Future<Output = ()> + Send) {
    let (sender, jobs) = mpsc::channel(WAITING);
    (sender, drive(queue, api, worker, observer, jobs))
}

/// Whether a frame of `jobs` is sent now, with `in_flight` other frames unanswered.
fn is_due(jobs: usize, in_flight: usize) -> bool {
    match in_flight {
        0 => jobs > 0,
        1..FRAMES_IN_FLIGHT => jobs >= SECOND_FRAME_MIN,
        _ => false,
    }
}

/// Packs the waiting jobs into frames, with at most [`FRAMES_IN_FLIGHT`] in flight.
async fn drive(
    queue: Queue,
    api: ApiId,
    worker: WorkerId,
    observer: impl InboxObserver,
    mut jobs: mpsc::Receiver<Outgoing>,
) {
    let inbox = queue.keys().inbox(worker);
    let mut in_flight = FuturesUnordered::new();
    let mut awaiting_verdict = FuturesUnordered::new();
    let mut batch = Vec::with_capacity(MAX_ITEMS);
    let mut open = true;
    while open || !in_flight.is_empty() || !awaiting_verdict.is_empty() || !batch.is_empty() {
        let room = MAX_ITEMS - batch.len();
        tokio::select! {
            count = jobs.recv_many(&mut batch, room), if open && room > 0 =>
            {
                open = count > 0;
            }
            Some((sent, jobs)) = in_flight.next() => match sent {
                Ok(Sent::Stored(entries)) => observer.depth(entries),
                Ok(Sent::NoInbox) => observer.undelivered(jobs, Undelivered::NoInbox),
                Ok(Sent::Unknown) => awaiting_verdict.push(async {
                    tokio::time::sleep(VERDICT_WAIT).await;
                    jobs
                }),
                Err(error) => {
                    tracing::warn!(%worker, %error, "jobs could not be queued");
                    observer.undelivered(jobs, Undelivered::Unavailable);
                }
            },
            Some(jobs) = awaiting_verdict.next() => {
                observer.undelivered(jobs, Undelivered::Unknown);
            }
        }
        if is_due(batch.len(), in_flight.len()) {
            let room = MAX_ITEMS - batch.len();
            join_batch(&mut batch, room, || jobs.try_recv().ok()).await;
            for chunk in chunks(std::mem::take(&mut batch)) {
                in_flight.push(send(&queue, &inbox, api, chunk));
            }
        }
    }
}

/// Divides jobs into frames of the allowed size.
fn chunks(jobs: Vec<Outgoing>) -> Vec<Vec<Outgoing>> {
    let mut chunks: Vec<Vec<Outgoing>> = Vec::new();
    let mut bytes = 0;
    for job in jobs {
        match chunks.last_mut() {
            Some(chunk) if has_room(chunk.len(), bytes, job.item.len()) => {
                bytes += job.item.len() + 1;
                chunk.push(job);
            }
            _ => {
                bytes = job.item.len();
                chunks.push(vec![job]);
            }
        }
    }
    chunks
}

/// The outcome of sending a frame.
enum Sent {
    /// The inbox stored it, and now holds this many entries.
    Stored(u64),
    /// The inbox does not exist and never received the frame.
    NoInbox,
    /// The inbox does not exist any more. It may have received the frame: then the worker has
    /// replied, or the reaper that cleans up after it will.
    Unknown,
}

/// Appends one frame.
///
/// A command without an answer may still have been carried out. The same jobs are sent again,
/// because the worker drops jobs that it knows. The repeated frame states when it was first sent:
/// if the worker lost its inbox since, a reaper has already replied to the jobs in it.
async fn send(
    queue: &Queue,
    inbox: &str,
    api: ApiId,
    jobs: Vec<Outgoing>,
) -> (Result<Sent, QueueError>, Vec<JobId>) {
    let size = u32::try_from(jobs.len()).unwrap_or(u32::MAX);
    queue.counts().frame.record(size);
    let items = || jobs.iter().map(|job| &job.item);
    let first_sent = queue.clock().now_ms();
    let mut frame = pack_jobs(Some(api), items());
    let ids = jobs.iter().map(|job| job.id).collect();
    let deadline = tokio::time::Instant::now() + RESEND_FOR;
    let mut backoff = Backoff::redis();
    let mut may_have_arrived = false;
    loop {
        let sent = match append(queue, inbox, &frame).await {
            Err(error) if tokio::time::Instant::now() < deadline => {
                tracing::debug!(%error, "sending a frame again");
                if error.is_ambiguous() && !may_have_arrived {
                    may_have_arrived = true;
                    frame = pack_jobs_again(api, first_sent, items());
                }
                backoff.wait().await;
                continue;
            }
            Ok(Some(entries)) => Ok(Sent::Stored(entries)),
            Ok(None) if may_have_arrived => Ok(Sent::Unknown),
            Ok(None) => Ok(Sent::NoInbox),
            Err(error) => Err(error),
        };
        return (sent, ids);
    }
}

async fn append(queue: &Queue, inbox: &str, frame: &[u8]) -> Result<Option<u64>, QueueError> {
    let (id, depth): (Option<String>, u64) = redis::pipe()
        .cmd("XADD")
        .arg(&[inbox, "NOMKSTREAM", "*", "b"])
        .arg(frame)
        .cmd("XLEN")
        .arg(inbox)
        .query_async(&mut queue.shared())
        .await?;
    Ok(id.map(|_| depth))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_are_divided_into_frames_in_order() {
        let job = |id, size| Outgoing {
            id: JobId(id),
            item: vec![b'x'; size],
        };
        let jobs = vec![
            job(1, 10),
            job(2, 60_000),
            job(3, 6_000),
            job(4, 100_000),
            job(5, 1),
        ];
        let ids: Vec<Vec<u64>> = chunks(jobs)
            .iter()
            .map(|c| c.iter().map(|j| j.id.0).collect())
            .collect();
        assert_eq!(ids, [vec![1, 2], vec![3], vec![4], vec![5]]);
    }

    #[test]
    fn a_second_frame_is_sent_only_with_many_jobs() {
        assert!(is_due(1, 0) && !is_due(0, 0));
        assert!(is_due(SECOND_FRAME_MIN, 1) && !is_due(SECOND_FRAME_MIN - 1, 1));
        assert!(!is_due(MAX_ITEMS, FRAMES_IN_FLIGHT));
    }
}
