//! `GET /healthz`: the process lives. `GET /readyz`: it can serve.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use crate::error::ApiError;
use crate::openapi::failures::ReadyFailures;
use crate::state::AppState;

/// The process lives.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Alive {
    #[schema(examples("ok"))]
    status: &'static str,
}

/// The process can serve.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Ready {
    #[schema(examples("ready"))]
    status: &'static str,
    /// How many are alive.
    workers: usize,
}

/// The process lives
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

/// The process can serve
///
/// Redis answers, replies are being read, a worker lives, and the process is not on its way out.
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
    if !state.replies.is_reading() {
        return Err(ApiError::QueueUnavailable(
            "Replies cannot be read".to_owned(),
        ));
    }
    let workers = state.queue.workers().await?.len();
    if workers == 0 {
        return Err(ApiError::NoCapacity("No worker is alive".to_owned()));
    }
    Ok(Json(Ready {
        status: "ready",
        workers,
    }))
}
