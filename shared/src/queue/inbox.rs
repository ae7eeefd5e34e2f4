//! A worker's inbox: apis append frames of jobs, the worker alone reads them.
//!
//! Never trimmed by length: that would drop the oldest calls.

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use redis::Value;
use redis::aio::MultiplexedConnection;
use tokio::sync::mpsc;

use super::counts::Observed;
use super::stream::{CONSUMER, Entry, GROUP, entries};
use super::timing::{BLOCK, RESEND_FOR, VERDICT_WAIT, millis};
use super::{Queue, QueueError};
use crate::protocol::frame::{Item, MAX_ITEMS, has_room, pack_jobs, pack_jobs_again};
use crate::protocol::id::{ApiId, JobId, WorkerId};
use crate::service::backoff::Backoff;
use crate::service::gather::join_batch;

/// Frames of one writer under way at most. Two keep Redis busy while a third gathers.
const FRAMES_UNDER_WAY: usize = 2;

/// A second frame leaves only with so many jobs: whatever a frame holds, it costs both sides the
/// same, and few jobs lose nothing by waiting for the first one's answer.
const WORTH_A_SECOND: usize = 32;

/// Entries that wait in an inbox at most; beyond, an api refuses calls instead of adding to them.
pub const DEPTH_LIMIT: u64 = 512;

/// Entries that a worker reads at once.
const READ_COUNT: usize = 64;

/// Jobs that wait for a frame at most, per writer.
const WAITING: usize = 16 * 1024;

/// A job on its way into an inbox.
#[derive(Debug)]
pub struct Outgoing {
    /// Names the job when it is refused.
    pub id: JobId,
    /// The encoded envelope.
    pub item: Item,
}

/// Why jobs did not get into an inbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such inbox: the worker is gone. The jobs were never started.
    NoInbox,
    /// Redis did not take them in time.
    Unavailable,
    /// The worker is gone, and it is not known whether it was given the jobs before.
    Unknown,
}

/// Where an inbox writer's news go.
pub trait Refusals: Send + Sync + 'static {
    /// These jobs will not reach the worker.
    fn refused(&self, jobs: Vec<JobId>, refusal: Refusal);
    /// So many entries wait in the inbox.
    fn depth(&self, entries: u64);
}

/// Makes an inbox writer: a sender, and the task that drives it. The task ends when every sender
/// is gone.
pub fn writer(
    queue: Queue,
    api: ApiId,
    worker: WorkerId,
    refusals: impl Refusals,
) -> (mpsc::Sender<Outgoing>, impl Future<Output = ()> + Send) {
    let (sender, jobs) = mpsc::channel(WAITING);
    (sender, drive(queue, api, worker, refusals, jobs))
}

/// Whether a frame of so many jobs leaves now, beside those under way.
fn leaves(jobs: usize, under_way: usize) -> bool {
    match under_way {
        0 => jobs > 0,
        1..FRAMES_UNDER_WAY => jobs >= WORTH_A_SECOND,
        _ => false,
    }
}

/// Packs what has gathered, while at most [`FRAMES_UNDER_WAY`] are under way.
async fn drive(
    queue: Queue,
    api: ApiId,
    worker: WorkerId,
    refusals: impl Refusals,
    mut jobs: mpsc::Receiver<Outgoing>,
) {
    let inbox = queue.keys().inbox(worker);
    let mut under_way = FuturesUnordered::new();
    let mut awaiting_verdict = FuturesUnordered::new();
    let mut gathered = Vec::with_capacity(MAX_ITEMS);
    let mut open = true;
    while open || !under_way.is_empty() || !awaiting_verdict.is_empty() || !gathered.is_empty() {
        let room = MAX_ITEMS - gathered.len();
        tokio::select! {
            count = jobs.recv_many(&mut gathered, room), if open && room > 0 =>
            {
                open = count > 0;
            }
            Some((sent, jobs)) = under_way.next() => match sent {
                Ok(Sent::Taken(entries)) => refusals.depth(entries),
                Ok(Sent::NoInbox) => refusals.refused(jobs, Refusal::NoInbox),
                Ok(Sent::Unknown) => awaiting_verdict.push(async {
                    tokio::time::sleep(VERDICT_WAIT).await;
                    jobs
                }),
                Err(error) => {
                    tracing::warn!(%worker, %error, "jobs could not be queued");
                    refusals.refused(jobs, Refusal::Unavailable);
                }
            },
            Some(jobs) = awaiting_verdict.next() => refusals.refused(jobs, Refusal::Unknown),
        }
        if leaves(gathered.len(), under_way.len()) {
            let room = MAX_ITEMS - gathered.len();
            join_batch(&mut gathered, room, || jobs.try_recv().ok()).await;
            for chunk in chunks(std::mem::take(&mut gathered)) {
                under_way.push(send(&queue, &inbox, api, chunk));
            }
        }
    }
}

/// Divides jobs into frames of allowed size.
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

/// What became of a frame.
enum Sent {
    /// The inbox has it, and holds so many entries.
    Taken(u64),
    /// There is no inbox, and it never had the frame.
    NoInbox,
    /// There is no inbox any more. It may have had the frame: then the worker has answered, or
    /// whoever clears up after it will.
    Unknown,
}

