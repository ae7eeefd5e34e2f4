//! The state of this worker that all of its parts share.

use std::sync::Arc;

use shared::protocol::id::WorkerId;
use shared::protocol::job::{EffectiveLimits, EngineKind, Limits};
use shared::queue::leases::WorkerInfo;
use shared::queue::{CatchUpRequest, Queue};
use shared::service::lifecycle::Lifecycle;
use shared::service::telemetry::traces::Tracer;
use tokio::sync::Notify;
use tokio_util::task::TaskTracker;

use crate::cancelled::CancelledJobs;
use crate::chromium::Chromium;
use crate::contracts::Contracts;
use crate::docker::Docker;
use crate::fence::Fence;
use crate::identity::Identity;
use crate::log_writer::LogWriter;
use crate::metrics::{Metrics, Snapshot};
use crate::sandbox::Engine;
use crate::settle::Settler;

/// Requests to the readers of this worker: the one of the inbox, and one for each engine.
#[derive(Debug, Default)]
pub(crate) struct CatchUpRequests {
    inbox: CatchUpRequest,
    javascript: CatchUpRequest,
    docker: CatchUpRequest,
}

impl CatchUpRequests {
    /// Asks every reader to inspect its pending entries again.
    pub(crate) fn request(&self) {
        self.inbox.send();
        self.javascript.send();
        self.docker.send();
    }

    /// The requests that the reader of the inbox answers.
    pub(crate) fn of_inbox(&self) -> CatchUpRequest {
        self.inbox.clone()
    }

    /// The requests that the reader of an engine's placement stream answers.
    pub(crate) fn of_placement(&self, engine: EngineKind) -> CatchUpRequest {
        match engine {
            EngineKind::Javascript => self.javascript.clone(),
            EngineKind::Docker => self.docker.clone(),
        }
    }
}

/// The shared state of this worker.
pub(crate) struct Worker {
    pub(crate) identity: Arc<Identity>,
    pub(crate) queue: Queue,
    pub(crate) contracts: Contracts,
    pub(crate) settler: Settler,
    pub(crate) logs: LogWriter,
    pub(crate) life: Lifecycle,
    /// Requests a comparison of the contracts with the registry.
    pub(crate) comparison: Notify,
    /// Redis answers again after a heartbeat that failed.
    pub(crate) reconnected: Notify,
    /// Requests that the readers inspect their pending entries.
    pub(crate) catch_up: CatchUpRequests,
    /// The tasks that read the placement streams.
    pub(crate) placements: TaskTracker,
    pub(crate) fence: Arc<Fence>,
    pub(crate) cancelled: CancelledJobs,
    pub(crate) metrics: Metrics,
    pub(crate) tracer: Tracer,
    /// How long a crash-looping contract stays quarantined.
    pub(crate) quarantine_ms: u64,
    /// The JavaScript engine, if this worker offers it.
    pub(crate) chromium: Option<Chromium>,
    /// The Docker engine, if this worker offers it.
    pub(crate) docker: Option<Docker>,
}

impl Worker {
    /// The id under which this worker acts at the moment.
    pub(crate) fn id(&self) -> WorkerId {
        self.identity.id()
    }

    /// Waits until this worker may claim contracts, and returns the id to do it under. None if the
    /// process stops.
    pub(crate) async fn may_claim(&self) -> Option<WorkerId> {
        let allowed = async {
            self.fence.opened().await;
            self.identity.usable().await
        };
        tokio::select! {
            id = allowed => Some(id),
            () = self.life.stopping() => None,
        }
    }

    /// The engines that this worker offers.
    pub(crate) fn engines(&self) -> Vec<EngineKind> {
        let javascript = self.chromium.as_ref().map(|_| EngineKind::Javascript);
        let docker = self.docker.as_ref().map(|_| EngineKind::Docker);
        javascript.into_iter().chain(docker).collect()
    }

    /// The limits that a contract runs with which asks for `limits`. None if this worker does not
    /// offer the engine.
    pub(crate) fn limits(&self, engine: EngineKind, limits: &Limits) -> Option<EffectiveLimits> {
        match engine {
            EngineKind::Javascript => Some(self.chromium.as_ref()?.limits(limits)),
            EngineKind::Docker => Some(self.docker.as_ref()?.limits(limits)),
        }
    }

    /// What this worker reports about itself to the farm.
    pub(crate) fn info(&self) -> WorkerInfo {
        WorkerInfo {
            engines: self.engines(),
            capacity: self.contracts.capacity(),
            used: self.contracts.len(),
            draining: self.life.is_draining(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            highest_limits: self.highest_limits(),
        }
    }

    fn highest_limits(&self) -> Vec<(EngineKind, EffectiveLimits)> {
        let of = |engine| Some((engine, self.limits(engine, &Limits::default())?));
        EngineKind::ALL.into_iter().filter_map(of).collect()
    }

    /// Reports a changed number of contracts at once, without waiting for the next heartbeat.
    pub(crate) async fn announce(&self) {
        if let Err(error) = self.queue.report_worker(self.id(), &self.info()).await {
            tracing::warn!(%error, "worker report failed");
        }
    }

    /// The metrics in the Prometheus text format, with those of each contract if that is wanted.
    pub(crate) fn render_metrics(&self, by_contract: Option<bool>) -> String {
        let now = Snapshot {
            worker: self.id(),
            contracts: self.contracts.all(),
            capacity: self.contracts.capacity(),
            has_lease: !self.fence.is_closed(),
            is_draining: self.life.is_draining(),
            chromium: self.chromium.as_ref(),
        };
        self.metrics.render(&now, by_contract)
    }
}
