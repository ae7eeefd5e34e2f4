//! `GET /contracts/{contractAddress}/openapi.json`: the `OpenAPI` document of one contract.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use serde_json::Value;

use crate::access::{By, Permission};
use crate::error::ApiError;
use crate::openapi::failures::ContractFailures;
use crate::routes::contracts::whole_status;
use crate::routes::path;
use crate::schemas::description;
use crate::state::AppState;

/// Describe the endpoints of a contract
///
/// An `OpenAPI` document of this one contract, from which clients can be generated. Where it was
/// loaded with schemas, it has them.
#[utoipa::path(
    get,
    path = "/contracts/{contractAddress}/openapi.json",
    tag = "Contracts",
    operation_id = "describeContract",
    params(
        ("contractAddress" = String, Path, pattern = "^[A-Za-z0-9._:-]{1,128}$", example = "abcd"),
    ),
    responses((status = 200, body = serde_json::Value), ContractFailures),
)]
pub(crate) async fn describe(
    State(state): State<AppState>,
    By(caller): By,
    parts: Result<Path<String>, PathRejection>,
) -> Result<Json<Value>, ApiError> {
    let view = caller.view(None)?;
    let contract = view.contract(Permission::ContractsRead, &path::<String>(parts)?)?;
    let status = whole_status(&state, &contract).await?;
    Ok(Json(description::describe(&view.status(status))))
}
