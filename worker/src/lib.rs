//! Owns the sandboxes: pulls the jobs of the contracts that it owns, runs them, answers.
//!
//! A worker serves no contract traffic over HTTP and does not know the callers. It reads its inbox
//! ([`runner`]) and the placement streams ([`placement`]), runs the contracts that it owns
//! ([`contracts`]), and replies to each job and acknowledges it ([`settle`]).

#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

mod cancelled;
pub mod chromium;
pub mod config;
mod container_sweep;
mod contracts;
pub mod docker;
mod engine_tasks;
mod executables;
mod fence;
mod heartbeat;
mod identity;
mod jobs;
mod log_writer;
mod metrics;
mod operator;
mod placement;
mod reconcile;
mod run_info;
mod runner;
pub mod sandbox;
mod seen_jobs;
mod settle;
mod shutdown;
#[cfg(test)]
mod test_farm;
mod usage;
mod worker;

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use shared::protocol::id::WorkerId;
use shared::protocol::job::EngineKind;
use shared::queue::farm::Farm;
use shared::queue::{Queue, QueueError, ReaperConfig, reaper, sweeper};
use shared::service::lifecycle::Lifecycle;
use shared::service::telemetry::metrics::Registry;
use shared::service::telemetry::traces::{TraceError, Tracer};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_util::task::TaskTracker;

use crate::cancelled::CancelledJobs;
use crate::chromium::{Chromium, LaunchError};
use crate::config::Config;
use crate::contracts::Contracts;
use crate::docker::{Docker, DockerError};
use crate::fence::Fence;
use crate::identity::Identity;
use crate::log_writer::{LogTask, LogWriter};
use crate::metrics::Metrics;
use crate::settle::{SettleTask, Settler};
use crate::worker::{CatchUpRequests, Worker};

