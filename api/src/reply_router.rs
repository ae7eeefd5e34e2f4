//! Delivers replies to the requests that await them: one reader for each reply stream, one map of
//! waiters.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use shared::protocol::frame::{Reply, unpack_replies};
use shared::protocol::id::{ApiId, JobId};
use shared::queue::inbox::Undelivered;
use shared::queue::timing::REPLIES_STALE_AFTER;
use shared::queue::{Queue, replies};
use shared::service::lifecycle::Lifecycle;
use tokio::sync::oneshot;

/// How often entries that were read are removed from the stream.
const TRIM_EVERY: Duration = Duration::from_secs(1);

/// How a wait for a job ends.
#[derive(Debug)]
pub(crate) enum WaitOutcome {
    /// The worker's reply.
    Reply(Reply),
    /// The job did not reach a worker.
    Refused(Undelivered),
    /// The job or its reply was lost with Redis' data. The job may have been started.
    Lost,
}

type Pending = HashMap<JobId, Awaited>;

/// A job that somebody waits for.
#[derive(Debug)]
struct Awaited {
    /// Where its reply will be.
    stream: ApiId,
    waiter: oneshot::Sender<WaitOutcome>,
}

/// The jobs of this process that have not ended.
#[derive(Debug, Default)]
pub(crate) struct Waiters {
    last_id: AtomicU64,
    unclaimed_replies: AtomicU64,
    pending: Mutex<Pending>,
}

/// Waits for one job to end. Unregistered on drop.
#[derive(Debug)]
pub(crate) struct Waiter {
    pub(crate) id: JobId,
    outcome: oneshot::Receiver<WaitOutcome>,
    waiters: Arc<Waiters>,
}

impl Waiters {
    /// Registers a waiter under a new job id, for a reply in this stream.
    pub(crate) fn register(self: &Arc<Self>, stream: ApiId) -> Waiter {
        let id = self.next_id();
        let (waiter, outcome) = oneshot::channel();
        self.lock().insert(id, Awaited { stream, waiter });
        Waiter {
            id,
            outcome,
            waiters: self.clone(),
        }
    }

    /// An id that no other job of this process has.
    pub(crate) fn next_id(&self) -> JobId {
        JobId(self.last_id.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// Ends the wait for a job. Only the first outcome is delivered; later ones are dropped, and
    /// counted if they are replies.
    pub(crate) fn resolve(&self, id: JobId, outcome: WaitOutcome) {
        let is_reply = matches!(outcome, WaitOutcome::Reply(_));
        let awaited = self.lock().remove(&id);
        // Sending fails if the waiter was dropped at the same moment.
        if awaited.is_none_or(|job| job.waiter.send(outcome).is_err()) && is_reply {
            self.unclaimed_replies.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(job = id.0, "reply without a waiter");
        }
    }

    /// How many replies had no waiter.
    pub(crate) fn unclaimed_replies(&self) -> u64 {
        self.unclaimed_replies.load(Ordering::Relaxed)
    }

    /// Ends every wait for a reply in this stream with [`WaitOutcome::Lost`]; returns their number.
    pub(crate) fn lose(&self, stream: ApiId) -> usize {
        let lost: Vec<_> = self
            .lock()
            .extract_if(|_, job| job.stream == stream)
            .collect();
        let count = lost.len();
        for (_, job) in lost {
            // Sending fails if the waiter was dropped at the same moment.
            _ = job.waiter.send(WaitOutcome::Lost);
        }
        count
    }

    fn lock(&self) -> MutexGuard<'_, Pending> {
        // No holder of the lock can panic half-way, so a poisoned map is intact.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiter {
    /// Waits until the job ends, without a limit.
    pub(crate) async fn outcome(mut self) -> Option<WaitOutcome> {
        (&mut self.outcome).await.ok()
    }

    /// Waits until the job ends, for `patience` at most.
    pub(crate) async fn outcome_within(self, patience: Duration) -> Option<WaitOutcome> {
        tokio::time::timeout(patience, self.outcome()).await.ok()?
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.waiters.lock().remove(&self.id);
    }
}

/// Whether a reader is running; shared with `/readyz`.
#[derive(Debug, Clone)]
pub(crate) struct ReaderHealth(Arc<Mutex<Instant>>);

impl Default for ReaderHealth {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }
}

impl ReaderHealth {
    fn confirm(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    pub(crate) fn is_reading(&self) -> bool {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .elapsed()
            < REPLIES_STALE_AFTER
    }
}

/// Reads the replies to `api` until the process stops.
pub(crate) async fn read(
    queue: Queue,
    api: ApiId,
    waiters: Arc<Waiters>,
    health: ReaderHealth,
    life: Lifecycle,
) {
    let mut reader = replies::Reader::new(queue.clone(), api);
    let mut trimmed = Instant::now();
    loop {
        // May be dropped: unlike a worker's read, this one does not claim entries of the stream.
        let frames = tokio::select! {
            frames = reader.read() => frames,
            () = life.stopping() => return,
        };
        if reader.is_connected() {
            health.confirm();
        }
        for frame in frames {
            deliver(&waiters, &frame);
        }
        if trimmed.elapsed() > TRIM_EVERY {
            trimmed = Instant::now();
            if let Err(error) = queue.trim_replies(api, reader.last()).await {
                tracing::warn!(%error, "cannot trim the reply stream");
            }
        }
    }
}

fn deliver(waiters: &Waiters, frame: &[u8]) {
    match unpack_replies(frame) {
        Ok(frame) => {
            for reply in frame.replies {
                waiters.resolve(reply.id, WaitOutcome::Reply(reply));
            }
        }
        Err(error) => tracing::error!(%error, "undecodable reply frame"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_first_outcome_is_delivered() {
        let waiters = Arc::new(Waiters::default());
        let stream = ApiId::random();
        let (first, second) = (waiters.register(stream), waiters.register(stream));
        assert_ne!(first.id, second.id);
        waiters.resolve(second.id, WaitOutcome::Refused(Undelivered::NoInbox));
        waiters.resolve(second.id, WaitOutcome::Refused(Undelivered::Unavailable));
        let outcome = second.outcome_within(Duration::from_secs(1)).await;
        assert!(matches!(
            outcome,
            Some(WaitOutcome::Refused(Undelivered::NoInbox))
        ));
        drop(first);
        assert!(waiters.lock().is_empty());
    }

    #[tokio::test]
    async fn a_lost_stream_ends_only_its_own_waits() {
        let waiters = Arc::new(Waiters::default());
        let (lost, other) = (ApiId::random(), ApiId::random());
        let (first, second) = (waiters.register(lost), waiters.register(other));
        assert_eq!(waiters.lose(lost), 1);
        assert!(matches!(first.outcome().await, Some(WaitOutcome::Lost)));
        assert_eq!(waiters.lock().len(), 1);
        drop(second);
    }

    #[tokio::test]
    async fn a_waiter_without_an_outcome_times_out() {
        let waiters = Arc::new(Waiters::default());
        assert!(
            waiters
                .register(ApiId::random())
                .outcome_within(Duration::from_millis(1))
                .await
                .is_none()
        );
        assert!(waiters.lock().is_empty());
    }
}
