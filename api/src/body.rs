//! The bodies of requests: JSON within limits of bytes and time.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, HttpBody};
use bytes::{Bytes, BytesMut};
use futures::FutureExt;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, EXPECT, ORIGIN};
use http::{HeaderMap, HeaderName};
use http_body_util::BodyExt;
use tokio::time::timeout;

use crate::edge::{BodyPool, Connection, HeldBytes, ReadingBody};
use crate::error::{ApiError, Fields};

/// How many bytes of a body that is too large are read and discarded before the connection is
/// closed.
const DISCARD_LIMIT: usize = 256 * 1024 * 1024;

/// What holds for the bodies of one kind of request.
#[derive(Debug, Clone)]
pub(crate) struct BodyRules {
    /// How many bytes one body may have.
    pub(crate) limit: usize,
    /// How long it may take to arrive.
    pub(crate) patience: Duration,
    /// The bytes of all bodies of this kind.
    pub(crate) pool: Arc<BodyPool>,
}

/// A complete body.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) bytes: Bytes,
    /// To be dropped with the bytes and everything that was made from them.
    pub(crate) held: HeldBytes,
}

/// Reads a JSON body within its limits.
///
/// The rest of a larger body is read and discarded, up to [`DISCARD_LIMIT`]. Otherwise a client
/// that is still sending would see a broken connection instead of the response.
pub(crate) async fn read_body(
    headers: &HeaderMap,
    body: Body,
    rules: &BodyRules,
    connection: &Arc<Connection>,
) -> Result<Received, ApiError> {
    let mut incoming = Incoming {
        body,
        reading: rules.pool.read(connection),
    };
    let receiving = incoming.receive(headers, rules.limit);
    let Ok(received) = timeout(rules.patience, receiving).await else {
        return Err(if incoming.reading.is_waiting() {
            ApiError::too_many_bytes()
        } else {
            ApiError::RequestTimeout
        });
    };
    Ok(Received {
        bytes: received?,
        held: incoming.reading.finish(),
    })
}

/// A body that is being received.
struct Incoming {
    body: Body,
    reading: ReadingBody,
}

impl Incoming {
    async fn receive(&mut self, headers: &HeaderMap, limit: usize) -> Result<Bytes, ApiError> {
        if announced_length(headers).is_some_and(|length| length > limit) {
            // A client that sent `Expect: 100-continue` has not sent the body yet.
            if !headers.contains_key(EXPECT) {
                self.discard().await?;
            }
            return Err(ApiError::PayloadTooLarge(limit));
        }
        let mut collected = BytesMut::new();
        while let Some(data) = self.next().await? {
            // Clients name a type for a body that they do not send.
            if collected.is_empty() && !data.is_empty() {
                check_content_type(headers)?;
            }
            if collected.len() + data.len() > limit {
                drop(collected);
                self.discard().await?;
                return Err(ApiError::PayloadTooLarge(limit));
            }
            let complete = self.body.is_end_stream();
            self.reading.grow(data.len(), complete).await;
            if collected.is_empty() && complete {
                return Ok(data);
            }
            collected.extend_from_slice(&data);
        }
        Ok(collected.freeze())
    }

    /// The next bytes of the body. Fails if its client loses its place.
    async fn next(&mut self) -> Result<Option<Bytes>, ApiError> {
        loop {
            let frame = if let Some(frame) = self.body.frame().now_or_never() {
                frame
            } else {
                self.reading.expect_more();
                tokio::select! {
                    frame = self.body.frame() => frame,
                    () = self.reading.evicted() => return Err(ApiError::BodyTooSlow),
                }
            };
            let Some(frame) = frame.transpose().map_err(|error| ended_early(&error))? else {
                return Ok(None);
            };
            if let Ok(data) = frame.into_data() {
                self.reading.advance(data.len());
                return Ok(Some(data));
            }
        }
    }

    async fn discard(&mut self) -> Result<(), ApiError> {
        let mut left = DISCARD_LIMIT;
        while let Some(data) = self.next().await? {
            if data.len() > left {
                break;
            }
            left -= data.len();
        }
        Ok(())
    }
}

fn ended_early(error: &axum::Error) -> ApiError {
    ApiError::InvalidRequest(
        format!("The request body ended early: {error}"),
        Fields::new(),
    )
}

