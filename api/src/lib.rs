//! The stateless HTTP front: turns requests into jobs, awaits the replies.
//!
//! Everything an api process knows it could forget: routes are a cache, waiting callers are its
//! own. So any number of them answer alike. It never runs anything of a contract.

mod admission;
mod breaker;
pub mod config;
mod dispatch;
mod error;
mod heartbeat;
mod inboxes;
mod metrics;
mod openapi;
mod reply_router;
mod request;
mod router;
mod routes;
mod server;
mod state;

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use shared::protocol::id::ApiId;
use shared::queue::farm::Farm;
use shared::queue::{Queue, QueueError, reaper};
use shared::service::lifecycle::Lifecycle;
use shared::service::telemetry::metrics::Registry;
use shared::service::telemetry::traces::{TraceError, Tracer};
use tokio::net::TcpListener;

use crate::admission::Admission;
use crate::breaker::Breaker;
use crate::config::Config;
use crate::dispatch::Dispatcher;
use crate::inboxes::Inboxes;
use crate::metrics::Metrics;
use crate::reply_router::Waiters;
use crate::state::AppState;

/// Why an api cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The queue cannot be used.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// Traces cannot be exported.
    #[error(transparent)]
    Traces(#[from] TraceError),
}

/// Serves on `listener` until `life` drains and every request under way is answered.
///
/// Boxed, so that all of it is compiled here, once, instead of in the program that awaits it.
pub fn run(
    config: Config,
    listener: TcpListener,
    life: Lifecycle,
) -> BoxFuture<'static, Result<(), ServeError>> {
    serve(config, listener, life).boxed()
}

async fn serve(config: Config, listener: TcpListener, life: Lifecycle) -> Result<(), ServeError> {
    let telemetry = Telemetry {
        registry: Registry::default(),
        tracer: Tracer::start(&config.traces, "execution-api")?,
    };
    let tracer = telemetry.tracer.clone();
    let queue = Queue::connect_counting(&config.redis, &telemetry.registry).await?;
    let api = ApiId::random();
    queue.api_heartbeat(api).await?;
    let farm = queue.farm(None).await?;
    let state = start(config, &queue, (api, farm), telemetry, &life);

    let patience = state.config.headers_timeout;
    server::serve(listener, router::router(state), patience, &life).await;

    life.stop();
    life.join().await;
    if let Err(error) = queue.remove_api(api).await {
        tracing::warn!(%error, "could not remove this api's keys: they expire by themselves");
    }
    tracer.shutdown().await;
    Ok(())
}

/// How the process shows what it does.
struct Telemetry {
    registry: Registry,
    tracer: Tracer,
}

/// Starts what runs beside the requests; gives what they need of it.
fn start(
    config: Config,
    queue: &Queue,
    (api, farm): (ApiId, Farm),
    Telemetry { registry, tracer }: Telemetry,
    life: &Lifecycle,
) -> AppState {
    let (queue, life) = (queue.clone(), life.clone());
    let waiters = Arc::new(Waiters::default());
    let reading = reply_router::Health::default();
    let inboxes = Inboxes::new(queue.clone(), api, waiters.clone(), life.clone());
    let inboxes = Arc::new(inboxes);
    let breaker = Breaker::default();

    let beating = heartbeat::beat(queue.clone(), api, waiters.clone(), life.clone());
    life.spawn("heartbeat", beating);
    let routing = reply_router::read(
        queue.clone(),
        api,
        waiters.clone(),
        reading.clone(),
        life.clone(),
    );
    life.spawn("reply router", routing);
    let watching = breaker.clone().watch(queue.clone(), life.clone());
    life.spawn("breaker", watching);
    life.spawn("worker watch", inboxes.clone().watch());
    let reaper = reaper::run(queue.clone(), config.reaper, life.clone());
    life.spawn("reaper", reaper);
    life.spawn("metrics", registry.clone().run_upkeep(life.clone()));

    let metrics = Metrics::new(registry);
    let counts = metrics.dispatch.clone();
    let dispatcher = Dispatcher::new(queue.clone(), api, waiters, inboxes, farm, counts);
    let admission = Admission::new(
        breaker,
        config.max_in_flight,
        config.max_in_flight_per_contract,
    );
    AppState::new(
        config,
        queue,
        dispatcher,
        admission,
        reading,
        (metrics, tracer),
        life,
    )
}
