//! `GET /dead-letters`: entries that need an operator's attention. `DELETE /dead-letters/{id}`:
//! removes one after that.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use http::StatusCode;
use shared::queue::dead_letters::DeadLetter;

use crate::access::By;
use crate::audit::Action;
use crate::error::ApiError;
use crate::openapi::failures::{DeadLetterFailures, ListFailures};
use crate::routes::path;
use crate::state::AppState;

/// List the dead letters, newest first
#[utoipa::path(
    get,
    path = "/dead-letters",
    tag = "Farm",
    operation_id = "listDeadLetters",
    responses((status = 200, body = Vec<DeadLetter>), ListFailures),
)]
pub(crate) async fn list(State(state): State<AppState>) -> Result<Json<Vec<DeadLetter>>, ApiError> {
    Ok(Json(state.queue.dead_letters().await?))
}

/// Remove a dead letter
#[utoipa::path(
    delete,
    path = "/dead-letters/{id}",
    tag = "Farm",
    operation_id = "removeDeadLetter",
    params(("id" = String, Path, description = "As in `GET /dead-letters`")),
    responses((status = 204, description = "The dead letter is removed"), DeadLetterFailures),
)]
pub(crate) async fn remove(
    State(state): State<AppState>,
    By(caller): By,
    parts: Result<Path<String>, PathRejection>,
) -> Result<StatusCode, ApiError> {
    let id: String = path(parts)?;
    let removed = match state.queue.remove_dead_letter(&id).await {
        Ok(true) => Ok(StatusCode::NO_CONTENT),
        Ok(false) => Err(ApiError::DeadLetterNotFound),
        Err(error) => Err(ApiError::write_failed(error)),
    };
    state
        .audit
        .record(&caller, Action::RemoveDeadLetter, &id, None, removed)
}
