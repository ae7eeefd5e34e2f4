//! `GET /dead-letters`: entries that need an operator's attention. `DELETE /dead-letters/{id}`:
//! removes one after that.

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use http::StatusCode;
use serde::Deserialize;
use shared::queue::dead_letters::DeadLetter;

use crate::access::{By, Caller};
use crate::audit::Action;
use crate::error::ApiError;
use crate::openapi::failures::{DeadLetterFailures, DeadLetterListFailures};
use crate::routes::{pages, path};
use crate::state::AppState;

/// Whose entries are asked for.
#[derive(Debug, Deserialize)]
pub(crate) struct ListQuery {
    tenant: Option<String>,
}

/// List the dead letters, newest first
#[utoipa::path(
    get,
    path = "/dead-letters",
    tag = "Farm",
    operation_id = "listDeadLetters",
    params(
        ("tenant" = Option<String>, Query, description = "Whose entries: those about the contracts \
            of another tenant, or `*` for all. Only for keys of the default tenant with \
            `farm:operate`", pattern = "^([a-z0-9._-]{1,64}|[*])$"),
    ),
    responses((status = 200, body = Vec<DeadLetter>), DeadLetterListFailures),
)]
pub(crate) async fn list(
    State(state): State<AppState>,
    By(caller): By,
    asked: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<Vec<DeadLetter>>, ApiError> {
    let view = caller.view(pages::query(asked)?.tenant.as_deref())?;
    let in_sight = |letter: &DeadLetter| view.includes(&letter.tenant());
    let letters = state.queue.dead_letters(in_sight).await?;
    let shown = letters.into_iter().map(|letter| view.dead_letter(letter));
    Ok(Json(shown.collect()))
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
    let removed = remove_visible(&state, &caller, &id).await;
    state
        .audit
        .record(&caller, Action::RemoveDeadLetter, &id, None, removed)
}

/// Removes an entry that the caller sees. Who operates the farm sees all.
async fn remove_visible(
    state: &AppState,
    caller: &Caller,
    id: &str,
) -> Result<StatusCode, ApiError> {
    let letter = state.queue.dead_letter(id).await?;
    let is_visible = |letter: &DeadLetter| caller.sees_of(&letter.tenant());
    if !letter.as_ref().is_some_and(is_visible) {
        return Err(ApiError::DeadLetterNotFound);
    }
    match state.queue.remove_dead_letter(id).await {
        Ok(true) => Ok(StatusCode::NO_CONTENT),
        Ok(false) => Err(ApiError::DeadLetterNotFound),
        Err(error) => Err(ApiError::write_failed(error)),
    }
}
