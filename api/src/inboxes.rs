//! The inboxes that this process writes to: one writer task per worker, made when it is needed.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use shared::protocol::frame::{Envelope, encode_item};
use shared::protocol::id::{ApiId, JobId, WorkerId};
use shared::protocol::job::{Cancel, Job};
use shared::queue::clock::Clock;
use shared::queue::inbox::{DEPTH_LIMIT, InboxObserver, Outgoing, Undelivered, writer};
use shared::queue::{Queue, QueueError};
use shared::service::lifecycle::Lifecycle;
use tokio::sync::mpsc;

use crate::error::ApiError;
use crate::reply_router::{Answer, Waiters};

/// How long an inbox that was found full is not written to. Then the next call finds out whether
/// it still is.
const FULL_FOR: Duration = Duration::from_millis(100);

/// How often it is looked whether the workers are still there.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Writers by worker.
pub(crate) struct Inboxes {
    queue: Queue,
    api: ApiId,
    waiters: Arc<Waiters>,
    life: Lifecycle,
    open: Mutex<HashMap<WorkerId, Inbox>>,
}

#[derive(Clone)]
struct Inbox {
    jobs: mpsc::Sender<Outgoing>,
    fullness: Arc<Fullness>,
    /// Its worker's connection is gone.
    suspect: Arc<AtomicBool>,
    /// Jobs that this process awaits an answer to.
    under_way: Arc<AtomicUsize>,
}

impl Inboxes {
    pub(crate) fn new(queue: Queue, api: ApiId, waiters: Arc<Waiters>, life: Lifecycle) -> Self {
        Self {
            queue,
            api,
            waiters,
            life,
            open: Mutex::default(),
        }
    }

    /// Puts a job on its way, in the order of the calls of this method; never waits. It counts as
    /// under way for as long as the caller keeps what this gives.
    pub(crate) fn send(&self, worker: WorkerId, job: Outgoing) -> Result<UnderWay, ApiError> {
        let inbox = self.inbox(worker);
        if inbox.fullness.is_full(self.queue.clock()) || inbox.jobs.try_send(job).is_err() {
            let message = "The contract's worker is overloaded".to_owned();
            return Err(ApiError::Overloaded(message));
        }
        Ok(UnderWay::new(inbox.under_way))
    }

    /// Takes a job back when it is dropped, unless it was disarmed before: the caller has left.
    pub(crate) fn withdrawal(
        self: &Arc<Self>,
        worker: WorkerId,
        job: JobId,
        id: JobId,
    ) -> Withdrawal {
        Withdrawal {
            inboxes: Some(self.clone()),
            worker,
            job,
            id,
        }
    }

    /// Closes the writer of a worker that is gone.
    pub(crate) fn forget(&self, worker: WorkerId) {
        self.open().remove(&worker);
    }

    /// Whether a worker seems to be gone.
    pub(crate) fn is_suspect(&self, worker: WorkerId) -> bool {
        let inbox = self.open().get(&worker).cloned();
        inbox.is_some_and(|inbox| inbox.suspect.load(Ordering::Relaxed))
    }

    /// How many answers of a worker this process awaits.
    pub(crate) fn under_way(&self, worker: WorkerId) -> usize {
        let open = self.open();
        let inbox = open.get(&worker);
        inbox.map_or(0, |inbox| inbox.under_way.load(Ordering::Relaxed))
    }

