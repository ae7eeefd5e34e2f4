//! `POST /loadSmartContract`: loads a contract.

mod executable;
mod request;

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use shared::protocol::job::Load;

use self::request::{LoadRequest, parse};
use crate::access::{By, Caller, Permission};
use crate::admission::RequestKind;
use crate::audit::Action;
use crate::body::{Received, read_body};
use crate::dispatch::Ticket;
use crate::edge::{Connection, HeldBytes};
use crate::error::ApiError;
use crate::limits::Held;
use crate::openapi::failures::LoadFailures;
use crate::request::{request_id, trace_context};
use crate::request_log::about;
use crate::routes::json;
use crate::state::AppState;

/// The unit in which the bytes that are checked are counted.
const CHECK_PART: usize = 1024 * 1024;

/// How many of these units are checked at once: a load of the default limit.
pub(crate) const CHECK_PARTS: u32 = 64;

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
    Extension(connection): Extension<Arc<Connection>>,
    By(caller): By,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    state.admission.check(RequestKind::Load)?;
    let Received { bytes, held } =
        read_body(&headers, body, &state.load_bodies, &connection).await?;
    let _permit = state.admission.admit(RequestKind::Load)?;
    let _load_permit = state.admission.admit_load()?;
    let deadline = state.queue.clock().after(state.config.load_deadline);
    let (load, executable) = check(&state, caller.clone(), bytes).await?;
    caller.may_for(Permission::ContractsLoad, &load.address)?;
    let _held = hold(&state, &load, executable.len()).await?;
    let executable = Executable {
        text: executable,
        _held: held,
    };
    let (trace, request) = (trace_context(&headers), request_id(&headers));
    let tickets = |job| Ticket {
        job,
        deadline,
        trace: trace.clone(),
        request: request.clone(),
    };
    let loaded = state.dispatcher.load(&load, executable, tickets).await;
    let (address, digest) = (load.address.local(), load.spec.digest.as_str());
    let loaded = state
        .audit
        .record(&caller, Action::Load, address, Some(digest), loaded);
    Ok(about(
        &load.address,
        loaded.map(|()| StatusCode::NO_CONTENT),
    ))
}

/// Lets a load begin if its tenant may have another contract of so many bytes.
async fn hold(state: &AppState, load: &Load, bytes: usize) -> Result<Option<Held>, ApiError> {
    let Some(limits) = state.tenants.limits(&load.address.tenant()) else {
        return Ok(None);
    };
    let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
    state
        .holdings
        .hold(&state.queue, &limits, load, bytes)
        .await
}

/// An executable on its way to Redis, with the place of its body.
struct Executable {
    text: String,
    _held: HeldBytes,
}

impl AsRef<[u8]> for Executable {
    fn as_ref(&self) -> &[u8] {
        self.text.as_bytes()
    }
}

/// Parses the request. Parsing, decoding and hashing tens of megabytes must not block the calls of
/// other clients. It needs the size of the body once more, so the bytes that are checked at once
/// are bounded as well.
async fn check(
    state: &AppState,
    caller: Arc<Caller>,
    body: Bytes,
) -> Result<(Load, String), ApiError> {
    let parts = u32::try_from(body.len() / CHECK_PART + 1).unwrap_or(CHECK_PARTS);
    let place = state.load_checks.acquire_many(parts.min(CHECK_PARTS)).await;
    let place = place.expect("the semaphore is never closed");
    let engine = state.config.engine;
    let checking = tokio::task::spawn_blocking(move || {
        let request = json(&body)?;
        drop(body);
        parse(request, engine, &caller)
    });
    let checked = checking.await.expect("checking does not panic");
    drop(place);
    checked
}
