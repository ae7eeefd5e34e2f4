//! `GET /healthz`: whether the process is alive. `GET /readyz`: whether it can serve requests.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use crate::error::ApiError;
use crate::openapi::failures::ReadyFailures;
use crate::state::AppState;

/// The process is alive.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Alive {
    #[schema(examples("ok"))]
    status: &'static str,
}

/// The process can serve requests.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Ready {
    #[schema(examples("ready"))]
    status: &'static str,
    /// The number of live workers.
    workers: usize,
}

/// Check that the process is alive
#[utoipa::path(
    get,
    path = "/healthz",
    tag = "Process",
    operation_id = "alive",
    responses((status = 200, body = Alive)),
)]
pub(crate) async fn alive() -> Json<Alive> {
    Json(Alive { status: "ok" })
}

/// Check that the process can serve requests
///
/// Ready means: Redis answers, replies are being read, at least one worker is alive, and the
/// process is not shutting down.
#[utoipa::path(
    get,
    path = "/readyz",
    tag = "Process",
    operation_id = "ready",
    responses((status = 200, body = Ready), ReadyFailures),
)]
pub(crate) async fn ready(State(state): State<AppState>) -> Result<Json<Ready>, ApiError> {
    if state.life.is_draining() {
        return Err(ApiError::Draining);
    }
    state.queue.ping().await?;
    if !state.reader_health.is_reading() {
        return Err(ApiError::QueueUnavailable(
            "Replies cannot be read from Redis".to_owned(),
        ));
    }
    let workers = state.queue.workers().await?.len();
    if workers == 0 {
        return Err(ApiError::no_live_worker());
    }
    Ok(Json(Ready {
        status: "ready",
        workers,
    }))
}
