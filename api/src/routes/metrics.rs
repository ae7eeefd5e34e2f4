//! `GET /metrics`: the metrics of this process, for Prometheus.

use std::time::Instant;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::CONTENT_TYPE;
use shared::service::telemetry::metrics;

use crate::metrics::Snapshot;
use crate::openapi::failures::CallerFailures;
use crate::state::AppState;

/// Show the metrics of this process
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "Process",
    operation_id = "metrics",
    responses(
        (
            status = 200,
            description = "In Prometheus' text format",
            body = String,
            content_type = "text/plain",
        ),
        CallerFailures,
    ),
)]
pub(crate) async fn show(State(state): State<AppState>) -> Response {
    let now = Snapshot {
        in_flight: state.admission.in_flight(),
        unclaimed_replies: state.dispatcher.unclaimed_replies(),
        connections: state.connections.open(),
        unanswered: state.unanswered.count(Instant::now()),
        body_bytes: [&state.call_bodies, &state.load_bodies].map(|rules| rules.pool.used()),
        queue: state.admission.breaker().state(),
        servers: state.admission.breaker().states(),
        memory: state.admission.breaker().memory(),
        executables: state.admission.breaker().executables(),
    };
    let mut text = state.metrics.render(&now);
    state.tenants.meters().write_tenants(&mut text);
    ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response()
}
