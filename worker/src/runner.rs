//! Reads the inbox and gives each job to whom it concerns. Never waits for a job to end.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use shared::frame::{Envelope, FrameError, JobFrame, unpack_jobs};
use shared::id::{ApiId, JobId};
use shared::job::Job;
use shared::queue::inbox::{Reader, Received};
use shared::reply::{Failure, FailureCode, Output};
use shared::telemetry::traces::Span;

use crate::settle::{Delivery, Ran};
use crate::{Worker, jobs};

/// How many jobs are remembered, to drop what comes twice: some seconds' worth under full load,
/// and an api sends again within two.
const REMEMBERED: usize = 1 << 16;

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
            take(&worker, &mut known, entry).await;
        }
    }
}

async fn take(worker: &Arc<Worker>, known: &mut Known, received: Received) {
    let Received { entry, frame } = received;
    worker.metrics.frames.increment(1);
    match unpack_jobs(&frame) {
        Ok(JobFrame { api, jobs, .. }) => {
            if jobs.is_empty() {
                return worker.settler.acknowledge(entry);
            }
            let ids: Vec<_> = jobs.iter().map(|job| (job.id, job.deadline)).collect();
            let deliveries = worker.settler.deliveries(entry, api, ids.into_iter());
            for (envelope, delivery) in jobs.into_iter().zip(deliveries) {
                if known.is_new(api, envelope.id) {
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
        Err(error) => bury(worker, entry, &frame, &error).await,
    }
}

/// Puts a frame that cannot be read aside, so that it does not come back.
async fn bury(worker: &Worker, entry: String, frame: &[u8], error: &FrameError) {
    tracing::error!(%error, entry, bytes = frame.len(), "a frame that cannot be read");
    let inbox = worker.queue.keys().inbox(worker.id);
    match worker.queue.bury(&inbox, frame, &error.to_string()).await {
        Ok(()) => worker.settler.acknowledge(entry),
        Err(error) => tracing::error!(%error, "could not record it; it stays pending"),
    }
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

/// The jobs seen last.
#[derive(Default)]
struct Known {
    jobs: HashSet<(Option<ApiId>, JobId)>,
    order: VecDeque<(Option<ApiId>, JobId)>,
}

impl Known {
    fn is_new(&mut self, api: Option<ApiId>, id: JobId) -> bool {
        if !self.jobs.insert((api, id)) {
            return false;
        }
        self.order.push_back((api, id));
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.jobs.remove(&oldest);
        }
        true
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
        assert!(known.is_new(one, JobId(1)));
        assert!(known.is_new(other, JobId(1)));
        assert!(!known.is_new(one, JobId(1)));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut known = Known::default();
        for id in 0..=REMEMBERED as u64 {
            assert!(known.is_new(None, JobId(id)));
        }
        assert_eq!(known.jobs.len(), REMEMBERED);
        assert!(known.is_new(None, JobId(0)));
    }
}
