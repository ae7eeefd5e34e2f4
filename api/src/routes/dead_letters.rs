//! `GET /dead-letters`: what a person should look at. `DELETE /dead-letters/{id}`: it was.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use http::StatusCode;
use shared::queue::dead_letters::DeadLetter;

use crate::error::ApiError;
use crate::openapi::failures::{DeadLetterFailures, ListFailures};
use crate::routes::path;
use crate::state::AppState;

/// What a person should look at, newest first
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

/// Remove what was looked at
#[utoipa::path(
    delete,
    path = "/dead-letters/{id}",
    tag = "Farm",
    operation_id = "removeDeadLetter",
    params(("id" = String, Path, description = "As `GET /dead-letters` tells it")),
    responses((status = 204, description = "It is removed"), DeadLetterFailures),
)]
pub(crate) async fn remove(
    State(state): State<AppState>,
    parts: Result<Path<String>, PathRejection>,
) -> Result<StatusCode, ApiError> {
    if state.queue.remove_dead_letter(&path(parts)?).await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(ApiError::DeadLetterNotFound)
    }
}
