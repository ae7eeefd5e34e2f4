//! The data of the task that runs one contract, and the steps that all of its parts share.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use shared::protocol::id::ContractAddress;
use shared::protocol::image::PinnedImage;
use shared::protocol::job::ContractSpec;
use shared::protocol::reply::{Failure, LastError, Output};
use shared::protocol::schemas::SchemaText;

use super::arguments::Fetch;
use super::crash_loop::CrashHistory;
use super::handle::{Call, TaskEnds};
use super::tenure::Tenure;
use crate::metrics::EngineMetrics;
use crate::sandbox::{CallId, CallTime, Engine};
use crate::settle::RunInfo;
use crate::worker::Worker;

/// Runs one version of a contract.
pub(crate) struct ContractTask<E: Engine> {
    pub(super) worker: Arc<Worker>,
    pub(super) engine: E,
    pub(super) tenure: Arc<Tenure>,
    pub(super) spec: ContractSpec,
    pub(super) executable: Arc<str>,
    pub(super) ends: TaskEnds,
    /// The recent crashes of the contract's sandboxes.
    pub(super) crashes: CrashHistory,
    /// The methods of the current sandbox, if it knows them.
    pub(super) endpoints: Option<HashSet<String>>,
    /// The image that every sandbox of the load runs, if it has one.
    pub(super) image: Option<PinnedImage>,
    /// The schemas that the contract was loaded with. Arguments must have been checked by them.
    pub(super) schemas: Option<SchemaText>,
    /// Why the last sandbox was lost, for the calls that were caught in it.
    pub(super) last_loss: String,
}

/// What a task runs; see [`ContractTask::new`].
pub(crate) struct Assignment<E> {
    pub(crate) engine: E,
    pub(crate) tenure: Arc<Tenure>,
    pub(crate) spec: ContractSpec,
    pub(crate) executable: Arc<str>,
    /// The image that was resolved at the load, if the executable is an image.
    pub(crate) image: Option<PinnedImage>,
    /// The schemas that the contract was loaded with.
    pub(crate) schemas: Option<SchemaText>,
}

/// The calls of a contract that were taken off its queue.
#[derive(Default)]
pub(super) struct Calls {
    pub(super) waiting: VecDeque<Call>,
    pub(super) running: HashMap<CallId, Call>,
    /// The argument of a waiting call that is being fetched.
    pub(super) fetch: Option<Fetch>,
    last_id: u32,
}

impl<E: Engine> ContractTask<E> {
    pub(crate) fn new(worker: Arc<Worker>, assignment: Assignment<E>, ends: TaskEnds) -> Self {
        let Assignment {
            engine,
            tenure,
            spec,
            executable,
            image,
            schemas,
        } = assignment;
        Self {
            crashes: CrashHistory::new(engine.restart_limit()),
            worker,
            engine,
            tenure,
            spec,
            executable,
            ends,
            endpoints: None,
            image,
            schemas,
            last_loss: String::new(),
        }
    }

    pub(super) fn address(&self) -> &ContractAddress {
        self.tenure.address()
    }

    pub(super) fn metrics(&self) -> &EngineMetrics {
        self.worker.metrics.of(self.spec.engine)
    }

    /// Counts a call and answers it.
    pub(super) fn answer(
        &self,
        call: Call,
        outcome: Result<Output, Failure>,
        time: Option<CallTime>,
    ) {
        self.ends.status.call_ended(outcome.is_err(), time);
        if let Err(failure) = &outcome {
            let at = self.worker.queue.clock().now_ms();
            if let Some(error) = LastError::of(&call.method, at, failure) {
                self.ends.status.failed(error);
            }
        }
        self.metrics()
            .answered(&outcome, time.map(|time| time.elapsed));
        let info = RunInfo {
            generation: Some(self.tenure.generation()),
            time,
        };
        call.delivery.settle(outcome, info);
    }
}

impl Calls {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }

    /// The ids of the requests whose calls run, separated by commas, for the log: the first few.
    pub(super) fn requests(&self) -> String {
        const NAMED: usize = 8;
        let mut running: Vec<_> = self.running.iter().collect();
        running.sort_unstable_by_key(|(id, _)| **id);
        let requests = running
            .iter()
            .filter_map(|(_, call)| call.delivery.request());
        requests.take(NAMED).collect::<Vec<_>>().join(",")
    }

    /// Whether the running call must run alone.
    pub(super) fn is_one_alone(&self) -> bool {
        self.running.len() == 1 && self.running.values().any(|call| call.losses > 0)
    }

    pub(super) fn next_id(&mut self) -> CallId {
        self.last_id = self.last_id.wrapping_add(1);
        CallId(self.last_id)
    }
}
