//! Health checks and metrics over HTTP, for operators. Contract traffic comes through the queue
//! only.

use std::sync::{Arc, Weak};
use std::time::Duration;

use axum::Router;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde::Deserialize;
use shared::service::lifecycle::Lifecycle;
use shared::service::telemetry::metrics;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::worker::Worker;

/// A weak reference: an open connection must not keep the worker from ending.
type WorkerRef = State<Weak<Worker>>;

/// Connections that are open at once. Health checks and a scraper need a few.
const CONNECTIONS: usize = 64;

/// How long a connection may be idle, or take to send the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a connection may be used, so that a client which does not read its responses gives its
/// place back. Others connect again.
const CONNECTION_LIFE: Duration = Duration::from_mins(10);

/// The most bytes of a request's head.
const HEAD_BYTES: usize = 16 * 1024;

/// The pause after a connection could not be accepted, mostly for lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Serves until the process stops, so that a draining worker can still be monitored.
pub(crate) async fn serve(listener: TcpListener, worker: Weak<Worker>, life: Lifecycle) {
    let routes = Router::new()
        .route("/healthz", get(alive))
        .route("/readyz", get(ready))
        .route("/metrics", get(show_metrics))
        .with_state(worker);
    let service = TowerToHyperService::new(routes);
    let mut protocol = http1::Builder::new();
    protocol
        .timer(TokioTimer::new())
        .max_buf_size(HEAD_BYTES)
        .header_read_timeout(HEAD_TIMEOUT);
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let accepting = async {
        loop {
            let place = places.clone().acquire_owned().await;
            let place = place.expect("the semaphore is never closed");
            let Some(stream) = accept(&listener).await else {
                continue;
            };
            let connection = protocol.serve_connection(TokioIo::new(stream), service.clone());
            let stopping = life.clone();
            life.spawn("operator connection", async move {
                tokio::select! {
                    served = connection => if let Err(error) = served {
                        tracing::debug!(%error, "connection failed");
                    },
                    () = tokio::time::sleep(CONNECTION_LIFE) => {}
                    () = stopping.stopping() => {}
                }
                drop(place);
            });
        }
    };
    tokio::select! {
        () = accepting => {}
        () = life.stopping() => {}
    }
}

/// Accepts a connection. None if that failed.
async fn accept(listener: &TcpListener) -> Option<TcpStream> {
    match listener.accept().await {
        Ok((stream, _)) => Some(stream),
        Err(error) => {
            tracing::warn!(%error, "cannot accept connections");
            tokio::time::sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}

async fn alive() -> &'static str {
    "ok\n"
}

/// Ready means that the worker holds its lease and is not draining.
async fn ready(State(worker): WorkerRef) -> (StatusCode, &'static str) {
    match worker.upgrade() {
        Some(worker) if worker.life.is_draining() => {
            (StatusCode::SERVICE_UNAVAILABLE, "draining\n")
        }
        Some(worker) if !worker.fence.is_closed() => (StatusCode::OK, "ready\n"),
        _ => (StatusCode::SERVICE_UNAVAILABLE, "no lease\n"),
    }
}

/// The query of `/metrics`.
#[derive(Debug, Deserialize)]
struct Shown {
    /// Whether the figures of each contract are shown, too. `METRICS_BY_CONTRACT` if missing.
    contracts: Option<bool>,
}

async fn show_metrics(State(worker): WorkerRef, Query(shown): Query<Shown>) -> Response {
    match worker.upgrade() {
        Some(worker) => {
            let text = worker.render_metrics(shown.contracts);
            ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response()
        }
        None => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}
