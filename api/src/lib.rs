//! The stateless HTTP side of the service: turns requests into jobs and awaits the replies.
//!
//! An api process holds only caches and its own pending requests, so any number of processes are
//! interchangeable. It never runs contract code.

pub mod access;
mod admission;
mod audit;
mod body;
mod breaker;
mod call_logs;
pub mod config;
mod dispatch;
mod edge;
mod error;
mod inboxes;
mod limits;
mod metrics;
mod openapi;
mod reply_router;
mod reply_streams;
mod request;
mod request_log;
mod router;
mod routes;
mod schemas;
mod server;
mod server_timing;
mod source_maps;
mod state;
mod unanswered;

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use shared::queue::farm::Farm;
use shared::queue::key_store::KeyStore;
use shared::queue::{Queue, QueueError, reaper, sweeper};
use shared::service::lifecycle::Lifecycle;
use shared::service::telemetry::metrics::Registry;
use shared::service::telemetry::traces::{TraceError, Tracer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::access::first_key::{self, FirstKeyError};
use crate::access::{Access, TokenKeysError};
use crate::admission::{Admission, InFlightLimits};
use crate::audit::Audit;
use crate::body::BodyRules;
use crate::breaker::Breaker;
use crate::config::Config;
use crate::dispatch::{Dispatcher, DispatcherParts};
use crate::edge::{BodyPool, Connections, Heads};
use crate::inboxes::Inboxes;
use crate::limits::{Counted, Holdings, Meters, TenantTable};
use crate::metrics::Metrics;
use crate::reply_router::{ReaderHealth, Waiters};
use crate::reply_streams::ReplyStreams;
use crate::routes::load::CHECK_PARTS;
use crate::routes::logs::FOLLOWERS;
use crate::schemas::SchemaCache;
use crate::source_maps::SourceMaps;
use crate::state::{AppState, Services};
use crate::unanswered::UnansweredContracts;

/// The connections of the listener for metrics. Probes and a scraper need a few.
const METRICS_CONNECTIONS: usize = 64;

/// Why an api process cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The queue cannot be used.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// The first key cannot be registered.
    #[error(transparent)]
    FirstKey(#[from] FirstKeyError),
    /// The keys of tokens cannot be read.
    #[error(transparent)]
    TokenKeys(#[from] TokenKeysError),
    /// Traces cannot be exported.
    #[error(transparent)]
    Traces(#[from] TraceError),
    /// The listener for metrics cannot be opened.
    #[error("EXECUTION_API_METRICS_HOST:EXECUTION_API_METRICS_PORT {address}: {source}")]
    MetricsListener {
        /// The configured address.
        address: String,
        /// Why it cannot be opened.
        source: std::io::Error,
    },
}

/// Serves on `listener` until `life` drains and every request in progress is answered.
///
/// Boxed, so that it is compiled once, here, and not again in each program that awaits it.
pub fn run(
    config: Config,
    listener: TcpListener,
    life: Lifecycle,
) -> BoxFuture<'static, Result<(), ServeError>> {
    serve(config, listener, life).boxed()
}

async fn serve(config: Config, listener: TcpListener, life: Lifecycle) -> Result<(), ServeError> {
    let metrics_listener = listen_for_metrics(&config).await?;
    let telemetry = Telemetry {
        registry: Registry::default(),
        tracer: Tracer::start(&config.traces, "execution-api")?,
    };
    let tracer = telemetry.tracer.clone();
    let queue = Queue::connect_counting(&config.redis, &telemetry.registry).await?;
    let (waiters, reader_health) = (Arc::new(Waiters::default()), ReaderHealth::default());
    let replies = ReplyStreams::open(
        queue.clone(),
        waiters.clone(),
        reader_health.clone(),
        life.clone(),
    )
    .await?;
    let farm = queue.farm(None).await?;
    queue.fill_registry().await?;
    let counted = Counted {
        callers: !config.access.auth.is_off(),
        tenants: config.metrics_by_tenant,
    };
    let meters = Meters::start(&queue, counted, &life);
    let tenants = Arc::new(TenantTable::new(queue.clone(), meters.clone()));
    tenants.all().await?;
    let access = Access::open(&config.access, KeyStore::new(queue.clone()), &meters).await?;
    if let Some(file) = &config.access.admin_key_file {
        first_key::register(&access.keys, file).await?;
    }
    let state = start(
        Parts {
            config,
            queue,
            access,
            replies: replies.clone(),
            waiters,
            reader_health,
            limits: Limits { meters, tenants },
            farm,
            telemetry,
        },
        &life,
    );

    follow_keys(&state);
    let (connections, headers_timeout) = (state.connections.clone(), state.config.headers_timeout);
    if let Some(listener) = metrics_listener {
        life.spawn("metrics listener", serve_metrics(listener, state.clone()));
    }
    let router = router::router(state);
    server::serve(listener, router, connections, headers_timeout, &life).await;

    life.stop();
    life.join().await;
    replies.remove().await;
    tracer.shutdown().await;
    Ok(())
}

/// Starts to follow the keys of callers and of identity providers.
fn follow_keys(state: &AppState) {
    let life = &state.life;
    if state.config.access.auth.keys {
        life.spawn("keys", state.access.keys.clone().run(life.clone()));
    }
    if let Some(tokens) = &state.access.tokens {
        life.spawn("keys of tokens", tokens.clone().run(life.clone()));
    }
}

async fn serve_metrics(listener: TcpListener, state: AppState) {
    let (life, headers_timeout) = (state.life.clone(), state.config.headers_timeout);
    let connections = Connections::new(METRICS_CONNECTIONS);
    let router = router::metrics_router(state);
    server::serve(listener, router, connections, headers_timeout, &life).await;
}

/// Metrics and traces.
struct Telemetry {
    registry: Registry,
    tracer: Tracer,
}

/// What an api process is started with.
struct Parts {
    config: Config,
    queue: Queue,
    access: Access,
    replies: ReplyStreams,
    waiters: Arc<Waiters>,
    reader_health: ReaderHealth,
    limits: Limits,
    farm: Farm,
    telemetry: Telemetry,
}

/// What bounds the use of the farm.
struct Limits {
    meters: Arc<Meters>,
    tenants: Arc<TenantTable>,
}

/// Starts the background tasks and builds the state that the handlers share.
fn start(parts: Parts, life: &Lifecycle) -> AppState {
    let Parts {
        config,
        queue,
        access,
        replies,
        waiters,
        reader_health,
        limits: Limits { meters, tenants },
        farm,
        telemetry: Telemetry { registry, tracer },
    } = parts;
    let life = life.clone();
    let breaker = Breaker::default();
    let (to_inboxes, from_inboxes) = (replies.clone(), waiters.clone());
    let inboxes = Inboxes::new(queue.clone(), to_inboxes, from_inboxes, life.clone());
    let inboxes = Arc::new(inboxes);

    life.spawn("heartbeat", replies.clone().run());
    let probing = breaker.clone().run(queue.clone(), life.clone());
    life.spawn("breaker", probing);
    life.spawn("worker connections", inboxes.clone().check_workers());
    maintain(&queue, &config, &life);
    life.spawn("metrics", registry.clone().run_upkeep(life.clone()));
    life.spawn("tenants", tenants.clone().run(life.clone()));

    let metrics = Metrics::new(registry);
    let dispatcher = Dispatcher::new(DispatcherParts {
        queue: queue.clone(),
        replies,
        waiters,
        inboxes,
        meters,
        farm,
        breaker: breaker.clone(),
        schemas: SchemaCache::new(queue.clone()),
        metrics: metrics.dispatch.clone(),
        executables_limit: config.executables_limit,
    });
    AppState::new(Services {
        tenants,
        holdings: Holdings::default(),
        admission: Admission::new(breaker, in_flight_limits(&config)),
        connections: Connections::new(server::connection_limit(config.max_connections)),
        call_bodies: bodies(&config, config.execute_body_limit, config.call_bytes),
        load_bodies: bodies(&config, config.load_body_limit, config.load_bytes),
        heads: heads(&config),
        load_checks: Semaphore::new(CHECK_PARTS as usize),
        source_maps: SourceMaps::new(queue.clone()),
        followers: Arc::new(Semaphore::new(FOLLOWERS)),
        audit: Audit::start(queue.clone(), &life),
        config,
        queue,
        access,
        dispatcher,
        reader_health,
        metrics,
        unanswered: UnansweredContracts::default(),
        tracer,
        life,
    })
}

/// Starts what any process of the farm may do, one at a time: cleaning up after dead workers, and
/// walking the registry.
fn maintain(queue: &Queue, config: &Config, life: &Lifecycle) {
    let reaper = reaper::run(queue.clone(), config.reaper, life.clone());
    life.spawn("reaper", reaper);
    life.spawn("sweeper", sweeper::run(queue.clone(), life.clone()));
}

fn heads(config: &Config) -> Heads {
    Heads {
        origins: config.cors_origins.clone(),
        is_open: config.access.auth.is_off(),
    }
}

/// Opens the listener for metrics, if one is configured.
async fn listen_for_metrics(config: &Config) -> Result<Option<TcpListener>, ServeError> {
    let Some(port) = config.metrics_port else {
        return Ok(None);
    };
    let refused = |source| ServeError::MetricsListener {
        address: format!("{}:{port}", config.metrics_host),
        source,
    };
    let listener = TcpListener::bind((config.metrics_host.as_str(), port)).await;
    let listener = listener.map_err(refused)?;
    let address = listener.local_addr().map_err(refused)?;
    tracing::info!(%address, "listening for metrics");
    Ok(Some(listener))
}

fn in_flight_limits(config: &Config) -> InFlightLimits {
    InFlightLimits {
        all: config.max_in_flight,
        loads: config.max_loads_in_flight,
        per_contract: config.max_in_flight_per_contract,
    }
}

/// For bodies of at most `limit` bytes each and `bytes` together.
fn bodies(config: &Config, limit: usize, bytes: usize) -> BodyRules {
    BodyRules {
        limit,
        patience: config.body_timeout,
        pool: BodyPool::new(bytes, limit),
    }
}
