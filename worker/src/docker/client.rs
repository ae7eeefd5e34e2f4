//! The HTTP client for contracts: sends calls and interprets the responses.
//!
//! The client uses no proxy, follows no redirect and decompresses nothing. Connections are reused,
//! but closed after a short idle time. Many servers close an idle connection after a few seconds,
//! and a call that is sent at that moment would be lost.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Buf, Bytes};
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::value::RawValue;
use shared::protocol::reply::{Failure, FailureCode};

/// How long a connection attempt may take. It is short because the container is on this host.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);

/// How long an idle connection is kept.
const IDLE_LIMIT: Duration = Duration::from_secs(1);

/// How many bytes of an error response are passed on to the caller.
const ERROR_BYTES: usize = 2000;

/// The characters that are escaped in a path segment.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// The endpoints that the original service called with GET.
const GETTABLE: [&str; 2] = ["initialise", "schema"];

type Body = hyper::body::Incoming;

/// Sends calls to one container. A cheap handle.
#[derive(Debug, Clone)]
pub(super) struct ContractClient {
    client: Client<HttpConnector, Full<Bytes>>,
    address: SocketAddr,
    result_limit: usize,
}

/// Why a call has no response.
#[derive(Debug)]
pub(super) enum CallError {
    /// The call was not sent.
    NotSent(String),
    /// The call was not sent, because no connection was established in time.
    NoConnection(String),
    /// The call was sent, or may have been sent.
    Broken(String),
}

type Outcome = Result<Box<RawValue>, Failure>;

impl ContractClient {
    pub(super) fn new(address: SocketAddr, result_limit: usize) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT_LIMIT));
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_LIMIT)
            .build(connector);
        Self {
            client,
            address,
            result_limit,
        }
    }

    /// Calls a method.
    pub(super) async fn call(&self, method: &str, argument: Bytes) -> Result<Outcome, CallError> {
        let mut response = self.send(Method::POST, method, argument).await?;
        let unknown = [StatusCode::NOT_FOUND, StatusCode::METHOD_NOT_ALLOWED];
        if GETTABLE.contains(&method) && unknown.contains(&response.status()) {
            response = self.send(Method::GET, method, Bytes::new()).await?;
        }
        self.read(method, response).await
    }

    /// Waits until the contract sends any response, and returns its status.
    pub(super) async fn ping(&self) -> Result<StatusCode, CallError> {
        let response = self.send(Method::HEAD, "", Bytes::new()).await?;
        Ok(response.status())
    }

    async fn send(
        &self,
        verb: Method,
        method: &str,
        argument: Bytes,
    ) -> Result<Response<Body>, CallError> {
        let path = format!("/{}", utf8_percent_encode(method, SEGMENT));
        let uri = Uri::builder()
            .scheme("http")
            .authority(self.address.to_string());
        let uri = uri.path_and_query(path).build();
        let mut request = Request::builder().method(verb).header(ACCEPT, JSON);
        if !argument.is_empty() {
            request = request.header(CONTENT_TYPE, JSON);
        }
        let request = uri
            .and_then(|uri| request.uri(uri).body(Full::new(argument)))
            .map_err(|error| CallError::NotSent(error.to_string()))?;
        self.client.request(request).await.map_err(|error| {
            let reason = root_cause(&error);
            if error.is_connect() && is_timeout(&error) {
                CallError::NoConnection(reason)
            } else if error.is_connect() {
                CallError::NotSent(reason)
            } else {
                CallError::Broken(reason)
            }
        })
    }

    async fn read(&self, method: &str, response: Response<Body>) -> Result<Outcome, CallError> {
        let (head, body) = response.into_parts();
        if head.status.is_success() {
            return Ok(match collect(body, self.result_limit).await? {
                Some(bytes) => result(&bytes),
                None => Err(Failure::started(
                    FailureCode::ResultTooLarge,
                    format!("The result has more than {} bytes", self.result_limit),
                )),
            });
        }
        if head.status == StatusCode::NOT_FOUND {
            let shown = &method[..method.floor_char_boundary(100)];
            let message = format!("The contract has no endpoint {shown:?}");
            return Ok(Err(Failure::started(
                FailureCode::EndpointNotFound,
                message,
            )));
        }
        let text = excerpt(body).await;
        let message = format!("The contract responded with status {}: {text}", head.status);
        Ok(Err(Failure::started(FailureCode::ExecutionFailed, message)))
    }
}

/// Reads the whole body. None if it has more than `limit` bytes; the rest is not read then.
async fn collect(mut body: Body, limit: usize) -> Result<Option<Bytes>, CallError> {
    if hyper::body::Body::size_hint(&body).lower() > limit as u64 {
        return Ok(None);
    }
    let mut pieces = Vec::new();
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| CallError::Broken(root_cause(&error)))?;
        let Ok(piece) = frame.into_data() else {
            continue;
        };
        length += piece.remaining();
        if length > limit {
            return Ok(None);
        }
        pieces.push(piece);
    }
    Ok(Some(match pieces.len() {
        1 => pieces.swap_remove(0),
        _ => pieces.concat().into(),
    }))
}