/// Appends one frame.
///
/// A command that got no answer may still have been carried out. The same jobs are sent again all
/// the same: the worker drops those that it knows. It is told since when they have been under way:
/// should it have lost its inbox since, others have answered for what was in there.
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
    let mut sent_before = false;
    loop {
        let sent = match append(queue, inbox, &frame).await {
            Err(error) if tokio::time::Instant::now() < deadline => {
                tracing::debug!(%error, "sending a frame again");
                if error.is_ambiguous() && !sent_before {
                    sent_before = true;
                    frame = pack_jobs_again(api, first_sent, items());
                }
                backoff.wait().await;
                continue;
            }
            Ok(Some(entries)) => Ok(Sent::Taken(entries)),
            Ok(None) if sent_before => Ok(Sent::Unknown),
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
        .query_async(&mut queue.hot())
        .await?;
    Ok(id.map(|_| depth))
}

/// An entry of an inbox: pending until it is acknowledged.
#[derive(Debug)]
pub struct Received {
    /// Names the entry in its acknowledgement.
    pub entry: String,
    /// The frame, undecoded.
    pub frame: Vec<u8>,
}

/// Reads one worker's inbox, over a connection of its own.
#[derive(Debug)]
pub struct Reader {
    queue: Queue,
    inbox: String,
    connection: Option<Observed<MultiplexedConnection>>,
    /// Whether something may be pending that an earlier connection was given and lost.
    catching_up: bool,
    /// The last entry that was handed on. Ids grow, and an entry is delivered in their order.
    last: EntryId,
    backoff: Backoff,
}

impl Queue {
    /// How many entries of a worker's inbox are not settled.
    pub async fn inbox_depth(&self, worker: WorkerId) -> Result<u32, QueueError> {
        Ok(redis::cmd("XLEN")
            .arg(self.keys().inbox(worker))
            .query_async(&mut self.hot())
            .await?)
    }
}

impl Reader {
    /// Reads the inbox of `worker`.
    pub fn new(queue: Queue, worker: WorkerId) -> Self {
        let inbox = queue.keys().inbox(worker);
        Self {
            queue,
            inbox,
            connection: None,
            catching_up: true,
            last: EntryId::default(),
            backoff: Backoff::redis(),
        }
    }

    /// Waits up to two seconds for new entries; none came if the answer is empty. Trouble with
    /// Redis is logged and waited out.
    pub async fn read(&mut self) -> Vec<Received> {
        match self.try_read().await {
            Ok(entries) => {
                self.backoff.reset();
                entries
            }
            Err(error) => {
                tracing::warn!(%error, "cannot read the inbox");
                self.connection = None;
                self.backoff.wait().await;
                Vec::new()
            }
        }
    }

    async fn try_read(&mut self) -> Result<Vec<Received>, QueueError> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => {
                self.catching_up = true;
                none.insert(self.queue.blocking().await?)
            }
        };
        if self.catching_up {
            // What was delivered to the broken connection and never arrived is pending, and younger
            // than all that did arrive.
            let pending = read_group(connection, &self.inbox, &self.last.to_string()).await?;
            self.catching_up = !pending.is_empty();
            if self.catching_up {
                return Ok(self.hand_on(pending));
            }
        }
        let fresh = read_group(connection, &self.inbox, ">").await?;
        Ok(self.hand_on(fresh))
    }

    fn hand_on(&mut self, entries: Vec<Entry>) -> Vec<Received> {
        let mut received = Vec::with_capacity(entries.len());
        for Entry { id, body } in entries {
            let position = EntryId::parse(&id);
            if position > self.last {
                self.last = position;
                received.push(Received {
                    entry: id,
                    frame: body,
                });
            }
        }
        received
    }
}

async fn read_group(
    connection: &mut Observed<MultiplexedConnection>,
    inbox: &str,
    from: &str,
) -> Result<Vec<Entry>, QueueError> {
    let reply: Value = redis::cmd("XREADGROUP")
        .arg(&["GROUP", GROUP, CONSUMER, "COUNT"])
        .arg(READ_COUNT)
        .arg("BLOCK")
        .arg(millis(BLOCK))
        .arg(&["STREAMS", inbox, from])
        .query_async(connection)
        .await
        // The inbox was closed while it was read.
        .or_else(|error| match error.code() {
            Some("UNBLOCKED") => Ok(Value::Nil),
            _ => Err(error),
        })?;
    entries(reply)
}

/// A stream's entry id: milliseconds and a sequence number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct EntryId(u64, u64);

impl std::fmt::Display for EntryId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.0, self.1)
    }
}

impl EntryId {
    pub(super) fn parse(text: &str) -> Self {
        let (millis, sequence) = text.split_once('-').unwrap_or((text, "0"));
        Self(
            millis.parse().unwrap_or_default(),
            sequence.parse().unwrap_or_default(),
        )
    }
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
    fn a_second_frame_leaves_only_with_many_jobs() {
        assert!(leaves(1, 0) && !leaves(0, 0));
        assert!(leaves(WORTH_A_SECOND, 1) && !leaves(WORTH_A_SECOND - 1, 1));
        assert!(!leaves(MAX_ITEMS, FRAMES_UNDER_WAY));
    }

    #[test]
    fn entry_ids_are_ordered_as_numbers() {
        assert!(EntryId::parse("9-2") < EntryId::parse("10-1"));
        assert!(EntryId::parse("10-2") < EntryId::parse("10-10"));
    }
}
