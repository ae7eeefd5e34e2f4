//! What all requests have in common: an acceptable head, an id, a trace and a log line (see
//! `request_log`). Bodies are read in `body`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use shared::service::telemetry::traces::{Span, Tracer, is_traceparent};
use tokio::time::sleep;
use uuid::Uuid;

use crate::edge::Connection;
use crate::error::{ApiError, cut};
use crate::request_log::{End, RequestLog, tenant};
use crate::state::AppState;

/// The header with the request's id: propagated from the client, or generated.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The header with the client's trace context.
pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// How many bytes a client's request id or trace context may have. A longer one is ignored.
const HEADER_LIMIT: usize = 128;

/// How long a caller over its limits waits for the refusal. One that does not heed `Retry-After`
/// would otherwise send the next call at once, and refusals would take the time of other callers.
const LIMITED_PAUSE: Duration = Duration::from_millis(100);

/// Around everything else: assigns the request id, checks the head, renders failures, counts,
/// traces and logs.
pub(crate) async fn observe<F: Future<Output = Response>>(
    state: &AppState,
    mut request: Request,
    inside: impl FnOnce(Request) -> F,
) -> Response {
    let begun = Instant::now();
    let route = state
        .metrics
        .routes
        .index(request.extensions().get::<MatchedPath>());
    let id = assign_id(request.headers_mut());
    let span = trace(&state.tracer, &mut request);
    let log = RequestLog::of(&request);
    let connection = request.extensions().get::<Arc<Connection>>();
    let at_loopback = connection.is_some_and(|connection| connection.is_at_loopback());
    let mut response = match state.heads.check(&request, at_loopback) {
        Ok(()) => inside(request).await,
        Err(refused) => refused.into_response(),
    };
    let error = response.extensions_mut().remove::<ApiError>();
    if let Some(error) = &error {
        if let ApiError::RateLimited(exceeded) = error {
            state.metrics.limited.count(exceeded);
            sleep(LIMITED_PAUSE).await;
        }
        response = render_failure(error, &id, response);
        if log.is_call()
            && !error.is_by_contract_or_caller()
            && let Some(contract) = log.contract()
        {
            state
                .unanswered
                .add(tenant(response.extensions()), contract, begun);
        }
    }
    let (status, took) = (response.status(), begun.elapsed());
    let code = error.as_ref().map(ApiError::code);
    state.metrics.routes.answered(route, status, code, took);
    finish(span, status, code);
    log.write(&End {
        id: &id,
        response: &response,
        error: error.as_ref(),
        took,
    });
    response.headers_mut().insert(REQUEST_ID, id);
    response
}

/// The client's id for the request, or a generated one, which is put in its place.
fn assign_id(headers: &mut HeaderMap) -> HeaderValue {
    let given = headers
        .get(REQUEST_ID)
        .filter(|id| id.len() <= HEADER_LIMIT);
    if let Some(id) = given.filter(|id| !id.is_empty() && id.to_str().is_ok()) {
        return id.clone();
    }
    let id = generated_id();
    headers.insert(REQUEST_ID, id.clone());
    id
}

/// The id of a request, which is sent along with the job.
pub(crate) fn request_id(headers: &HeaderMap) -> Option<String> {
    headers.get(REQUEST_ID)?.to_str().ok().map(str::to_owned)
}

/// Renders a failure. What the handler has set stays: timings, the contract's generation, what the
/// log tells.
fn render_failure(error: &ApiError, id: &HeaderValue, mut response: Response) -> Response {
    let headers = std::mem::take(response.headers_mut());
    let mut rendered = error.render(id.to_str().unwrap_or_default());
    *rendered.extensions_mut() = std::mem::take(response.extensions_mut());
    for (name, value) in &headers {
        rendered
            .headers_mut()
            .entry(name)
            .or_insert_with(|| value.clone());
    }
    rendered
}

/// Starts the request's span, the parent of the spans of its jobs.
fn trace(tracer: &Tracer, request: &mut Request) -> Span {
    let mut span = tracer.request("request", trace_context(request.headers()).as_deref());
    if let Some(context) = span.traceparent()
        && let Ok(value) = HeaderValue::try_from(context)
    {
        request.headers_mut().insert(TRACEPARENT, value);
        span.set("http.request.method", request.method().to_string());
        span.set("url.path", cut(request.uri().path()).into_owned());
        if let Some(route) = request.extensions().get::<MatchedPath>() {
            span.set("http.route", route.as_str().to_owned());
        }
    }
    span
}

fn finish(mut span: Span, status: StatusCode, code: Option<&'static str>) {
    span.set("http.response.status_code", i64::from(status.as_u16()));
    if let Some(code) = code.filter(|_| status.is_server_error()) {
        span.fail(code);
    }
}

fn generated_id() -> HeaderValue {
    let mut buffer = Uuid::encode_buffer();
    let text = Uuid::new_v4().simple().encode_lower(&mut buffer);
    HeaderValue::from_str(text).expect("hexadecimal digits are a header's value")
}

/// The client's W3C trace context, which is sent along with the job.
pub(crate) fn trace_context(headers: &HeaderMap) -> Option<String> {
    trace_text(headers.get(TRACEPARENT)?).map(str::to_owned)
}

/// The text of a valid trace context.
pub(crate) fn trace_text(value: &HeaderValue) -> Option<&str> {
    let text = value.to_str().ok()?;
    (text.len() <= HEADER_LIMIT && is_traceparent(text)).then_some(text)
}
