//! `GET /dead-letters`: what a person should look at. `DELETE /dead-letters/{id}`: it was.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use http::StatusCode;
use shared::queue::dead_letters::DeadLetter;

use crate::error::ApiError;
use crate::routes::path;
use crate::state::AppState;

pub(crate) async fn list(State(state): State<AppState>) -> Result<Json<Vec<DeadLetter>>, ApiError> {
    Ok(Json(state.queue.dead_letters().await?))
}

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