/// The types that HTTP clients give to a text if they are told none.
const DEFAULT_TYPES: [&str; 3] = [
    "text/plain",
    "application/x-www-form-urlencoded",
    "application/octet-stream",
];

/// The headers that only browsers send, and that no page can leave out.
const OF_BROWSERS: [HeaderName; 2] = [ORIGIN, HeaderName::from_static("sec-fetch-site")];

/// Accepts JSON types, a missing type, and what clients send by default.
///
/// A browser must name a JSON type. It asks before it sends one to another site, while any page can
/// post a form or a text to an api in the network of its reader.
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
    let is_json = essence == "application/json" || essence.ends_with("+json");
    let is_default = essence.is_empty() || DEFAULT_TYPES.contains(&essence.as_str());
    let by_browser = || OF_BROWSERS.iter().any(|name| headers.contains_key(name));
    if is_json || is_default && !by_browser() {
        return Ok(());
    }
    Err(ApiError::UnsupportedMediaType)
}

fn announced_length(headers: &HeaderMap) -> Option<usize> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(content_type: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(content_type))])
    }

    fn rules(patience: Duration) -> BodyRules {
        BodyRules {
            limit: 8,
            patience,
            pool: BodyPool::new(16, 8),
        }
    }

    async fn read(headers: &HeaderMap, body: &'static str) -> Result<Bytes, ApiError> {
        let rules = rules(Duration::from_secs(1));
        let connection = Connection::for_test(1);
        let received = read_body(headers, Body::from(body), &rules, &connection).await?;
        assert_eq!(rules.pool.used(), received.bytes.len());
        Ok(received.bytes)
    }

    #[tokio::test]
    async fn every_json_content_type_is_accepted() {
        for name in [
            "application/json",
            "Application/JSON; charset=utf-8",
            "application/x+json",
        ] {
            assert_eq!(read(&headers(name), "1").await.unwrap(), "1");
        }
        assert_eq!(read(&HeaderMap::new(), "1").await.unwrap(), "1");
        let refused = read(&headers("text/html"), "1").await.unwrap_err();
        assert!(matches!(refused, ApiError::UnsupportedMediaType));
    }

    #[tokio::test]
    async fn what_clients_send_by_default_is_accepted_unless_a_page_sends_it() {
        for name in [
            "",
            "text/plain;charset=UTF-8",
            "application/x-www-form-urlencoded",
            "application/octet-stream",
        ] {
            assert_eq!(read(&headers(name), "1").await.unwrap(), "1");
            for of_browser in OF_BROWSERS {
                let mut of_page = headers(name);
                of_page.insert(of_browser, HeaderValue::from_static("null"));
                let refused = read(&of_page, "1").await;
                assert!(matches!(refused, Err(ApiError::UnsupportedMediaType)));
            }
        }
        let mut json = headers("application/json");
        json.insert(ORIGIN, HeaderValue::from_static("https://example.com"));
        assert_eq!(read(&json, "1").await.unwrap(), "1");
    }

    #[tokio::test]
    async fn the_type_of_an_empty_body_does_not_matter() {
        assert_eq!(read(&headers("text/html"), "").await.unwrap(), "");
    }

    #[tokio::test]
    async fn a_body_over_the_limit_is_refused() {
        assert_eq!(read(&HeaderMap::new(), "12345678").await.unwrap().len(), 8);
        let refused = read(&HeaderMap::new(), "123456789").await.unwrap_err();
        assert!(matches!(refused, ApiError::PayloadTooLarge(8)));
        let announced = HeaderMap::from_iter([(CONTENT_LENGTH, HeaderValue::from_static("9"))]);
        let refused = read(&announced, "1").await.unwrap_err();
        assert!(matches!(refused, ApiError::PayloadTooLarge(8)));
    }

    #[tokio::test]
    async fn a_body_that_does_not_arrive_times_out() {
        let body = Body::from_stream(futures::stream::pending::<Result<Bytes, std::io::Error>>());
        let rules = rules(Duration::from_millis(5));
        let connection = Connection::for_test(1);
        let refused = read_body(&HeaderMap::new(), body, &rules, &connection).await;
        assert!(matches!(refused, Err(ApiError::RequestTimeout)));
    }
}
