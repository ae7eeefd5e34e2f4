//! What travels: many jobs to one worker, or many replies to one api, as one versioned text.
//!
//! A frame is JSON, so that a person can read the queue with `redis-cli`; payloads stand in it raw
//! and are neither escaped nor parsed again. Jobs and replies are encoded one by one by whoever
//! has them, so that packing a frame is a concatenation.

use serde::{Deserialize, Serialize};

use crate::protocol::id::{ApiId, JobId, WorkerId};
use crate::protocol::job::Job;
use crate::protocol::reply::{Failure, Output};

/// The version of this module's frames. Raise it when an older process could misread a new frame.
pub const VERSION: u32 = 1;

/// Jobs in one frame at most: as many calls as one message to a page takes.
pub const MAX_ITEMS: usize = 128;

/// Bytes in one frame at most, unless a single item is larger. Keeps Redis' replies short.
pub const MAX_BYTES: usize = 64 * 1024;

/// A job and what must be known to run it. A sender may borrow the job and the trace context.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Envelope<J = Job, T = String> {
    /// Names the job in its reply.
    pub id: JobId,
    /// When the caller stops waiting: milliseconds since the epoch by Redis' clock. A job is never
    /// started after it.
    pub deadline: u64,
    /// 1 for the first try.
    pub attempt: u32,
    /// W3C trace context of the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<T>,
    /// The job itself.
    pub job: J,
}

/// Jobs of one sender.
#[derive(Debug, Clone, Deserialize)]
pub struct JobFrame {
    v: u32,
    /// Who awaits the replies; none when nobody does.
    #[serde(default)]
    pub api: Option<ApiId>,
    /// When the frame was sent for the first time, if that got no answer: milliseconds since the epoch
    /// by Redis' clock.
    #[serde(default)]
    pub first_sent: Option<u64>,
    /// The jobs, in the order in which they were sent.
    pub jobs: Vec<Envelope>,
}

/// The reply to one job.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Reply {
    /// Which job.
    pub id: JobId,
    /// The contract's generation when the job ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// How long the job ran, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ran_us: Option<u64>,
    /// What came of it.
    pub outcome: Result<Output, Failure>,
}

/// Replies of one worker.
#[derive(Debug, Clone, Deserialize)]
pub struct ReplyFrame {
    v: u32,
    /// Who sent them.
    pub worker: WorkerId,
    /// In the order in which the jobs ended.
    pub replies: Vec<Reply>,
}

/// Why a text is no frame for this process.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// It cannot be read at all.
    #[error("undecodable frame: {0}")]
    Undecodable(#[from] serde_json::Error),
    /// It is a frame of another version; the jobs in it can at least be answered.
    #[error("frame of version {version}, this process speaks {VERSION}")]
    UnsupportedVersion {
        /// Its version.
        version: u32,
        /// Who awaits the replies.
        api: Option<ApiId>,
        /// The jobs in it.
        jobs: Vec<JobId>,
    },
}

/// What every version of a frame has.
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
        .expect("jobs and replies have no keys but strings, and a Vec takes every byte");
    bytes
}

/// Packs jobs of `api` into a frame.
pub fn pack_jobs<I: AsRef<[u8]>>(api: Option<ApiId>, jobs: impl IntoIterator<Item = I>) -> Vec<u8> {
    let sender = api.map_or(String::new(), |api| format!(r#""api":"{api}","#));
    pack(&format!(r#"{{"v":{VERSION},{sender}"jobs":["#), jobs)
}

/// The same frame as one that may have arrived before, see [`JobFrame::first_sent`].
pub fn pack_jobs_again<I: AsRef<[u8]>>(
    api: ApiId,
    first_sent: u64,
    jobs: impl IntoIterator<Item = I>,
) -> Vec<u8> {
    let head = format!(r#"{{"v":{VERSION},"api":"{api}","first_sent":{first_sent},"jobs":["#);
    pack(&head, jobs)
}

/// Packs replies of `worker` into a frame.
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

/// Whether an item of `size` bytes still belongs into a frame that holds `items` of `bytes`.
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

/// Tells a frame of another version from one that is broken.
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
