//! One job that must be answered exactly once, whatever becomes of the code that has it.

use std::sync::Arc;
use std::time::Instant;

use shared::protocol::frame::{Item, Reply, encode_item};
use shared::protocol::id::{ApiId, JobId};
use shared::protocol::reply::{Failure, FailureCode, Output};
use shared::service::telemetry::traces::Span;

use super::{Entry, Settled, Settler};
use crate::run_info::{RunInfo, micros};

/// One job that must be settled, which consumes this value. If it is dropped unsettled, for example
/// by a panic, its api is told that it may have been started.
#[derive(Debug)]
pub(crate) struct Delivery {
    pub(super) settler: Settler,
    /// None once the job is settled.
    pub(super) entry: Option<Arc<Entry>>,
    pub(super) api: Option<ApiId>,
    pub(super) id: JobId,
    /// When the caller stops waiting, in milliseconds by the clock of Redis.
    pub(crate) deadline: u64,
    /// When the job was read from the inbox.
    pub(crate) received: Instant,
    /// The job's span in the trace of its request.
    pub(super) span: Span,
    /// The id of its request, for the log.
    pub(super) request: Option<String>,
}

impl Delivery {
    /// Traces the job from now on. The span ends when the job is settled.
    pub(crate) fn trace(&mut self, span: Span) {
        self.span = span;
    }

    /// Names the request that the job belongs to.
    pub(crate) fn belongs_to(&mut self, request: Option<String>) {
        self.request = request;
    }

    /// The id of the job's request, if the api has sent it.
    pub(crate) fn request(&self) -> Option<&str> {
        self.request.as_deref()
    }

    /// Replies to the job and acknowledges it.
    pub(crate) fn settle(mut self, outcome: Result<Output, Failure>, info: RunInfo) {
        self.reply(outcome, info);
    }

    fn reply(&mut self, outcome: Result<Output, Failure>, info: RunInfo) {
        info.record(&mut self.span, &outcome);
        let reply = self.api.map(|api| {
            let reply = Reply {
                id: self.id,
                generation: info.generation,
                ran_us: info.time.map(|time| micros(time.elapsed)),
                cpu_us: info.time.and_then(|time| time.cpu).map(micros),
                outcome,
            };
            (api, encode_item(&reply))
        });
        self.finish(reply);
    }

    fn finish(&mut self, reply: Option<(ApiId, Item)>) {
        if let Some(entry) = self.entry.take() {
            self.settler.send(Settled { entry, reply });
        }
    }

    /// Settles the job with a failure that happened before it started.
    pub(crate) fn refuse(self, failure: Failure) {
        self.settle(Err(failure), RunInfo::default());
    }

    /// The job's id, and the api that sent it.
    pub(crate) fn id(&self) -> (Option<ApiId>, JobId) {
        (self.api, self.id)
    }

    /// Acknowledges a job without a reply: the caller has left, or another delivery answers.
    pub(crate) fn acknowledge(mut self) {
        self.finish(None);
    }

    /// Settles a job that may have been started, although nobody knows its outcome.
    pub(crate) fn lose(mut self) {
        self.reply_lost();
    }

    fn reply_lost(&mut self) {
        let message = "The worker lost the job. It may have been started";
        let failure = Failure::started(FailureCode::WorkerLost, message);
        self.reply(Err(failure), RunInfo::default());
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        // A worker that stops before it is done leaves its jobs to the reaper: it answers only when
        // the contract may run elsewhere.
        if self.entry.is_some() && !self.settler.life.is_stopping() {
            let request = self.request();
            tracing::warn!(job = self.id.0, request, "job dropped without a reply");
            self.reply_lost();
        }
    }
}
