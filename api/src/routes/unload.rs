//! `POST /unloadSmartContract`: close a contract, if it is loaded.

use axum::body::Body;
use axum::extract::State;
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::Value;
use shared::job::{Job, Unload};
use shared::queue::contracts::Route;

use crate::dispatch::Ticket;
use crate::error::ApiError;
use crate::request::{read_body, trace_context};
use crate::routes::{address, json};
use crate::state::AppState;

/// The body of an unload.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct UnloadRequest {
    contract_address: Value,
}

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
