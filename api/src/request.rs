//! What every request has: an id, a trace, and a body within limits.

use std::time::{Duration, Instant};

use axum::body::{Body, HttpBody};
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, EXPECT};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use http_body_util::BodyExt;
use shared::service::telemetry::traces::{Span, Tracer, is_traceparent, trace_id};
use tokio::time::timeout;
use uuid::Uuid;

use crate::error::{ApiError, Fields};
use crate::state::AppState;

/// The header that names a request, taken from the caller or made.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The header that names the caller's trace.
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// A caller's own request id or trace context may have so many bytes; a longer one is ignored.
const HEADER_LIMIT: usize = 128;

/// How much of a body that is too large is thrown away before the connection is closed on it.
const DISCARD_LIMIT: usize = 256 * 1024 * 1024;

/// Names the request in its response, gives every failure its body; counts, traces and logs it.
pub(crate) async fn identify(
    State(state): State<AppState>,
    mut request: Request,
    next: Next,
) -> Response {
    let begun = Instant::now();
    let route = state
        .metrics
        .route(request.extensions().get::<MatchedPath>());
    let id = request_id(request.headers());
    let span = trace(&state.tracer, &mut request);
    let line = Line::of(&request);
    let mut response = next.run(request).await;
    let error = response.extensions_mut().remove::<ApiError>();
    if let Some(error) = &error {
        response = rendered(error, &id, response);
    }
    let (status, took) = (response.status(), begun.elapsed());
    let code = error.as_ref().map(ApiError::code);
    state.metrics.answered(route, status, code, took);
    finish(span, status, code);
    if let Some(line) = line {
        line.write(&id, status, code, took);
    }
    response.headers_mut().insert(REQUEST_ID, id);
    response
}

/// The caller's name for the request, or a new one.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    let given = headers
        .get(REQUEST_ID)
        .filter(|id| id.len() <= HEADER_LIMIT);
    match given.filter(|id| !id.is_empty() && id.to_str().is_ok()) {
        Some(id) => id.clone(),
        None => fresh_id(),
    }
}

/// A failure as a caller gets it. What the handler has told already stays: timings, the contract's
/// generation.
fn rendered(error: &ApiError, id: &HeaderValue, mut response: Response) -> Response {
    let told = std::mem::take(response.headers_mut());
    let mut rendered = error.render(id.to_str().unwrap_or_default());
    for (name, value) in &told {
        rendered
            .headers_mut()
            .entry(name)
            .or_insert_with(|| value.clone());
    }
    rendered
}

