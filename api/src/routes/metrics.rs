//! `GET /metrics`: how this process fares, for Prometheus.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::CONTENT_TYPE;
use shared::service::telemetry::metrics;

use crate::breaker;
use crate::metrics::Moment;
use crate::state::AppState;

/// How this process fares, for Prometheus
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "Process",
    operation_id = "metrics",
    responses((
        status = 200,
        description = "In Prometheus' text format",
        body = String,
        content_type = "text/plain",
    )),
)]
pub(crate) async fn show(State(state): State<AppState>) -> Response {
    let now = Moment {
        in_flight: state.admission.under_way(),
        unclaimed: state.dispatcher.unclaimed(),
        available: state.admission.queue_state() == breaker::State::Closed,
    };
    let text = state.metrics.render(now);
    ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response()
}
