//! `POST /execute/{contractAddress}/{method}`: calls a method with the body as its argument.

use std::sync::Arc;
use std::time::Instant;

use axum::Extension;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use futures::FutureExt;
use http::HeaderValue;
use http::header::CONTENT_TYPE;
use http::request::Parts;
use serde_json::value::RawValue;
use shared::protocol::frame::Reply;
use shared::protocol::job::{Argument, Execute, Job};
use shared::protocol::reply::{FailureCode, Output, Stack};
use utoipa::ToSchema;

use crate::access::{By, Permission};
use crate::admission::RequestKind;
use crate::body::{Received, read_body};
use crate::call_logs;
use crate::dispatch::{Answer, Ticket};
use crate::edge::Connection;
use crate::error::{ApiError, Fields};
use crate::openapi::failures::ExecuteFailures;
use crate::request::{request_id, trace_context};
use crate::request_log::{AnsweredBy, GENERATION};
use crate::routes::path;
use crate::server_timing::{SERVER_TIMING, ServerTiming};
use crate::state::AppState;

/// The response of a call.
#[derive(ToSchema)]
#[expect(
    dead_code,
    reason = "only described here: `data` builds the body from text"
)]
#[schema(as = Answer)]
struct ExecuteResponse {
    /// The result: any JSON value.
    data: serde_json::Value,
}

/// Call a method of a contract
///
/// The body is the argument: any JSON value. An empty body means `{}`.
#[utoipa::path(
    post,
    path = "/execute/{contractAddress}/{method}",
    tag = "Contracts",
    params(
        ("contractAddress" = String, Path, pattern = "^[A-Za-z0-9._:-]{1,128}$", example = "abcd"),
        ("method" = String, Path, min_length = 1, example = "add"),
        ("Call-Logs" = Option<u32>, Header, minimum = 0, maximum = 100, description = "How many of the last lines that the call \
            writes to its console a failure has in `logs`"),
    ),
    request_body(
        content = Option<serde_json::Value>,
        example = json!({ "number1": 1, "number2": 2 }),
    ),
    responses(
        (
            status = 200,
            description = "The method's result",
            body = ExecuteResponse,
            headers(
                ("Server-Timing" = String, description = "`queue`: milliseconds waited; `exec`: milliseconds run; `cpu`: milliseconds of processor time, where they are measured"),
                ("Contract-Generation" = u64, description = "Changes whenever the contract's state is reset"),
                ("X-Request-Id" = String, description = "The request's id, also in the logs"),
            ),
            example = json!({ "data": 3 }),
        ),
        ExecuteFailures,
    ),
)]
pub(crate) async fn execute(
    State(state): State<AppState>,
    Extension(connection): Extension<Arc<Connection>>,
    By(caller): By,
    parts: Result<Path<(String, String)>, PathRejection>,
    request: Request,
) -> Result<Response, ApiError> {
    let (contract, method) = path(parts)?;
    let (Parts { headers, .. }, body) = request.into_parts();
    let address = caller.contract(Permission::ContractsExecute, &contract)?;
    state.admission.check(RequestKind::Call)?;
    caller.admit().await?;
    let Received { bytes, held } =
        read_body(&headers, body, &state.call_bodies, &connection).await?;
    let argument = argument(&bytes)?;
    drop(bytes);
    let _permit = state.admission.admit(RequestKind::Call)?;
    let _caller_permit = caller.enter()?;
    let _contract_permit = state.admission.admit_call(&address)?;
    let accepted = Instant::now();
    let deadline = state.queue.clock().after(state.config.execute_deadline);
    let job = Execute {
        address: address.clone(),
        method,
        argument,
        schemas: None,
        logs: call_logs::wanted(&headers)?,
    };
    let ticket = Ticket {
        job: Job::Execute(job),
        deadline,
        trace: trace_context(&headers),
        request: request_id(&headers),
    };
    // The argument counts until the reply is there: in this process, or in Redis for it.
    let reply = state.dispatcher.call(&address, ticket).await;
    drop(held);
    let Answer {
        reply,
        worker,
        meter,
        rejected,
    } = reply?;
    let is_error = rejected.is_some() || reply.outcome.is_err();
    let cpu_us = processor_time(&reply);
    caller.answered(is_error, cpu_us);
    if let Some(meter) = meter {
        meter.answered(is_error, cpu_us);
    }
    let timing = ServerTiming::of(&reply, accepted.elapsed());
    state.metrics.queue_wait.record(timing.queue);
    let mut response = respond(with_sources(&state, reply).await, rejected, timing);
    // For the log line of a failed call.
    if is_error && let Some(worker) = worker {
        response.extensions_mut().insert(AnsweredBy(worker));
    }
    Ok(response)
}

