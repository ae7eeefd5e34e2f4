//! Reads the inbox and passes each job to the code that runs it. Never waits for a job to end.

use std::sync::Arc;

use shared::protocol::frame::{Envelope, FrameError, JobFrame, unpack_jobs};
use shared::protocol::id::WorkerId;
use shared::protocol::job::Job;
use shared::protocol::reply::{Failure, FailureCode, Output};
use shared::queue::EntryRef;
use shared::queue::inbox::{Reader, Received};
use shared::service::backoff::Backoff;
use shared::service::telemetry::traces::Span;
use tracing::Instrument;

use crate::jobs;
use crate::seen_jobs::SeenJobs;
use crate::settle::{Delivery, RunInfo};
use crate::worker::Worker;

/// Runs until the process stops. It continues while the worker drains, because every job in the
/// inbox needs a reply.
pub(crate) async fn run(worker: Arc<Worker>) {
    loop {
        // The inbox is new with each id, and so is everything known about it.
        let id = worker.id();
        tokio::select! {
            () = read_inbox(&worker, id) => {}
            // The inbox of the earlier id was renamed: a reaper reports on its jobs.
            () = worker.identity.changed_from(id) => {}
            // A dropped read may lose entries. Now the inbox is closed, or there is no time left.
            () = worker.life.stopping() => return,
        }
    }
}

/// Reads the inbox of one id of this worker, without end.
async fn read_inbox(worker: &Arc<Worker>, id: WorkerId) {
    let requests = worker.catch_up.of_inbox();
    let mut reader = Reader::new(worker.queue.clone(), id).answering(requests);
    let mut seen = SeenJobs::default();
    loop {
        for entry in reader.read().await {
            accept(worker, id, &mut seen, entry);
        }
    }
}

fn accept(worker: &Arc<Worker>, id: WorkerId, seen: &mut SeenJobs, received: Received) {
    let Received {
        entry,
        frame,
        returned_before,
    } = received;
    worker.metrics.frames.increment(1);
    match unpack_jobs(&frame) {
        Ok(JobFrame { api, jobs, .. }) => {
            if jobs.is_empty() {
                return worker.settler.acknowledge(id, entry);
            }
            let ids: Vec<_> = jobs.iter().map(|job| (job.id, job.deadline)).collect();
            let mut is_new = seen.of(api);
            let deliveries = worker.settler.deliveries(id, entry, api, ids.into_iter());
            for (envelope, delivery) in jobs.into_iter().zip(deliveries) {
                if returned_before {
                    // Redis has lost that the job was settled, and perhaps its reply.
                    delivery.lose();
                } else if !is_new(envelope.id) {
                    worker.metrics.duplicates.increment(1);
                    tracing::debug!(job = envelope.id.0, "duplicate job dropped");
                    delivery.acknowledge();
                } else {
                    start(worker, envelope, delivery);
                }
            }
        }
        Err(FrameError::UnsupportedVersion { version, api, jobs }) if !jobs.is_empty() => {
            let jobs: Vec<_> = jobs.into_iter().map(|id| (id, 0)).collect();
            for delivery in worker.settler.deliveries(id, entry, api, jobs.into_iter()) {
                let message = format!("This worker does not support protocol version {version}");
                let code = FailureCode::UnsupportedVersion;
                delivery.refuse(Failure::not_started(code, message));
            }
        }
        Err(error) => {
            tracing::error!(%error, %entry, bytes = frame.len(), "unreadable frame");
            let task = move_to_dead_letters(worker.clone(), id, entry, frame, error.to_string());
            worker.life.spawn("dead letter", task);
        }
    }
}

/// Moves an unreadable frame to the dead letters, so that it is not delivered again. Until then its
/// entry is pending, and a draining worker waits for it.
async fn move_to_dead_letters(
    worker: Arc<Worker>,
    id: WorkerId,
    entry: EntryRef,
    frame: Vec<u8>,
    reason: String,
) {
    let inbox = worker.queue.keys().inbox(id);
    let mut backoff = Backoff::redis();
    while let Err(error) = worker
        .queue
        .record_unreadable(&inbox, &frame, &reason)
        .await
    {
        tracing::warn!(%error, %entry, "dead letter not recorded yet");
        tokio::select! {
            () = backoff.wait() => {}
            () = worker.life.stopping() => return,
        }
    }
    worker.settler.acknowledge(id, entry);
}

fn start(worker: &Arc<Worker>, envelope: Envelope, mut delivery: Delivery) {
    if envelope.trace.is_some() {
        delivery.trace(span(worker, &envelope));
    }
    let log = log_span(envelope.request.as_deref());
    delivery.belongs_to(envelope.request);
    match envelope.job {
        Job::Execute(execute) => jobs::execute::enqueue(worker, execute, delivery),
        Job::Inspect(inspect) => jobs::inspect::answer(worker, &inspect, delivery),
        Job::Cancel(cancel) => {
            if let (Some(api), _) = delivery.id() {
                worker.cancelled.add(api, cancel.job);
            }
            delivery.acknowledge();
        }
        Job::Drain => {
            tracing::info!("drain requested");
            delivery.settle(Ok(Output::Done), RunInfo::default());
            worker.life.drain();
        }
        Job::Load(load) => {
            let task = jobs::load::reload(worker.clone(), load, delivery);
            worker.life.spawn("load", task.instrument(log));
        }
        Job::Unload(unload) => {
            let task = jobs::unload::unload(worker.clone(), unload, delivery);
            worker.life.spawn("unload", task.instrument(log));
        }
    }
}

/// Adds the request's id to the log lines of its job.
pub(crate) fn log_span(request: Option<&str>) -> tracing::Span {
    match request {
        Some(id) => tracing::info_span!("request", id),
        None => tracing::Span::none(),
    }
}

/// Creates the span of a job whose request is traced.
pub(crate) fn span(worker: &Worker, envelope: &Envelope) -> Span {
    let (name, address) = match &envelope.job {
        Job::Load(load) => ("load", &load.address),
        Job::Execute(execute) => ("execute", &execute.address),
        Job::Unload(unload) => ("unload", &unload.address),
        Job::Inspect(_) | Job::Cancel(_) | Job::Drain => return Span::default(),
    };
    let mut span = worker.tracer.job(name, envelope.trace.as_deref());
    if span.is_recording() {
        span.set("execution.worker", worker.id().to_string());
        span.set("execution.attempt", i64::from(envelope.attempt));
        span.set("execution.contract", address.to_string());
        if let Job::Execute(execute) = &envelope.job {
            span.set("execution.method", execute.method.clone());
        }
    }
    span
}
