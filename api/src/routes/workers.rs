//! `GET /workers`: who is alive. `POST /workers/{id}/drain`: have one hand its contracts over and
//! end.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use http::StatusCode;
use serde::Serialize;
use shared::protocol::id::WorkerId;
use shared::protocol::job::{EngineKind, Job};
use utoipa::ToSchema;

use crate::error::ApiError;
use crate::openapi::failures::{DrainFailures, ListFailures};
use crate::routes::path;
use crate::state::AppState;

/// An entry of the list.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct WorkerStatus {
    #[schema(value_type = String)]
    id: WorkerId,
    engines: Vec<EngineKind>,
    /// How many contracts it can host.
    capacity: usize,
    /// How many it hosts.
    used: usize,
    version: String,
    /// `ready`, `draining`, or `suspect`: its connection is gone.
    state: &'static str,
}

/// The workers that are alive
#[utoipa::path(
    get,
    path = "/workers",
    tag = "Farm",
    operation_id = "listWorkers",
    responses((status = 200, body = Vec<WorkerStatus>), ListFailures),
)]
pub(crate) async fn list(
    State(state): State<AppState>,
) -> Result<Json<Vec<WorkerStatus>>, ApiError> {
    let workers = state.queue.workers().await?;
    let ids: Vec<_> = workers.iter().map(|(id, _)| *id).collect();
    let missing = state.queue.missing_workers(&ids).await?;
    let statuses = workers.into_iter().map(|(id, info)| WorkerStatus {
        id,
        engines: info.engines,
        capacity: info.capacity,
        used: info.used,
        version: info.version,
        state: match (missing.contains(&id), info.draining) {
            (true, _) => "suspect",
            (false, true) => "draining",
            (false, false) => "ready",
        },
    });
    Ok(Json(statuses.collect()))
}

/// Have a worker hand its contracts over and end
#[utoipa::path(
    post,
    path = "/workers/{id}/drain",
    tag = "Farm",
    params(("id" = String, Path, description = "As `GET /workers` tells it")),
    responses((status = 202, description = "It was told"), DrainFailures),
)]
pub(crate) async fn drain(
    State(state): State<AppState>,
    parts: Result<Path<String>, PathRejection>,
) -> Result<StatusCode, ApiError> {
    let worker: WorkerId = path(parts)?.parse().map_err(|_| ApiError::WorkerNotFound)?;
    if !state.queue.is_alive(worker).await? {
        return Err(ApiError::WorkerNotFound);
    }
    match state.dispatcher.tell(worker, Job::Drain).await? {
        Some(_) => Ok(StatusCode::ACCEPTED),
        None => Err(ApiError::WorkerNotFound),
    }
}
