//! `GET /healthz`: whether the process is alive. `GET /readyz`: whether it can serve requests.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use crate::admission::RequestKind;
use crate::error::ApiError;
use crate::openapi::failures::{HeadFailures, ReadyFailures};
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
    /// `ready`, or `degraded` while some requests are refused.
    #[schema(examples("ready"))]
    status: &'static str,
    /// What is refused because Redis is low on memory: `loads`, later `calls` as well. Unloads
    /// never are.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    refuses: Vec<&'static str>,
    /// The number of live workers.
    workers: usize,
}

/// Check that the process is alive
#[utoipa::path(
    get,
    path = "/healthz",
    tag = "Process",
    operation_id = "alive",
    responses((status = 200, body = Alive), HeadFailures),
)]
pub(crate) async fn alive() -> Json<Alive> {
    Json(Alive { status: "ok" })
}

/// Check that the process can serve requests
///
/// Ready means: Redis answers, replies are being read, at least one worker is alive, and the
/// process is not shutting down. A process that refuses loads or calls because Redis is low on
/// memory stays ready and says so: unloads, which free memory, must still reach it.
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
    let queue = state.admission.breaker().state();
    let kinds = [(RequestKind::Load, "loads"), (RequestKind::Call, "calls")];
    let is_refused = |(kind, name)| queue.refuses(kind).then_some(name);
    let refuses: Vec<_> = kinds.into_iter().filter_map(is_refused).collect();
    Ok(Json(Ready {
        status: if refuses.is_empty() {
            "ready"
        } else {
            "degraded"
        },
        refuses,
        workers,
    }))
}
