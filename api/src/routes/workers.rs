//! `GET /workers`: the live workers. `POST /workers/{id}/drain`: drains one, so that it hands its
//! contracts over and exits.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use http::StatusCode;
use serde::Serialize;
use shared::protocol::id::WorkerId;
use shared::protocol::job::{EngineKind, Job};
use utoipa::ToSchema;

use crate::access::By;
use crate::audit::Action;
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
    /// How many contracts the worker can run.
    capacity: usize,
    /// How many contracts it runs.
    used: usize,
    version: String,
    /// `ready`, `draining`, or `suspect`, which means that its connection is gone.
    state: &'static str,
}

/// List the live workers
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

/// Drain a worker: it hands its contracts over and exits
#[utoipa::path(
    post,
    path = "/workers/{id}/drain",
    tag = "Farm",
    params(("id" = String, Path, description = "As in `GET /workers`")),
    responses((status = 202, description = "The worker is draining"), DrainFailures),
)]
pub(crate) async fn drain(
    State(state): State<AppState>,
    By(caller): By,
    parts: Result<Path<String>, PathRejection>,
) -> Result<StatusCode, ApiError> {
    let worker: WorkerId = path(parts)?.parse().map_err(|_| ApiError::WorkerNotFound)?;
    if !state.queue.is_alive(worker).await? {
        return Err(ApiError::WorkerNotFound);
    }
    let sent = state.dispatcher.send_to_worker(worker, Job::Drain).await;
    let drained = sent.and_then(|sent| sent.ok_or(ApiError::WorkerNotFound));
    state
        .audit
        .record(&caller, Action::Drain, &worker.to_string(), None, drained)?;
    Ok(StatusCode::ACCEPTED)
}