/// Why a worker cannot run.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The queue cannot be used.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// Chromium cannot be used.
    #[error(transparent)]
    Chromium(#[from] LaunchError),
    /// Docker cannot be used, and no other engine is configured.
    #[error(transparent)]
    Docker(#[from] DockerError),
    /// Traces cannot be exported.
    #[error(transparent)]
    Traces(#[from] TraceError),
    /// The port for health checks and metrics cannot be opened.
    #[error("EXECUTION_WORKER_HOST:EXECUTION_WORKER_PORT {address}: {source}")]
    Listener {
        /// The configured address.
        address: String,
        /// Why it cannot be opened.
        source: std::io::Error,
    },
}

/// Runs a worker until `life` drains. Then the worker hands its contracts over to other workers and
/// removes everything that it created.
///
/// The future is boxed, so that it is compiled once, in this crate, and not again in the program.
pub fn run(config: Config, life: Lifecycle) -> BoxFuture<'static, Result<(), WorkerError>> {
    work(config, life).boxed()
}

async fn work(config: Config, life: Lifecycle) -> Result<(), WorkerError> {
    let listener = listen(&config).await?;
    let registry = Registry::default();
    let tracer = Tracer::start(&config.traces, "execution-worker")?;
    let queue = Queue::connect_counting(&config.redis, &registry).await?;
    let id = WorkerId::random();
    let sandboxes = Sandboxes::start(&config, &queue, id, &life).await?;
    let identity = Arc::new(Identity::new(id));
    let (settler, settle_task) = Settler::new(queue.clone(), identity.clone(), life.clone());
    let (logs, log_task) = LogWriter::new();
    let worker = Arc::new(Worker {
        identity,
        queue,
        contracts: Contracts::new(config.capacity, config.queue_limit),
        settler,
        logs,
        life: life.clone(),
        comparison: Notify::new(),
        reconnected: Notify::new(),
        catch_up: CatchUpRequests::default(),
        placements: TaskTracker::new(),
        fence: Arc::new(Fence::new()),
        cancelled: CancelledJobs::default(),
        metrics: Metrics::new(registry.clone(), config.metrics_by_contract),
        tracer: tracer.clone(),
        quarantine_ms: config.reaper.quarantine_ms(),
        chromium: sandboxes.chromium.clone(),
        docker: sandboxes.docker.clone(),
    });
    let farm = match register(&worker).await {
        Ok(farm) => farm,
        Err(error) => {
            sandboxes.shutdown().await;
            return Err(error.into());
        }
    };
    let engines: Vec<_> = worker.engines().into_iter().map(EngineKind::name).collect();
    let engines = engines.join(",");
    tracing::info!(worker = %worker.id(), engines, "worker is ready");
    let background = Background {
        reaper: config.reaper,
        settle_task,
        log_task,
        farm,
        registry,
        listener,
    };
    background.start(&worker);

    life.draining().await;
    let handed_over = shutdown::hand_over(&worker).await;
    life.stop();
    let (id, queue) = (worker.id(), worker.queue.clone());
    // The settle task ends once no part of the worker holds a settler.
    drop(worker);
    life.join().await;
    leave(&queue, id, handed_over).await;
    sandboxes.shutdown().await;
    tracer.shutdown().await;
    Ok(())
}

/// Adds the worker to the farm.
async fn register(worker: &Worker) -> Result<Farm, QueueError> {
    let farm = worker.queue.farm(None).await?;
    worker.queue.fill_registry().await?;
    let id = worker.id();
    if !worker.queue.register_worker(id).await? {
        let message = format!("worker id {id} was used before");
        return Err(QueueError::Unexpected(message));
    }
    // Whoever sees room here offers contracts at once, and an id cannot own one before.
    worker.identity.usable().await;
    worker.queue.report_worker(id, &worker.info()).await?;
    Ok(farm)
}

/// Removes the worker from the farm. What it could not hand over stays in Redis as the recovery
/// record: the other processes fail it over at once, as after a crash.
async fn leave(queue: &Queue, worker: WorkerId, handed_over: bool) {
    let left = if handed_over {
        queue.remove_worker(worker).await
    } else {
        queue.abandon_worker(worker).await
    };
    if let Err(error) = left {
        tracing::warn!(%error, "worker not removed from the farm; its lease will expire");
    }
}

/// What the background tasks of a registered worker need.
struct Background {
    reaper: ReaperConfig,
    settle_task: SettleTask,
    log_task: LogTask,
    farm: Farm,
    registry: Registry,
    listener: Option<TcpListener>,
}

impl Background {
    /// Starts every background task of the worker.
    fn start(self, worker: &Arc<Worker>) {
        let life = &worker.life;
        let settling = self.settle_task.run(worker.fence.clone(), life.clone());
        life.spawn("settler", settling);
        let logging = self.log_task.run(worker.queue.clone(), life.clone());
        life.spawn("output of contracts", logging);
        life.spawn("heartbeat", heartbeat::run(worker.clone(), self.farm));
        life.spawn("presence", heartbeat::hold_subscription(worker.clone()));
        life.spawn("comparison", reconcile::run(worker.clone()));
        let reaper = reaper::run(worker.queue.clone(), self.reaper, life.clone());
        life.spawn("reaper", reaper);
        let sweeper = sweeper::run(worker.queue.clone(), life.clone());
        life.spawn("sweeper", sweeper);
        life.spawn("metrics", self.registry.run_upkeep(life.clone()));
        if let Some(listener) = self.listener {
            let serving = operator::serve(listener, Arc::downgrade(worker), life.clone());
            life.spawn("operator", serving);
        }
        life.spawn("runner", runner::run(worker.clone()));
        for engine in worker.engines() {
            let placing = placement::run(worker.clone(), engine);
            life.spawn("placement", worker.placements.track_future(placing));
        }
        worker.placements.close();
        if let Some(docker) = &worker.docker {
            let sweep = container_sweep::run(worker.clone(), docker.clone());
            life.spawn("container sweep", sweep);
        }
    }
}

/// Opens the port for health checks and metrics, if one is configured.
async fn listen(config: &Config) -> Result<Option<TcpListener>, WorkerError> {
    let Some(port) = config.port else {
        return Ok(None);
    };
    let refused = |source| WorkerError::Listener {
        address: format!("{}:{port}", config.host),
        source,
    };
    let listener = TcpListener::bind((config.host.as_str(), port))
        .await
        .map_err(refused)?;
    tracing::info!(address = %listener.local_addr().map_err(refused)?, "listening");
    Ok(Some(listener))
}

/// The running engines.
struct Sandboxes {
    chromium: Option<Chromium>,
    docker: Option<Docker>,
}

impl Sandboxes {
    /// Starts the configured engines. If the Docker daemon is unreachable, the worker runs without
    /// Docker, unless Docker is the only configured engine.
    async fn start(
        config: &Config,
        queue: &Queue,
        worker: WorkerId,
        life: &Lifecycle,
    ) -> Result<Self, WorkerError> {
        let mut docker = None;
        if let Some(wanted) = &config.docker {
            let farm = queue.farm(None).await?;
            match Docker::start(wanted.clone(), farm.name, worker, life.clone()).await {
                Ok(started) => docker = Some(started),
                Err(error) if config.chromium.is_none() => return Err(error.into()),
                Err(error) => tracing::warn!(%error, "Docker contracts are not offered"),
            }
        }
        let mut sandboxes = Self {
            chromium: None,
            docker,
        };
        if let Some(wanted) = &config.chromium {
            match Chromium::start(wanted.clone(), life.clone()).await {
                Ok(started) => sandboxes.chromium = Some(started),
                Err(error) => {
                    sandboxes.shutdown().await;
                    return Err(error.into());
                }
            }
        }
        Ok(sandboxes)
    }

    async fn shutdown(&self) {
        if let Some(chromium) = &self.chromium {
            chromium.shutdown().await;
        }
        if let Some(docker) = &self.docker {
            docker.shutdown().await;
        }
    }
}