    /// Looks after the workers until the process stops.
    pub(crate) async fn watch(self: Arc<Self>) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = self.life.stopping() => return,
            }
            let workers: Vec<_> = self.open().keys().copied().collect();
            if let Err(error) = self.look_after(&workers).await {
                tracing::debug!(%error, "cannot look after the workers");
            }
        }
    }

    /// Notes who seems to be gone; forgets who certainly is.
    async fn look_after(&self, workers: &[WorkerId]) -> Result<(), QueueError> {
        let missing = self.queue.missing_workers(workers).await?;
        for (worker, inbox) in self.open().iter() {
            inbox
                .suspect
                .store(missing.contains(worker), Ordering::Relaxed);
        }
        for worker in missing {
            if !self.queue.is_alive(worker).await? {
                self.forget(worker);
            }
        }
        Ok(())
    }

    fn open(&self) -> MutexGuard<'_, HashMap<WorkerId, Inbox>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn inbox(&self, worker: WorkerId) -> Inbox {
        let mut open = self.open();
        open.entry(worker)
            .or_insert_with(|| self.start_writer(worker))
            .clone()
    }

    fn start_writer(&self, worker: WorkerId) -> Inbox {
        let fullness = Arc::new(Fullness::default());
        let news = News {
            waiters: self.waiters.clone(),
            clock: self.queue.clock().clone(),
            fullness: fullness.clone(),
        };
        let (jobs, task) = writer(self.queue.clone(), self.api, worker, news);
        let life = self.life.clone();
        self.life.spawn("inbox writer", async move {
            tokio::select! {
                () = task => {}
                () = life.stopping() => {}
            }
        });
        Inbox {
            jobs,
            fullness,
            suspect: Arc::default(),
            under_way: Arc::default(),
        }
    }
}

/// A job counts as under way until this is dropped.
#[derive(Debug)]
pub(crate) struct UnderWay(Arc<AtomicUsize>);

impl UnderWay {
    fn new(jobs: Arc<AtomicUsize>) -> Self {
        jobs.fetch_add(1, Ordering::Relaxed);
        Self(jobs)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Takes a job back when it is dropped.
pub(crate) struct Withdrawal {
    inboxes: Option<Arc<Inboxes>>,
    worker: WorkerId,
    job: JobId,
    id: JobId,
}

impl Withdrawal {
    /// The job was answered: there is nothing to take back.
    pub(crate) fn disarm(mut self) {
        self.inboxes = None;
    }
}

impl Drop for Withdrawal {
    fn drop(&mut self) {
        let Some(inboxes) = self.inboxes.take() else {
            return;
        };
        let envelope = Envelope {
            id: self.id,
            deadline: u64::MAX,
            attempt: 1,
            trace: None,
            job: Job::Cancel(Cancel { job: self.job }),
        };
        let outgoing = Outgoing {
            id: self.id,
            item: encode_item(&envelope),
        };
        // When it cannot be sent, the job runs in vain, as it would have.
        drop(inboxes.send(self.worker, outgoing));
    }
}

/// Until when an inbox counts as full: milliseconds by Redis' clock.
#[derive(Debug, Default)]
struct Fullness(AtomicU64);

impl Fullness {
    fn is_full(&self, clock: &Clock) -> bool {
        let until = self.0.load(Ordering::Relaxed);
        until > 0 && clock.now_ms() < until
    }

    fn note(&self, entries: u64, clock: &Clock) {
        let until = if entries > DEPTH_LIMIT {
            clock.after(FULL_FOR)
        } else {
            0
        };
        self.0.store(until, Ordering::Relaxed);
    }
}

/// Passes a writer's news on.
struct News {
    waiters: Arc<Waiters>,
    clock: Clock,
    fullness: Arc<Fullness>,
}

impl InboxObserver for News {
    fn undelivered(&self, jobs: Vec<JobId>, refusal: Undelivered) {
        for job in jobs {
            self.waiters.deliver(job, Answer::Refused(refusal));
        }
    }

    fn depth(&self, entries: u64) {
        self.fullness.note(entries, &self.clock);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_inbox_is_refused_for_a_while() {
        let (fullness, clock) = (Fullness::default(), Clock::default());
        assert!(!fullness.is_full(&clock));
        fullness.note(DEPTH_LIMIT + 1, &clock);
        assert!(fullness.is_full(&clock));
        fullness.note(DEPTH_LIMIT, &clock);
        assert!(!fullness.is_full(&clock));
    }
}
