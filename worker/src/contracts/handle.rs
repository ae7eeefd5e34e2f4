//! One contract as the rest of the worker uses it: queue a call, read the status, stop the task.

use std::sync::{Arc, OnceLock};

use serde_json::value::RawValue;
use shared::protocol::job::ContractSpec;
use shared::protocol::reply::{Failure, FailureCode};
use tokio::sync::{mpsc, watch};

use super::status::Status;
use super::tenure::Tenure;
use crate::settle::Delivery;

/// One call that waits for its sandbox.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) method: String,
    pub(crate) argument: Option<Box<RawValue>>,
    /// The digest of the schemas that the argument was checked by; see [`Execute::schemas`].
    ///
    /// [`Execute::schemas`]: shared::protocol::job::Execute::schemas
    pub(crate) schemas: Option<String>,
    /// How many lines of its output the reply has if it fails.
    pub(crate) logs: u32,
    /// The name of an argument in Redis that is not fetched yet.
    pub(crate) stored: Option<String>,
    pub(crate) delivery: Delivery,
    /// How many sandboxes were lost while they ran this call.
    pub(crate) losses: u32,
}

impl Call {
    /// The size of the argument, in bytes.
    pub(super) fn size(&self) -> usize {
        self.argument.as_ref().map_or(0, |json| json.get().len())
    }
}

/// Whether a contract's task must stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StopRequest {
    /// The task accepts and runs calls.
    None,
    /// The task finishes the running calls and refuses the waiting ones with this code.
    RefuseWaiting(FailureCode),
}

/// One contract as its callers use it.
#[derive(Debug)]
pub(crate) struct ContractHandle {
    pub(crate) spec: ContractSpec,
    /// This worker's ownership of the contract.
    pub(crate) tenure: Arc<Tenure>,
    pub(crate) status: Arc<Status>,
    executable: OnceLock<Arc<str>>,
    calls: mpsc::Sender<Call>,
    stop: watch::Sender<StopRequest>,
}

/// The task's ends of a [`ContractHandle`].
#[derive(Debug)]
pub(crate) struct TaskEnds {
    pub(super) calls: mpsc::Receiver<Call>,
    pub(super) stop: watch::Receiver<StopRequest>,
    pub(crate) status: Arc<Status>,
}

impl ContractHandle {
    pub(super) fn new(
        spec: ContractSpec,
        tenure: Arc<Tenure>,
        status: Status,
        queue_limit: usize,
    ) -> (Arc<Self>, TaskEnds) {
        let (sender, calls) = mpsc::channel(queue_limit);
        let (stop_sender, stop) = watch::channel(StopRequest::None);
        let status = Arc::new(status);
        let handle = Self {
            executable: OnceLock::new(),
            spec,
            tenure,
            status: status.clone(),
            calls: sender,
            stop: stop_sender,
        };
        let ends = TaskEnds {
            calls,
            stop,
            status,
        };
        (Arc::new(handle), ends)
    }

    /// Keeps the executable, so that this worker can store it again if Redis loses its data.
    pub(crate) fn keep_executable(&self, executable: Arc<str>) {
        _ = self.executable.set(executable);
    }

    /// The executable, once it is known.
    pub(crate) fn executable(&self) -> Option<&Arc<str>> {
        self.executable.get()
    }

    /// Queues a call, or refuses it.
    pub(crate) fn call(&self, call: Call) {
        self.status.call_arrived();
        let (call, code, message) = match self.calls.try_send(call) {
            Ok(()) => return,
            Err(mpsc::error::TrySendError::Full(call)) => (
                call,
                FailureCode::Rejected,
                "Too many calls are waiting for the contract; try again later",
            ),
            Err(mpsc::error::TrySendError::Closed(call)) => (
                call,
                FailureCode::NotHosted,
                "The contract was closed on this worker; try again",
            ),
        };
        self.status.call_refused();
        call.delivery.refuse(Failure::not_started(code, message));
    }

    /// Stops the contract's task and waits until its sandbox is closed.
    pub(crate) async fn stop(&self, code: FailureCode) {
        self.stop.send_replace(StopRequest::RefuseWaiting(code));
        // The task drops its receiver when it ends.
        self.stop.closed().await;
    }
}

impl TaskEnds {
    /// Refuses every queued call: the contract did not start.
    pub(crate) async fn refuse_all(mut self, failure: &Failure) {
        self.calls.close();
        // Unlike `try_recv`, this also waits for calls that are just being queued.
        while let Some(call) = self.calls.recv().await {
            self.status.call_refused();
            call.delivery.refuse(failure.clone());
        }
    }
}
