//! Brings replies to whoever waits for them: one reader of the reply stream, one map of waiters.

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

/// How often what was read is removed from the stream.
const TRIM_EVERY: Duration = Duration::from_secs(1);

/// What a waiter gets.
#[derive(Debug)]
pub(crate) enum Answer {
    /// The worker's reply.
    Reply(Reply),
    /// The job did not reach a worker.
    Refused(Undelivered),
    /// The job or its reply is lost: it may have been started.
    Lost,
}

type Pending = HashMap<JobId, oneshot::Sender<Answer>>;

/// The jobs of this process that await an answer.
#[derive(Debug, Default)]
pub(crate) struct Waiters {
    last: AtomicU64,
    unclaimed: AtomicU64,
    pending: Mutex<Pending>,
}

/// Waits for one job's answer; forgotten on drop.
#[derive(Debug)]
pub(crate) struct Waiter {
    pub(crate) id: JobId,
    answer: oneshot::Receiver<Answer>,
    waiters: Arc<Waiters>,
}

impl Waiters {
    /// A new job, and the waiter for its answer.
    pub(crate) fn register(self: &Arc<Self>) -> Waiter {
        let id = self.fresh_id();
        let (sender, answer) = oneshot::channel();
        self.lock().insert(id, sender);
        Waiter {
            id,
            answer,
            waiters: self.clone(),
        }
    }

    /// An id that no job has.
    pub(crate) fn fresh_id(&self) -> JobId {
        JobId(self.last.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// Delivers an answer once; a later one to the same job finds nobody and is dropped, and counted if
    /// it is a worker's.
    pub(crate) fn deliver(&self, id: JobId, answer: Answer) {
        let is_reply = matches!(answer, Answer::Reply(_));
        let waiter = self.lock().remove(&id);
        // Failing to send means that the caller left in this very moment.
        if waiter.is_none_or(|waiter| waiter.send(answer).is_err()) && is_reply {
            self.unclaimed.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(job = id.0, "an answer nobody waits for");
        }
    }

    /// How many replies have found nobody.
    pub(crate) fn unclaimed(&self) -> u64 {
        self.unclaimed.load(Ordering::Relaxed)
    }

    /// Tells every waiter that its answer will not come; gives their number.
    pub(crate) fn lose_all(&self) -> usize {
        let waiters: Vec<_> = self.lock().drain().collect();
        let count = waiters.len();
        for (_, waiter) in waiters {
            // Failing to send means that the caller left in this very moment.
            _ = waiter.send(Answer::Lost);
        }
        count
    }

    fn lock(&self) -> MutexGuard<'_, Pending> {
        // Nothing in here can panic half-way, so a poisoned map is a whole one.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiter {
    /// Waits for the answer, however long it takes.
    pub(crate) async fn answer(mut self) -> Option<Answer> {
        (&mut self.answer).await.ok()
    }

    /// Waits for the answer, for `patience` at most.
    pub(crate) async fn wait(self, patience: Duration) -> Option<Answer> {
        tokio::time::timeout(patience, self.answer()).await.ok()?
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.waiters.lock().remove(&self.id);
    }
}

/// Whether the reader is running.
#[derive(Debug, Clone)]
pub(crate) struct Health(Arc<Mutex<Instant>>);

impl Default for Health {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }
}

impl Health {
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
    health: Health,
    life: Lifecycle,
) {
    let mut reader = replies::Reader::new(queue.clone(), api);
    let mut trimmed = Instant::now();
    loop {
        // Unlike a worker's read, this one takes nothing out of the stream: it may be dropped.
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
                waiters.deliver(reply.id, Answer::Reply(reply));
            }
        }
        Err(error) => tracing::error!(%error, "replies that cannot be read"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_answer_finds_its_waiter_once() {
        let waiters = Arc::new(Waiters::default());
        let (first, second) = (waiters.register(), waiters.register());
        assert_ne!(first.id, second.id);
        waiters.deliver(second.id, Answer::Refused(Undelivered::NoInbox));
        waiters.deliver(second.id, Answer::Refused(Undelivered::Unavailable));
        let answer = second.wait(Duration::from_secs(1)).await;
        assert!(matches!(
            answer,
            Some(Answer::Refused(Undelivered::NoInbox))
        ));
        drop(first);
        assert!(waiters.lock().is_empty());
    }

    #[tokio::test]
    async fn patience_ends() {
        let waiters = Arc::new(Waiters::default());
        assert!(
            waiters
                .register()
                .wait(Duration::from_millis(1))
                .await
                .is_none()
        );
        assert!(waiters.lock().is_empty());
    }
}
