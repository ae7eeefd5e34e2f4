//! Frames: many jobs to one worker, or many replies to one api, in one versioned text.
//!
//! A frame is JSON, so that the queue can be read with `redis-cli`. Payloads are embedded raw: they
//! are neither escaped nor parsed again. Each sender encodes its jobs or replies one by one, so
//! that packing a frame is a concatenation.
//!
//! ```
//! use shared::protocol::frame::{Envelope, encode_item, pack_jobs, unpack_jobs};
//! use shared::protocol::id::{ApiId, JobId};
//! use shared::protocol::job::{Inspect, Job};
//!
//! let job: Envelope = Envelope {
//!     id: JobId(1),
//!     deadline: 1_767_225_600_000,
//!     attempt: 1,
//!     trace: None,
//!     request: None,
//!     job: Job::Inspect(Inspect { address: None, top: None, follow_ms: None }),
//! };
//! let api = ApiId::random();
//! let frame = pack_jobs(Some(api), [encode_item(&job)]);
//! assert!(frame.starts_with(br#"{"v":1,"api":""#));
//!
//! let received = unpack_jobs(&frame)?;
//! assert_eq!(received.api, Some(api));
//! assert_eq!(received.jobs[0].id, JobId(1));
//! # Ok::<_, shared::protocol::frame::FrameError>(())
//! ```

use serde::{Deserialize, Serialize};

use crate::protocol::id::{ApiId, JobId, WorkerId};
use crate::protocol::job::Job;
use crate::protocol::reply::{Failure, Output};

/// The version of the frames. Raise it if an older process could misread a new frame.
pub const VERSION: u32 = 1;

/// The most jobs in one frame: as many as the calls in one message to a page.
pub const MAX_ITEMS: usize = 128;

/// The most bytes in one frame, unless a single item is larger. Keeps the replies of Redis short.
pub const MAX_BYTES: usize = 64 * 1024;

/// A job and what must be known to run it. A sender may borrow the job and the texts.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Envelope<J = Job, T = String> {
    /// Identifies the job in its reply.
    pub id: JobId,
    /// When the caller stops waiting, in milliseconds since the epoch by the clock of Redis. A job
    /// is never started after its deadline.
    pub deadline: u64,
    /// The number of the attempt, starting at 1.
    pub attempt: u32,
    /// The W3C trace context of the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<T>,
    /// The id of the request, for the log. Older apis do not send it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<T>,
    /// The job itself.
    pub job: J,
}

/// A frame of jobs from one api, or from a process that expects no replies.
#[derive(Debug, Clone, Deserialize)]
pub struct JobFrame {
    v: u32,
    /// The api that waits for the replies, if there is one.
    #[serde(default)]
    pub api: Option<ApiId>,
    /// When the frame was first sent, if that attempt got no answer. In milliseconds since the
    /// epoch by the clock of Redis.
    #[serde(default)]
    pub first_sent: Option<u64>,
    /// The jobs, in the order in which they were sent.
    pub jobs: Vec<Envelope>,
}

/// The reply to one job.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Reply {
    /// The job.
    pub id: JobId,
    /// The contract's generation when the job ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// How long the job ran, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ran_us: Option<u64>,
    /// The processor time that the job used, in microseconds, if the engine measures it. Older
    /// workers do not send it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_us: Option<u64>,
    /// The outcome.
    pub outcome: Result<Output, Failure>,
}

/// A frame of replies from one worker.
#[derive(Debug, Clone, Deserialize)]
pub struct ReplyFrame {
    v: u32,
    /// The worker that sent them.
    pub worker: WorkerId,
    /// The replies, in the order in which the jobs ended.
    pub replies: Vec<Reply>,
}

/// Why a text cannot be read as a frame.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// It cannot be parsed at all.
    #[error("undecodable frame: {0}")]
    Undecodable(#[from] serde_json::Error),
    /// It is a frame of another version. Its jobs can still be rejected with a reply.
    #[error("frame of version {version}; this process supports version {VERSION}")]
    UnsupportedVersion {
        /// Its version.
        version: u32,
        /// The api that waits for the replies.
        api: Option<ApiId>,
        /// The jobs in the frame.
        jobs: Vec<JobId>,
    },
}

/// The fields that every version of a frame has.
#[derive(Deserialize)]
struct Header {
    v: u32,
    #[serde(default)]
    api: Option<ApiId>,
    #[serde(default)]
    jobs: Vec<Named>,
}