/// Begins the request's span; what is done for the request becomes its child.
fn trace(tracer: &Tracer, request: &mut Request) -> Span {
    let mut span = tracer.request("request", trace_context(request.headers()).as_deref());
    if let Some(context) = span.traceparent()
        && let Ok(value) = HeaderValue::try_from(context)
    {
        request.headers_mut().insert(TRACEPARENT, value);
        span.set("http.request.method", request.method().to_string());
        span.set("url.path", request.uri().path().to_owned());
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

/// What the log tells of a request, in one line, if it is to tell anything.
struct Line {
    method: Method,
    path: String,
    trace: Option<String>,
}

impl Line {
    fn of(request: &Request) -> Option<Self> {
        // One look at a number where the lines are off.
        tracing::enabled!(target: "request", tracing::Level::DEBUG).then(|| Self {
            method: request.method().clone(),
            path: request.uri().path().to_owned(),
            trace: trace_context(request.headers()),
        })
    }

    fn write(self, id: &HeaderValue, status: StatusCode, code: Option<&str>, took: Duration) {
        tracing::debug!(
            target: "request",
            id = id.to_str().unwrap_or_default(),
            method = self.method.as_str(),
            path = self.path,
            status = status.as_u16(),
            code = code.unwrap_or("ok"),
            duration_ms = took.as_secs_f64() * 1000.0,
            trace_id = self.trace.as_deref().and_then(trace_id),
            "answered"
        );
    }
}

fn fresh_id() -> HeaderValue {
    let mut buffer = Uuid::encode_buffer();
    let text = Uuid::new_v4().simple().encode_lower(&mut buffer);
    HeaderValue::from_str(text).expect("hexadecimal digits are a header's value")
}

/// The caller's W3C trace context, to travel with the job.
pub(crate) fn trace_context(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(TRACEPARENT)?.to_str().ok()?;
    (value.len() <= HEADER_LIMIT && is_traceparent(value)).then(|| value.to_owned())
}

/// Reads a JSON body of at most `limit` bytes that arrives within `patience`.
///
/// Of a body that is larger, the rest is read and thrown away, within bounds: a client that still
/// sends would otherwise see its connection break instead of the answer.
pub(crate) async fn read_body(
    headers: &HeaderMap,
    body: Body,
    limit: usize,
    patience: Duration,
) -> Result<Bytes, ApiError> {
    check_content_type(headers)?;
    let reading = async {
        if announced_length(headers).is_some_and(|length| length > limit) {
            // Who asks first has sent nothing yet.
            if !headers.contains_key(EXPECT) {
                discard(body).await;
            }
            return Err(ApiError::PayloadTooLarge(limit));
        }
        collect(body, limit).await
    };
    timeout(patience, reading)
        .await
        .unwrap_or(Err(ApiError::RequestTimeout))
}

async fn collect(mut body: Body, limit: usize) -> Result<Bytes, ApiError> {
    let mut collected = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            ApiError::InvalidRequest(format!("The body broke off: {error}"), Fields::new())
        })?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if collected.len() + data.len() > limit {
            discard(body).await;
            return Err(ApiError::PayloadTooLarge(limit));
        }
        if collected.is_empty() && body.is_end_stream() {
            return Ok(data);
        }
        collected.extend_from_slice(&data);
    }
    Ok(collected.freeze())
}

async fn discard(mut body: Body) {
    let mut left = DISCARD_LIMIT;
    while let Some(Ok(frame)) = body.frame().await {
        let length = frame.data_ref().map_or(0, Bytes::len);
        if length > left {
            return;
        }
        left -= length;
    }
}

/// JSON, or nothing said: many clients post without a type.
fn check_content_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(value) = headers.get(CONTENT_TYPE) else {
        return Ok(());
    };
    let text = value.to_str().unwrap_or_default();
    let essence = text
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    if essence == "application/json" || essence.ends_with("+json") {
        return Ok(());
    }
    Err(ApiError::UnsupportedMediaType)
}

fn announced_length(headers: &HeaderMap) -> Option<usize> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(content_type: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(content_type))])
    }

    async fn read(headers: &HeaderMap, body: &'static str) -> Result<Bytes, ApiError> {
        read_body(headers, Body::from(body), 8, Duration::from_secs(1)).await
    }

    #[tokio::test]
    async fn json_is_accepted_under_its_names() {
        for name in [
            "application/json",
            "Application/JSON; charset=utf-8",
            "application/x+json",
        ] {
            assert_eq!(read(&headers(name), "1").await.unwrap(), "1");
        }
        assert_eq!(read(&HeaderMap::new(), "1").await.unwrap(), "1");
        let refused = read(&headers("text/plain"), "1").await.unwrap_err();
        assert!(matches!(refused, ApiError::UnsupportedMediaType));
    }

    #[tokio::test]
    async fn a_body_has_a_limit() {
        assert_eq!(read(&HeaderMap::new(), "12345678").await.unwrap().len(), 8);
        let refused = read(&HeaderMap::new(), "123456789").await.unwrap_err();
        assert!(matches!(refused, ApiError::PayloadTooLarge(8)));
        let announced = HeaderMap::from_iter([(CONTENT_LENGTH, HeaderValue::from_static("9"))]);
        let refused = read(&announced, "1").await.unwrap_err();
        assert!(matches!(refused, ApiError::PayloadTooLarge(8)));
    }

    #[tokio::test]
    async fn a_body_that_does_not_come_is_not_awaited() {
        let body = Body::from_stream(futures::stream::pending::<Result<Bytes, std::io::Error>>());
        let refused = read_body(&HeaderMap::new(), body, 8, Duration::from_millis(5)).await;
        assert!(matches!(refused, Err(ApiError::RequestTimeout)));
    }
}
