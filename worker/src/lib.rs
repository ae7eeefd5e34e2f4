//! Owns the sandboxes: pulls the jobs of the contracts that it hosts, runs them, answers.
//!
//! A worker serves no contract traffic over HTTP and knows nothing of callers: it reads its inbox
//! ([`runner`]) and the placement streams ([`placement`]), keeps the hosted contracts
//! ([`contracts`]), and settles what ended ([`settle`]).

mod cancelled;
pub mod chromium;
pub mod config;
mod contracts;
pub mod docker;
mod fence;
mod heartbeat;
mod jobs;
mod known;
mod metrics;
mod operator;
mod orphans;
mod placement;
mod runner;
pub mod sandbox;
mod settle;
mod shutdown;

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use shared::protocol::id::WorkerId;
use shared::protocol::job::EngineKind;
use shared::queue::farm::Farm;
use shared::queue::leases::WorkerInfo;
use shared::queue::{Queue, QueueError, ReaperConfig, reaper};
use shared::service::lifecycle::Lifecycle;
use shared::service::telemetry::metrics::Registry;
use shared::service::telemetry::traces::{TraceError, Tracer};
use tokio::net::TcpListener;
use tokio_util::task::TaskTracker;

use crate::cancelled::Cancelled;
use crate::chromium::{Chromium, LaunchError};
use crate::config::Config;
use crate::contracts::Contracts;
use crate::docker::{Docker, DockerError};
use crate::fence::Fence;
use crate::metrics::Metrics;
use crate::settle::{Settler, Settling};

