//! `POST /unloadSmartContract`: close a contract, if it is loaded.

use axum::body::Body;
use axum::extract::State;
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::Value;
use shared::job::{Job, Unload};
use shared::queue::contracts::Route;
use utoipa::ToSchema;

use crate::dispatch::Ticket;
use crate::error::ApiError;
use crate::openapi::UnloadFailures;
use crate::request::{read_body, trace_context};
use crate::routes::{address, json};
use crate::state::AppState;

/// The body of an unload.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Unload, description = "A contract to be closed.")]
struct UnloadRequest {
    #[schema(value_type = String, required = true, pattern = "^[A-Za-z0-9._:-]{1,128}$",
        examples("abcd"))]
    #[serde(default)]
    contract_address: Value,
}

/// Close a contract
///
/// Also done when it was not loaded.
#[utoipa::path(
    post,
    path = "/unloadSmartContract",
    tag = "Contracts",
    request_body = UnloadRequest,
    responses((status = 204, description = "It is not loaded"), UnloadFailures),
)]
pub(crate) async fn unload(
    State(state): State<AppState>,
    headers: HeaderMap,
    body: Body,
) -> Result<StatusCode, ApiError> {
    let _permit = state.admission.admit()?;
    let config = &state.config;
    let deadline = state.queue.clock().after(config.load_deadline);
    let body = read_body(
        &headers,
        body,
        config.execute_body_limit,
        config.body_timeout,
    )
    .await?;
    let request: UnloadRequest = json(&body)?;
    let given = match request.contract_address {
        Value::String(text) => text,
        Value::Null => return Err(ApiError::field("contractAddress", "is missing")),
        _ => return Err(ApiError::field("contractAddress", "must be a string")),
    };
    let address = address(&given)?;

    if let Route::Unplaced(record) | Route::Quarantined(record) =
        state.queue.route(&address).await?
        && state.queue.forget(&address, record.owner).await?
    {
        state
            .queue
            .release_blob(&record.spec.digest, &address)
            .await?;
        return Ok(StatusCode::NO_CONTENT);
    }
    let job = Job::Unload(Unload {
        address: address.clone(),
    });
    let ticket = Ticket {
        job,
        deadline,
        trace: trace_context(&headers),
    };
    match state.dispatcher.run(&address, ticket).await {
        Ok(reply) => reply.outcome.map(|_| ())?,
        Err(ApiError::ContractNotLoaded) => {}
        Err(error) => return Err(error),
    }
    Ok(StatusCode::NO_CONTENT)
}
