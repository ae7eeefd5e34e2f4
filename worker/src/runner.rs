//! Reads the inbox and gives each job to whom it concerns. Never waits for a job to end.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use shared::backoff::Backoff;
use shared::frame::{Envelope, FrameError, JobFrame, unpack_jobs};
use shared::id::{ApiId, JobId};
use shared::job::Job;
use shared::queue::inbox::{RESEND_FOR, Reader, Received};
use shared::reply::{Failure, FailureCode, Output};
use shared::telemetry::traces::Span;

use crate::settle::{Delivery, Ran};
use crate::{Worker, jobs};

/// For how long a job is remembered, to drop it when it comes twice: an api sends a frame again until
/// it was told, for [`RESEND_FOR`], and waits some seconds for the answer to its last try.
const REMEMBERED_FOR: Duration = RESEND_FOR.saturating_add(Duration::from_secs(5));

/// How many are remembered at most: 70,000 jobs per second.
const REMEMBERED: usize = 1 << 20;

/// Runs until the process stops. Draining does not end it: what is in the inbox wants an answer.
pub(crate) async fn run(worker: Arc<Worker>) {
    let mut reader = Reader::new(worker.queue.clone(), worker.id);
    let mut known = Known::default();
    loop {
        // Dropping a read may lose what it was about to bring. The process stops only when the
        // inbox is closed, or when it must not wait any longer.
        let received = tokio::select! {
            received = reader.read() => received,
            () = worker.life.stopping() => return,
        };
        for entry in received {
            take(&worker, &mut known, entry);
        }
    }
}

fn take(worker: &Arc<Worker>, known: &mut Known, received: Received) {
    let Received { entry, frame } = received;
    worker.metrics.frames.increment(1);
    match unpack_jobs(&frame) {
        Ok(JobFrame { api, jobs, .. }) => {
            if jobs.is_empty() {
                return worker.settler.acknowledge(entry);
            }
            let ids: Vec<_> = jobs.iter().map(|job| (job.id, job.deadline)).collect();
            let now = Instant::now();
            known.forget_old(now);
            let deliveries = worker.settler.deliveries(entry, api, ids.into_iter());
            for (envelope, delivery) in jobs.into_iter().zip(deliveries) {
                if known.is_new(api, envelope.id, now) {
                    start(worker, envelope, delivery);
                } else {
                    worker.metrics.duplicates.increment(1);
                    tracing::debug!(job = envelope.id.0, "a job that came twice");
                    delivery.dismiss();
                }
            }
        }
        Err(FrameError::UnsupportedVersion { version, api, jobs }) if !jobs.is_empty() => {
            let jobs: Vec<_> = jobs.into_iter().map(|id| (id, 0)).collect();
            for delivery in worker.settler.deliveries(entry, api, jobs.into_iter()) {
                let message = format!("This worker does not speak version {version}");
                let code = FailureCode::UnsupportedVersion;
                delivery.refuse(Failure::not_started(code, message));
            }
        }
        Err(error) => {
            tracing::error!(%error, entry, bytes = frame.len(), "a frame that cannot be read");
            let burying = bury(worker.clone(), entry, frame, error.to_string());
            worker.life.spawn("bury", burying);
        }
    }
}

/// Puts a frame that cannot be read aside, so that it does not come back. Until then it is pending,
/// and a worker that drains waits for it.
async fn bury(worker: Arc<Worker>, entry: String, frame: Vec<u8>, reason: String) {
    let inbox = worker.queue.keys().inbox(worker.id);
    let mut backoff = Backoff::redis();
    while let Err(error) = worker.queue.bury(&inbox, &frame, &reason).await {
        tracing::warn!(%error, entry, "could not put a frame aside yet");
        tokio::select! {
            () = backoff.wait() => {}
            () = worker.life.stopping() => return,
        }
    }
    worker.settler.acknowledge(entry);
}

