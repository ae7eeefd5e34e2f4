//! Reads the inbox and gives each job to whom it concerns. Never waits for a job to end.

use std::sync::Arc;
use std::time::Instant;

use shared::protocol::frame::{Envelope, FrameError, JobFrame, unpack_jobs};
use shared::protocol::job::Job;
use shared::protocol::reply::{Failure, FailureCode, Output};
use shared::queue::inbox::{Reader, Received};
use shared::queue::timing::CLOCK_TOLERANCE;
use shared::service::backoff::Backoff;
use shared::service::telemetry::traces::Span;

use crate::known::Known;
use crate::settle::{Delivery, Ran};
use crate::{Worker, jobs};

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
        Ok(JobFrame {
            api,
            first_sent,
            jobs,
            ..
        }) => {
            if jobs.is_empty() {
                return worker.settler.acknowledge(entry);
            }
            let ids: Vec<_> = jobs.iter().map(|job| (job.id, job.deadline)).collect();
            let is_answered = first_sent.is_some_and(|moment| lost_inbox_since(worker, moment));
            let mut is_new = known.of(api);
            let deliveries = worker.settler.deliveries(entry, api, ids.into_iter());
            for (envelope, delivery) in jobs.into_iter().zip(deliveries) {
                if !is_new(envelope.id) {
                    worker.metrics.duplicates.increment(1);
                    tracing::debug!(job = envelope.id.0, "a job that came twice");
                    delivery.dismiss();
                } else if is_answered && matches!(envelope.job, Job::Execute(_)) {
                    delivery.refuse(jobs::execute::not_hosted());
                } else {
                    start(worker, envelope, delivery);
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

/// Whether this worker was taken for dead after `moment`. Whoever cleared up after it has told the api
/// what became of the jobs in the inbox that it had then. One of them that comes again may be under way
/// as another job by now: it is not started, and its api, should it still wait, is told so.
fn lost_inbox_since(worker: &Worker, moment: u64) -> bool {
    let since = worker.queue.clock().since(moment) + CLOCK_TOLERANCE;
    // A machine that has not run for that long has not held a lease then.
    let moment = Instant::now().checked_sub(since);
    moment.is_none_or(|moment| worker.fence.was_lost_since(moment))
}

/// Puts a frame that cannot be read aside, so that it does not come back. Until then it is pending,
/// and a worker that drains waits for it.
async fn bury(worker: Arc<Worker>, entry: String, frame: Vec<u8>, reason: String) {
    let inbox = worker.queue.keys().inbox(worker.id);
    let mut backoff = Backoff::redis();
    while let Err(error) = worker
        .queue
        .record_unreadable(&inbox, &frame, &reason)
        .await
    {
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
