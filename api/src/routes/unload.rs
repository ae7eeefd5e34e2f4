//! `POST /unloadSmartContract`: unloads a contract.

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::access::{By, Permission};
use crate::admission::RequestKind;
use crate::audit::Action;
use crate::body::read_body;
use crate::dispatch::Ticket;
use crate::edge::Connection;
use crate::error::ApiError;
use crate::openapi::failures::UnloadFailures;
use crate::request::{request_id, trace_context};
use crate::request_log::about;
use crate::routes::json;
use crate::state::AppState;

/// The body of an unload.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Unload, description = "The contract to unload.")]
struct UnloadRequest {
    #[schema(value_type = String, required = true, pattern = "^[A-Za-z0-9._:-]{1,128}$",
        examples("abcd"))]
    #[serde(default)]
    contract_address: Value,
}

/// Unload a contract
///
/// A no-op if the contract is not loaded.
#[utoipa::path(
    post,
    path = "/unloadSmartContract",
    tag = "Contracts",
    request_body = UnloadRequest,
    responses((status = 204, description = "The contract is not loaded any more"), UnloadFailures),
)]
pub(crate) async fn unload(
    State(state): State<AppState>,
    Extension(connection): Extension<Arc<Connection>>,
    By(caller): By,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    state.admission.check(RequestKind::Unload)?;
    let received = read_body(&headers, body, &state.call_bodies, &connection).await?;
    let request: UnloadRequest = json(&received.bytes)?;
    drop(received);
    let given = match request.contract_address {
        Value::String(text) => text,
        Value::Null => return Err(ApiError::field("contractAddress", "is missing")),
        _ => return Err(ApiError::field("contractAddress", "must be a string")),
    };
    let address = caller.contract(Permission::ContractsUnload, &given)?;
    let _permit = state.admission.admit(RequestKind::Unload)?;
    let deadline = state.queue.clock().after(state.config.load_deadline);
    let (trace, request) = (trace_context(&headers), request_id(&headers));
    let tickets = |job| Ticket {
        job,
        deadline,
        trace: trace.clone(),
        request: request.clone(),
    };
    let unloaded = state.dispatcher.unload(&address, tickets).await;
    let unloaded = state
        .audit
        .record(&caller, Action::Unload, address.local(), None, unloaded);
    Ok(about(&address, unloaded.map(|()| StatusCode::NO_CONTENT)))
}