#[derive(Deserialize)]
struct Named {
    id: JobId,
}

/// One job or reply, encoded.
pub type Item = Vec<u8>;

/// Encodes a job or a reply.
pub fn encode_item(item: &impl Serialize) -> Item {
    let mut bytes = Vec::with_capacity(256);
    serde_json::to_writer(&mut bytes, item)
        .expect("jobs and replies have string keys only, and writing to a Vec cannot fail");
    bytes
}

/// Packs encoded jobs into a frame. The replies go to `api`, if there is one.
pub fn pack_jobs<I: AsRef<[u8]>>(api: Option<ApiId>, jobs: impl IntoIterator<Item = I>) -> Vec<u8> {
    let sender = api.map_or(String::new(), |api| format!(r#""api":"{api}","#));
    pack(&format!(r#"{{"v":{VERSION},{sender}"jobs":["#), jobs)
}

/// As [`pack_jobs`], for a frame that may have arrived before. See [`JobFrame::first_sent`].
pub fn pack_jobs_again<I: AsRef<[u8]>>(
    api: ApiId,
    first_sent: u64,
    jobs: impl IntoIterator<Item = I>,
) -> Vec<u8> {
    let head = format!(r#"{{"v":{VERSION},"api":"{api}","first_sent":{first_sent},"jobs":["#);
    pack(&head, jobs)
}

/// Packs encoded replies of `worker` into a frame.
///
/// ```
/// use shared::protocol::frame::{Reply, encode_item, pack_replies, unpack_replies};
/// use shared::protocol::id::{JobId, WorkerId};
/// use shared::protocol::reply::Output;
///
/// let reply = Reply {
///     id: JobId(1),
///     generation: Some(3),
///     ran_us: Some(850),
///     cpu_us: Some(420),
///     outcome: Ok(Output::Done),
/// };
/// let worker = WorkerId::random();
/// let frame = unpack_replies(&pack_replies(worker, [encode_item(&reply)]))?;
/// assert_eq!(frame.worker, worker);
/// assert_eq!(frame.replies[0].generation, Some(3));
/// # Ok::<_, shared::protocol::frame::FrameError>(())
/// ```
pub fn pack_replies<I: AsRef<[u8]>>(
    worker: WorkerId,
    replies: impl IntoIterator<Item = I>,
) -> Vec<u8> {
    pack(
        &format!(r#"{{"v":{VERSION},"worker":"{worker}","replies":["#),
        replies,
    )
}

fn pack<I: AsRef<[u8]>>(head: &str, items: impl IntoIterator<Item = I>) -> Vec<u8> {
    let mut frame = Vec::with_capacity(4096);
    frame.extend_from_slice(head.as_bytes());
    for (index, item) in items.into_iter().enumerate() {
        if index > 0 {
            frame.push(b',');
        }
        frame.extend_from_slice(item.as_ref());
    }
    frame.extend_from_slice(b"]}");
    frame
}

/// Whether an item of `size` bytes still fits into a frame that holds `items` items of `bytes`
/// bytes.
pub fn has_room(items: usize, bytes: usize, size: usize) -> bool {
    items == 0 || (items < MAX_ITEMS && bytes + size < MAX_BYTES)
}

/// Reads a frame of jobs.
pub fn unpack_jobs(text: &[u8]) -> Result<JobFrame, FrameError> {
    match serde_json::from_slice(text) {
        Ok(frame @ JobFrame { v: VERSION, .. }) => Ok(frame),
        other => Err(diagnose(text, other.err())),
    }
}

/// Reads a frame of replies.
pub fn unpack_replies(text: &[u8]) -> Result<ReplyFrame, FrameError> {
    match serde_json::from_slice(text) {
        Ok(frame @ ReplyFrame { v: VERSION, .. }) => Ok(frame),
        other => Err(diagnose(text, other.err())),
    }
}

/// Distinguishes a frame of another version from a broken one.
fn diagnose(text: &[u8], error: Option<serde_json::Error>) -> FrameError {
    match (serde_json::from_slice::<Header>(text), error) {
        (Ok(Header { v: VERSION, .. }), Some(error)) | (Err(error), _) => error.into(),
        (Ok(header), _) => FrameError::UnsupportedVersion {
            version: header.v,
            api: header.api,
            jobs: header.jobs.into_iter().map(|job| job.id).collect(),
        },
    }
}

#[cfg(test)]
mod tests;