fn start(worker: &Arc<Worker>, envelope: Envelope, mut delivery: Delivery) {
    if envelope.trace.is_some() {
        delivery.trace(span(worker, &envelope));
    }
    match envelope.job {
        Job::Execute(execute) => jobs::execute::enqueue(worker, execute, delivery),
        Job::Inspect(inspect) => jobs::inspect::answer(worker, &inspect, delivery),
        Job::Cancel(cancel) => {
            if let (Some(api), _) = delivery.name() {
                worker.cancelled.add(api, cancel.job);
            }
            delivery.dismiss();
        }
        Job::Drain => {
            tracing::info!("asked to drain");
            delivery.settle(Ok(Output::Done), Ran::default());
            worker.life.drain();
        }
        Job::Load(load) => {
            let task = jobs::load::reload(worker.clone(), load, delivery);
            worker.life.spawn("load", task);
        }
        Job::Unload(unload) => {
            let task = jobs::unload::unload(worker.clone(), unload, delivery);
            worker.life.spawn("unload", task);
        }
    }
}

/// The span of a job whose request is traced.
pub(crate) fn span(worker: &Worker, envelope: &Envelope) -> Span {
    let (name, address) = match &envelope.job {
        Job::Load(load) => ("load", &load.address),
        Job::Execute(execute) => ("execute", &execute.address),
        Job::Unload(unload) => ("unload", &unload.address),
        Job::Inspect(_) | Job::Cancel(_) | Job::Drain => return Span::default(),
    };
    let mut span = worker.tracer.job(name, envelope.trace.as_deref());
    if span.is_recording() {
        span.set("execution.worker", worker.id.to_string());
        span.set("execution.attempt", i64::from(envelope.attempt));
        span.set("execution.contract", address.to_string());
        if let Job::Execute(execute) = &envelope.job {
            span.set("execution.method", execute.method.clone());
        }
    }
    span
}

/// The jobs seen lately.
#[derive(Default)]
struct Known {
    jobs: HashSet<Name>,
    order: VecDeque<(Instant, Name)>,
}

/// A job, and who sent it.
type Name = (Option<ApiId>, JobId);

impl Known {
    fn is_new(&mut self, api: Option<ApiId>, id: JobId, now: Instant) -> bool {
        if !self.jobs.insert((api, id)) {
            return false;
        }
        self.order.push_back((now, (api, id)));
        if self.order.len() > REMEMBERED {
            self.forget_oldest();
        }
        true
    }

    /// Forgets what cannot come again any more.
    fn forget_old(&mut self, now: Instant) {
        while let Some((seen, _)) = self.order.front()
            && now.saturating_duration_since(*seen) > REMEMBERED_FOR
        {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((_, oldest)) = self.order.pop_front() {
            self.jobs.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_new_once_per_api() {
        let (mut known, one, other) = (
            Known::default(),
            Some(ApiId::random()),
            Some(ApiId::random()),
        );
        let now = Instant::now();
        assert!(known.is_new(one, JobId(1), now));
        assert!(known.is_new(other, JobId(1), now));
        assert!(!known.is_new(one, JobId(1), now));
    }

    #[test]
    fn a_job_is_remembered_for_as_long_as_it_may_come_again() {
        let (mut known, start) = (Known::default(), Instant::now());
        // More than are seen in a second.
        for id in 0..200_000 {
            assert!(known.is_new(None, JobId(id), start));
        }
        let later = start + RESEND_FOR;
        known.forget_old(later);
        assert!(!known.is_new(None, JobId(0), later), "it may come again");
        known.forget_old(start + REMEMBERED_FOR + Duration::from_millis(1));
        assert!(known.jobs.is_empty() && known.order.is_empty());
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (mut known, now) = (Known::default(), Instant::now());
        for id in 0..=REMEMBERED as u64 {
            assert!(known.is_new(None, JobId(id), now));
        }
        assert_eq!(known.jobs.len(), REMEMBERED);
        assert!(known.is_new(None, JobId(0), now));
    }
}