/// Why a worker cannot run.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The queue cannot be used.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// Chromium cannot be used.
    #[error(transparent)]
    Chromium(#[from] LaunchError),
    /// Docker cannot be used, and there is nothing else to offer.
    #[error(transparent)]
    Docker(#[from] DockerError),
    /// Traces cannot be exported.
    #[error(transparent)]
    Traces(#[from] TraceError),
    /// Nobody can ask how it fares.
    #[error("EXECUTION_WORKER_HOST:EXECUTION_WORKER_PORT {address}: {source}")]
    Listener {
        /// Where it was to listen.
        address: String,
        /// Why it cannot.
        source: std::io::Error,
    },
}

/// What every part of the worker can reach.
pub(crate) struct Worker {
    pub(crate) id: WorkerId,
    pub(crate) queue: Queue,
    pub(crate) contracts: Contracts,
    pub(crate) settler: Settler,
    pub(crate) life: Lifecycle,
    /// The tasks that take contracts to host.
    pub(crate) placements: TaskTracker,
    pub(crate) fence: Arc<Fence>,
    pub(crate) cancelled: Cancelled,
    pub(crate) metrics: Metrics,
    pub(crate) tracer: Tracer,
    /// For how long a contract that breaks what hosts it is hosted by nobody.
    pub(crate) quarantine_ms: u64,
    /// The sandboxes that it offers.
    pub(crate) chromium: Option<Chromium>,
    pub(crate) docker: Option<Docker>,
}

impl Worker {
    /// The names of what it offers.
    pub(crate) fn engines(&self) -> Vec<EngineKind> {
        let javascript = self.chromium.as_ref().map(|_| EngineKind::Javascript);
        let docker = self.docker.as_ref().map(|_| EngineKind::Docker);
        javascript.into_iter().chain(docker).collect()
    }

    /// What it tells of itself.
    pub(crate) fn info(&self) -> WorkerInfo {
        WorkerInfo {
            engines: self.engines(),
            capacity: self.contracts.capacity(),
            used: self.contracts.len(),
            draining: self.life.is_draining(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    /// Tells at once that the number of its contracts has changed.
    pub(crate) async fn announce(&self) {
        if let Err(error) = self.queue.report_worker(self.id, &self.info()).await {
            tracing::warn!(%error, "could not announce a change");
        }
    }
}

/// Makes the worker known.
async fn register(worker: &Worker) -> Result<Farm, QueueError> {
    let farm = worker.queue.farm(None).await?;
    worker.queue.register_worker(worker.id).await?;
    worker
        .queue
        .report_worker(worker.id, &worker.info())
        .await?;
    Ok(farm)
}

/// Hosts contracts until `life` drains, hands them back to the queue and leaves nothing behind.
///
/// Boxed, so that all of it is compiled here, once, instead of in the program that awaits it.
pub fn run(config: Config, life: Lifecycle) -> BoxFuture<'static, Result<(), WorkerError>> {
    work(config, life).boxed()
}

async fn work(config: Config, life: Lifecycle) -> Result<(), WorkerError> {
    let listener = listen(&config).await?;
    let registry = Registry::default();
    let tracer = Tracer::start(&config.traces, "execution-worker")?;
    let queue = Queue::connect_counting(&config.redis, &registry).await?;
    let (settler, settling) = Settler::new(queue.clone());
    let sandboxes = Sandboxes::start(&config, &queue, settler.worker()).await?;
    let worker = Arc::new(Worker {
        id: settler.worker(),
        queue,
        contracts: Contracts::new(config.capacity, config.queue_limit),
        settler,
        life: life.clone(),
        placements: TaskTracker::new(),
        fence: Arc::new(Fence::new()),
        cancelled: Cancelled::default(),
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
    tracing::info!(worker = %worker.id, engines = ?worker.engines(), "worker is ready");
    start(
        &worker,
        config.reaper,
        (settling, farm),
        (registry, listener),
    );

    life.draining().await;
    let handed_over = shutdown::hand_over(&worker).await;
    life.stop();
    let (id, queue) = (worker.id, worker.queue.clone());
    // The settler ends when nobody can settle anything any more.
    drop(worker);
    life.join().await;
    leave(&queue, id, handed_over).await;
    sandboxes.shutdown().await;
    tracer.shutdown().await;
    Ok(())
}

/// Takes the worker off the farm. What it could not hand over is left as it is: evidence for the
/// others, who clear up at once as after a death.
async fn leave(queue: &Queue, worker: WorkerId, handed_over: bool) {
    let left = if handed_over {
        queue.remove_worker(worker).await
    } else {
        queue.abandon_worker(worker).await
    };
    if let Err(error) = left {
        tracing::warn!(%error, "could not leave the farm: the others will notice");
    }
}

/// Starts all that a worker does.
fn start(
    worker: &Arc<Worker>,
    config: ReaperConfig,
    (settling, farm): (Settling, Farm),
    (registry, listener): (Registry, Option<TcpListener>),
) {
    let life = &worker.life;
    life.spawn("settler", settling.run(worker.fence.clone(), life.clone()));
    life.spawn("heartbeat", heartbeat::beat(worker.clone(), farm));
    life.spawn("presence", heartbeat::show_presence(worker.clone()));
    let reaper = reaper::run(worker.queue.clone(), config, life.clone());
    life.spawn("reaper", reaper);
    life.spawn("metrics", registry.run_upkeep(life.clone()));
    if let Some(listener) = listener {
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
        life.spawn("orphans", orphans::sweep(worker.clone(), docker.clone()));
    }
}

/// Where an operator can ask, if anywhere.
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

/// The engines that run.
struct Sandboxes {
    chromium: Option<Chromium>,
    docker: Option<Docker>,
}

impl Sandboxes {
    /// Starts the engines that are configured. Docker is left out where no daemon can be reached,
    /// unless nothing else is asked for.
    async fn start(config: &Config, queue: &Queue, worker: WorkerId) -> Result<Self, WorkerError> {
        let mut docker = None;
        if let Some(wanted) = &config.docker {
            let farm = queue.farm(None).await?;
            match Docker::start(wanted.clone(), farm.name, worker).await {
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
            match Chromium::start(wanted.clone()).await {
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
