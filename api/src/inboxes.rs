//! Writes jobs into the workers' inboxes: one writer task per worker, started on first use.
//!
//! Also checks whether those workers are still connected.

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
use crate::reply_router::{WaitOutcome, Waiters};
use crate::reply_streams::ReplyStreams;

/// How long a full inbox is not written to. After that the next call finds out whether it is
/// still full.
const FULL_FOR: Duration = Duration::from_millis(100);

/// How often the workers' connections are checked.
const CHECK_EVERY: Duration = Duration::from_millis(200);

/// The inbox writers, by worker.
pub(crate) struct Inboxes {
    queue: Queue,
    replies: ReplyStreams,
    waiters: Arc<Waiters>,
    life: Lifecycle,
    writers: Mutex<HashMap<WorkerId, InboxWriter>>,
}

/// Hands jobs to the task that sends them to one worker. Cheap to clone.
#[derive(Clone)]
pub(crate) struct InboxWriter {
    /// The reply stream to which the worker replies.
    pub(crate) stream: ApiId,
    jobs: mpsc::Sender<Outgoing>,
    full_until: Arc<FullUntil>,
    /// The worker's connection is gone, so it may be dead.
    suspect: Arc<AtomicBool>,
    /// The jobs whose outcome this process awaits.
    in_flight: Arc<AtomicUsize>,
}

impl Inboxes {
    pub(crate) fn new(
        queue: Queue,
        replies: ReplyStreams,
        waiters: Arc<Waiters>,
        life: Lifecycle,
    ) -> Self {
        Self {
            queue,
            replies,
            waiters,
            life,
            writers: Mutex::default(),
        }
    }

    /// Hands a job to a worker's writer without waiting. Jobs keep the order in which they are
    /// sent. The job counts as in flight until the returned guard is dropped.
    pub(crate) fn send(&self, writer: InboxWriter, job: Outgoing) -> Result<InFlightJob, ApiError> {
        if writer.full_until.is_full(self.queue.clock()) || writer.jobs.try_send(job).is_err() {
            let message = "The contract's worker is overloaded. Try again later".to_owned();
            return Err(ApiError::Overloaded(message));
        }
        Ok(InFlightJob::new(writer.in_flight))
    }

    /// Returns a guard that cancels `job` when it is dropped, because the client has disconnected.
    /// `cancel_id` is the id of the job that does so.
    pub(crate) fn cancel_on_drop(
        self: &Arc<Self>,
        worker: WorkerId,
        job: JobId,
        cancel_id: JobId,
    ) -> CancelOnDrop {
        CancelOnDrop {
            inboxes: Some(self.clone()),
            worker,
            job,
            cancel_id,
        }
    }

    /// Closes the writer of a worker that is gone.
    pub(crate) fn close(&self, worker: WorkerId) {
        self.writers().remove(&worker);
    }

    /// Whether a worker's connection is gone.
    pub(crate) fn is_suspect(&self, worker: WorkerId) -> bool {
        let writer = self.writers().get(&worker).cloned();
        writer.is_some_and(|writer| writer.suspect.load(Ordering::Relaxed))
    }

    /// How many jobs of this process a worker has not answered yet.
    pub(crate) fn in_flight(&self, worker: WorkerId) -> usize {
        let writers = self.writers();
        let writer = writers.get(&worker);
        writer.map_or(0, |writer| writer.in_flight.load(Ordering::Relaxed))
    }