/// The beginning of an error response, as text.
async fn excerpt(mut body: Body) -> String {
    let mut start = Vec::new();
    while start.len() < ERROR_BYTES
        && let Some(Ok(frame)) = body.frame().await
    {
        start.extend_from_slice(frame.data_ref().map_or(&[], |piece| &piece[..]));
    }
    start.truncate(ERROR_BYTES);
    String::from_utf8_lossy(&start).trim().to_owned()
}

/// A response whose only field is `data`. Its result is the value of this field.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wrapped<'a> {
    #[serde(borrow)]
    data: &'a RawValue,
}

fn result(body: &[u8]) -> Outcome {
    let not_json = |reason: &dyn std::fmt::Display| {
        let message = format!("The contract's response is not JSON: {reason}");
        Failure::started(FailureCode::ResultNotJson, message)
    };
    let text = std::str::from_utf8(body).map_err(|error| not_json(&error))?;
    if text.trim().is_empty() {
        return Ok(RawValue::NULL.to_owned());
    }
    // Serde would also read an array as the fields of the struct.
    if text.trim_start().starts_with('{')
        && let Ok(wrapped) = serde_json::from_str::<Wrapped<'_>>(text)
    {
        return Ok(wrapped.data.to_owned());
    }
    serde_json::from_str(text).map_err(|error| not_json(&error))
}

/// The innermost cause of an error. The outer errors of the client contain little information.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

fn is_timeout(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| error.source()).any(|error| {
        let error = error.downcast_ref::<std::io::Error>();
        error.is_some_and(|error| error.kind() == std::io::ErrorKind::TimedOut)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn becomes(body: &str, expected: &str) {
        assert_eq!(
            result(body.as_bytes()).map(|raw| raw.get().to_owned()),
            Ok(expected.to_owned())
        );
    }

    #[test]
    fn only_a_lone_data_field_is_unwrapped() {
        becomes(r#"{"data":{"a":1}}"#, r#"{"a":1}"#);
        becomes(r#" {"data" : null} "#, "null");
        becomes(r#"{"data":1,"more":2}"#, r#"{"data":1,"more":2}"#);
        becomes(r#"{"data":1,"data":2}"#, r#"{"data":1,"data":2}"#);
        becomes("[1,2]", "[1,2]");
        becomes("[1]", "[1]");
        becomes(r#""data""#, r#""data""#);
    }

    #[test]
    fn results_are_passed_on_unchanged() {
        becomes("1e999", "1e999");
        becomes(r#"{"data":"\ud800"}"#, r#""\ud800""#);
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        becomes(&deep, &deep);
    }

    #[test]
    fn empty_body_is_null() {
        becomes("", "null");
        becomes(" \r\n", "null");
    }

    #[test]
    fn invalid_json_is_refused() {
        for body in [&b"{"[..], b"<html>", b"1 2", b"\xff", b"NaN"] {
            let failure = result(body).unwrap_err();
            assert_eq!(failure.code, FailureCode::ResultNotJson, "{body:?}");
        }
    }

    proptest::proptest! {
        /// Every response of a contract gives valid JSON or a failure.
        #[test]
        fn any_body_is_json_or_refused(
            start in "[ \\n]{0,2}(\\{\"data\":)?",
            body in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..40),
            nearly in "[\\[\\]{}\",:0-9eE.+tfnaulrse \\\\-]{0,24}",
            is_noise: bool,
            end in "\\}?",
        ) {
            let middle = if is_noise { body } else { nearly.into_bytes() };
            let body = [start.as_bytes(), &middle, end.as_bytes()].concat();
            match result(&body) {
                Ok(raw) => {
                    // Unlike `Value`, this type has no limit on depth or on the size of numbers.
                    let again: Result<Box<RawValue>, _> = serde_json::from_str(raw.get());
                    proptest::prop_assert!(again.is_ok(), "{}", raw.get());
                }
                Err(failure) => {
                    proptest::prop_assert_eq!(failure.code, FailureCode::ResultNotJson);
                    proptest::prop_assert!(serde_json::from_slice::<Box<RawValue>>(&body).is_err());
                }
            }
        }
    }

    #[test]
    fn method_is_one_path_segment() {
        let segment = |method| utf8_percent_encode(method, SEGMENT).to_string();
        assert_eq!(segment("a/../b?c#d e"), "a%2F..%2Fb%3Fc%23d%20e");
        assert_eq!(segment("add_2-x.~"), "add_2-x.~");
        assert_eq!(segment("ü"), "%C3%BC");
    }
}
