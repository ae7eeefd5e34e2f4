//! What every request has: an id, a trace, and a body within limits.

use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, EXPECT};
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body_util::BodyExt;
use tokio::time::timeout;
use uuid::Uuid;

use crate::error::{ApiError, Fields};

/// The header that names a request, taken from the caller or made.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// A caller's own request id or trace context may have so many bytes; a longer one is ignored.
const HEADER_LIMIT: usize = 128;

/// How much of a body that is too large is thrown away before the connection is closed on it.
const DISCARD_LIMIT: usize = 256 * 1024 * 1024;

/// Names the request in its response, and gives every failure its body.
pub(crate) async fn identify(request: Request, next: Next) -> Response {
    let given = request
        .headers()
        .get(REQUEST_ID)
        .filter(|id| id.len() <= HEADER_LIMIT);
    let id = match given.filter(|id| !id.is_empty() && id.to_str().is_ok()) {
        Some(id) => id.clone(),
        None => fresh_id(),
    };
    let mut response = next.run(request).await;
    if let Some(error) = response.extensions_mut().remove::<ApiError>() {
        let told = std::mem::take(response.headers_mut());
        response = error.render(id.to_str().unwrap_or_default());
        // What the handler has told already stays: timings, the contract's generation.
        for (name, value) in &told {
            response
                .headers_mut()
                .entry(name)
                .or_insert_with(|| value.clone());
        }
    }
    response.headers_mut().insert(REQUEST_ID, id);
    response
}

fn fresh_id() -> HeaderValue {
    let mut buffer = Uuid::encode_buffer();
    let text = Uuid::new_v4().simple().encode_lower(&mut buffer);
    HeaderValue::from_str(text).expect("hexadecimal digits are a header's value")
}

/// The caller's W3C trace context, to travel with the job.
pub(crate) fn trace_context(headers: &HeaderMap) -> Option<String> {
    let value = headers.get("traceparent")?.to_str().ok()?;
    (value.len() <= HEADER_LIMIT).then(|| value.to_owned())
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