/// The processor time that a call is charged for, in microseconds. A call that lost its sandbox has
/// used it up for as long as it ran, as far as anybody knows. That of containers is not known.
fn processor_time(reply: &Reply) -> u64 {
    let has_lost_sandbox = reply.outcome.as_ref().err().is_some_and(|failure| {
        let code = failure.code;
        matches!(
            code,
            FailureCode::ExecutionTimeout | FailureCode::ContractCrashed
        )
    });
    let ran_us = reply.ran_us.filter(|_| has_lost_sandbox);
    reply.cpu_us.or(ran_us).unwrap_or_default()
}

/// The reply with the places in the contract's sources, if it failed and has a source map.
async fn with_sources(state: &AppState, mut reply: Reply) -> Reply {
    if let Err(failure) = &mut reply.outcome
        && let Some(stack) = failure.stack.take()
    {
        // Rare, so it is boxed: otherwise every call's future would have room for it.
        let applying = state.source_maps.apply(stack).boxed();
        failure.stack = Some(Stack {
            entries: applying.await,
            source_map: None,
        });
    }
    reply
}

/// The argument of a call without a body, as in the original service: a method may take its
/// argument apart, as `({ name }) => ...` does, and gets no field.
const NO_BODY: &[u8] = b"{}";

/// Accepts any JSON value. This is the only place that checks it: from here on it stays text.
fn argument(body: &[u8]) -> Result<Argument, ApiError> {
    let body = if body.is_empty() { NO_BODY } else { body };
    let invalid = |reason: &dyn std::fmt::Display| {
        ApiError::InvalidRequest(
            format!("The request body is not JSON: {reason}"),
            Fields::new(),
        )
    };
    let text = std::str::from_utf8(body).map_err(|error| invalid(&error))?;
    let raw: Box<RawValue> = serde_json::from_str(text).map_err(|error| invalid(&error))?;
    Ok(Argument::Json(raw))
}

fn respond(reply: Reply, rejected: Option<ApiError>, timing: ServerTiming) -> Response {
    let Reply {
        generation,
        outcome,
        ..
    } = reply;
    let mut response = match (rejected, outcome) {
        (Some(error), _) => error.into_response(),
        (None, Ok(Output::Result(result))) => data(result.get()),
        (None, Ok(_)) => data("null"),
        (None, Err(failure)) => ApiError::from(failure).into_response(),
    };
    let headers = response.headers_mut();
    headers.insert(SERVER_TIMING, timing.header());
    if let Some(generation) = generation {
        headers.insert(GENERATION, HeaderValue::from(generation));
    }
    response
}

/// Builds `{"data": ...}` around JSON text without parsing it.
fn data(result: &str) -> Response {
    let mut body = Vec::with_capacity(result.len() + 9);
    body.extend_from_slice(br#"{"data":"#);
    body.extend_from_slice(result.as_bytes());
    body.push(b'}');
    (
        [(CONTENT_TYPE, HeaderValue::from_static("application/json"))],
        body,
    )
        .into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_json_value_is_an_argument() {
        let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
        for text in ["null", "1e999", r#""\ud800""#, r#" {"a":1,"a":2} "#, &deep] {
            let Ok(Argument::Json(raw)) = argument(text.as_bytes()) else {
                panic!("{text:.50} was refused");
            };
            assert_eq!(raw.get(), text.trim());
        }
    }

    #[test]
    fn a_call_without_a_body_has_an_empty_object_as_its_argument() {
        assert!(matches!(argument(b""), Ok(Argument::Json(raw)) if raw.get() == "{}"));
    }

    #[test]
    fn a_body_that_is_not_json_is_refused() {
        for text in [&b"{"[..], b"1 2", b"undefined", b"\xff", b"'a'", b" "] {
            let refused = argument(text);
            assert!(
                matches!(refused, Err(ApiError::InvalidRequest(..))),
                "{text:?}"
            );
        }
    }
}
