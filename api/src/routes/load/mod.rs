//! `POST /loadSmartContract`: loads a contract.

mod request;

use axum::body::Body;
use axum::extract::State;
use http::{HeaderMap, StatusCode};

use self::request::{LoadRequest, parse};
use crate::dispatch::Ticket;
use crate::error::ApiError;
use crate::openapi::failures::LoadFailures;
use crate::request::{read_body, trace_context};
use crate::routes::json;
use crate::state::AppState;

/// Load a contract
///
/// Reloading an identical contract is a no-op. A different executable is started first, then
/// traffic switches without dropped calls. State is reset.
#[utoipa::path(
    post,
    path = "/loadSmartContract",
    tag = "Contracts",
    request_body(content = LoadRequest, example = json!({
        "contractAddress": "abcd",
        "executable": "{ add: ({number1, number2}) => number1 + number2 }",
    })),
    responses((status = 204, description = "The contract can be called"), LoadFailures),
)]
pub(crate) async fn load(
    State(state): State<AppState>,
    headers: HeaderMap,
    body: Body,
) -> Result<StatusCode, ApiError> {
    let _permit = state.admission.admit()?;
    let config = &state.config;
    let deadline = state.queue.clock().after(config.load_deadline);
    let body = read_body(&headers, body, config.load_body_limit, config.body_timeout).await?;
    let engine = config.engine;
    // Parsing, decoding and hashing tens of megabytes must not block the calls of other clients.
    let checking = tokio::task::spawn_blocking(move || parse(json(&body)?, engine));
    let (load, executable) = checking.await.expect("checking does not panic")?;
    let trace = trace_context(&headers);
    let tickets = |job| Ticket {
        job,
        deadline,
        trace: trace.clone(),
    };
    state
        .dispatcher
        .load(&load, executable.as_bytes(), tickets)
        .await?;
    Ok(StatusCode::NO_CONTENT)
}