    /// Checks the workers' connections until the process stops.
    pub(crate) async fn check_workers(self: Arc<Self>) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(CHECK_EVERY) => {}
                () = self.life.stopping() => return,
            }
            let workers: Vec<_> = self.writers().keys().copied().collect();
            if let Err(error) = self.check(&workers).await {
                tracing::debug!(%error, "cannot check the workers' connections");
            }
        }
    }

    /// Marks workers without a connection as suspect; closes the writers of dead ones.
    async fn check(&self, workers: &[WorkerId]) -> Result<(), QueueError> {
        let missing = self.queue.missing_workers(workers).await?;
        for (worker, writer) in self.writers().iter() {
            writer
                .suspect
                .store(missing.contains(worker), Ordering::Relaxed);
        }
        for worker in missing {
            if !self.queue.is_alive(worker).await? {
                self.close(worker);
            }
        }
        Ok(())
    }

    fn writers(&self) -> MutexGuard<'_, HashMap<WorkerId, InboxWriter>> {
        self.writers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The writer of a worker's inbox.
    pub(crate) fn writer(&self, worker: WorkerId) -> InboxWriter {
        let mut writers = self.writers();
        writers
            .entry(worker)
            .or_insert_with(|| self.start_writer(worker))
            .clone()
    }

    fn start_writer(&self, worker: WorkerId) -> InboxWriter {
        let full_until = Arc::new(FullUntil::default());
        let reports = WriterReports {
            waiters: self.waiters.clone(),
            clock: self.queue.clock().clone(),
            full_until: full_until.clone(),
        };
        let stream = self.replies.for_worker(worker);
        let (jobs, task) = writer(self.queue.clone(), stream, worker, reports);
        let life = self.life.clone();
        self.life.spawn("inbox writer", async move {
            tokio::select! {
                () = task => {}
                () = life.stopping() => {}
            }
        });
        InboxWriter {
            stream,
            jobs,
            full_until,
            suspect: Arc::default(),
            in_flight: Arc::default(),
        }
    }
}

/// A job counts as in flight until this guard is dropped.
#[derive(Debug)]
pub(crate) struct InFlightJob(Arc<AtomicUsize>);

impl InFlightJob {
    fn new(jobs: Arc<AtomicUsize>) -> Self {
        jobs.fetch_add(1, Ordering::Relaxed);
        Self(jobs)
    }
}

impl Drop for InFlightJob {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Cancels a job when it is dropped.
pub(crate) struct CancelOnDrop {
    inboxes: Option<Arc<Inboxes>>,
    worker: WorkerId,
    job: JobId,
    cancel_id: JobId,
}

impl CancelOnDrop {
    /// Does nothing on drop: the job has ended.
    pub(crate) fn disarm(mut self) {
        self.inboxes = None;
    }
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        let Some(inboxes) = self.inboxes.take() else {
            return;
        };
        let envelope = Envelope::<_, &str> {
            id: self.cancel_id,
            deadline: u64::MAX,
            attempt: 1,
            trace: None,
            request: None,
            job: Job::Cancel(Cancel { job: self.job }),
        };
        let outgoing = Outgoing {
            id: self.cancel_id,
            item: encode_item(&envelope),
        };
        // If it cannot be sent, the job runs although its reply is no longer needed.
        drop(inboxes.send(inboxes.writer(self.worker), outgoing));
    }
}

/// Until when an inbox counts as full, in milliseconds by Redis' clock; 0 if it is not full.
#[derive(Debug, Default)]
struct FullUntil(AtomicU64);

impl FullUntil {
    fn is_full(&self, clock: &Clock) -> bool {
        let until = self.0.load(Ordering::Relaxed);
        until > 0 && clock.now_ms() < until
    }

    fn update(&self, entries: u64, clock: &Clock) {
        let until = if entries > DEPTH_LIMIT {
            clock.after(FULL_FOR)
        } else {
            0
        };
        self.0.store(until, Ordering::Relaxed);
    }
}

/// Receives what a writer reports.
struct WriterReports {
    waiters: Arc<Waiters>,
    clock: Clock,
    full_until: Arc<FullUntil>,
}

impl InboxObserver for WriterReports {
    fn undelivered(&self, jobs: Vec<JobId>, reason: Undelivered) {
        for job in jobs {
            self.waiters.resolve(job, WaitOutcome::Refused(reason));
        }
    }

    fn depth(&self, entries: u64) {
        self.full_until.update(entries, &self.clock);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_inbox_is_not_written_to_for_a_while() {
        let (full_until, clock) = (FullUntil::default(), Clock::default());
        assert!(!full_until.is_full(&clock));
        full_until.update(DEPTH_LIMIT + 1, &clock);
        assert!(full_until.is_full(&clock));
        full_until.update(DEPTH_LIMIT, &clock);
        assert!(!full_until.is_full(&clock));
    }
}
