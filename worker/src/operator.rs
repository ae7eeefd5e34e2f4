//! Health checks and metrics over HTTP, for operators. Contract traffic comes through the queue
//! only.

use std::sync::Weak;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use shared::service::lifecycle::Lifecycle;
use shared::service::telemetry::metrics;
use tokio::net::TcpListener;

use crate::worker::Worker;

/// A weak reference: an open connection must not keep the worker from ending.
type WorkerRef = State<Weak<Worker>>;

/// Serves until the process stops, so that a draining worker can still be monitored.
pub(crate) async fn serve(listener: TcpListener, worker: Weak<Worker>, life: Lifecycle) {
    let routes = Router::new()
        .route("/healthz", get(alive))
        .route("/readyz", get(ready))
        .route("/metrics", get(show_metrics))
        .with_state(worker);
    let stopping = life.clone();
    let requests =
        axum::serve(listener, routes).with_graceful_shutdown(async move { life.stopping().await });
    tokio::select! {
        served = async { requests.await } => if let Err(error) = served {
            tracing::error!(%error, "cannot accept connections");
        },
        () = stopping.stopping() => {}
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

async fn show_metrics(State(worker): WorkerRef) -> Response {
    match worker.upgrade() {
        Some(worker) => {
            let text = worker.render_metrics();
            ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response()
        }
        None => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}
