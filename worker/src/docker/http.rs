//! Calls over HTTP: what is asked of a contract, and what its answers mean.
//!
//! A plain client: it knows no proxy, follows no redirect and unpacks nothing. Connections are kept
//! and used again, but not for long: many servers close an idle one after a few seconds, and a call
//! that meets that moment is lost.

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

/// How long a connection may take: the container is on this host.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);

/// How long a connection is kept that nobody uses.
const IDLE_LIMIT: Duration = Duration::from_secs(1);

/// How many bytes of an error's body are passed on.
const ERROR_BYTES: usize = 2000;

/// Everything but what a path's segment may hold anyway.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// The endpoints that the original service asked for with GET.
const GETTABLE: [&str; 2] = ["initialise", "schema"];

type Body = hyper::body::Incoming;

/// Makes calls to one container. A cheap handle.
#[derive(Debug, Clone)]
pub(super) struct Http {
    client: Client<HttpConnector, Full<Bytes>>,
    address: SocketAddr,
    result_limit: usize,
}

/// Why a call has no answer.
#[derive(Debug)]
pub(super) enum Trouble {
    /// It was never sent.
    NotSent(String),
    /// It was, or may have been.
    Broken(String),
}

type Outcome = Result<Box<RawValue>, Failure>;

impl Http {
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
    pub(super) async fn call(&self, method: &str, argument: Bytes) -> Result<Outcome, Trouble> {
        let mut response = self.ask(Method::POST, method, argument).await?;
        let unknown = [StatusCode::NOT_FOUND, StatusCode::METHOD_NOT_ALLOWED];
        if GETTABLE.contains(&method) && unknown.contains(&response.status()) {
            response = self.ask(Method::GET, method, Bytes::new()).await?;
        }
        self.read(method, response).await
    }

    /// Whether the contract answers, whatever it is.
    pub(super) async fn answers(&self) -> bool {
        self.ask(Method::HEAD, "", Bytes::new()).await.is_ok()
    }

    async fn ask(
        &self,
        verb: Method,
        method: &str,
        argument: Bytes,
    ) -> Result<Response<Body>, Trouble> {
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
            .map_err(|error| Trouble::NotSent(error.to_string()))?;
        self.client.request(request).await.map_err(|error| {
            let reason = root_cause(&error);
            if error.is_connect() {
                Trouble::NotSent(reason)
            } else {
                Trouble::Broken(reason)
            }
        })
    }

    async fn read(&self, method: &str, response: Response<Body>) -> Result<Outcome, Trouble> {
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
        let said = excerpt(body).await;
        let message = format!("The contract answered {}: {said}", head.status);
        Ok(Err(Failure::started(FailureCode::ExecutionFailed, message)))
    }
}

/// The whole body, unless it has more than `limit` bytes; then it is not read to its end.
async fn collect(mut body: Body, limit: usize) -> Result<Option<Bytes>, Trouble> {
    if hyper::body::Body::size_hint(&body).lower() > limit as u64 {
        return Ok(None);
    }
    let mut pieces = Vec::new();
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Trouble::Broken(root_cause(&error)))?;
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

/// The beginning of an error's body, as text.
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

/// An answer that holds nothing but `data` is passed on as what it holds.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wrapped<'a> {
    #[serde(borrow)]
    data: &'a RawValue,
}

fn result(body: &[u8]) -> Outcome {
    let not_json = |reason: &dyn std::fmt::Display| {
        let message = format!("The contract's answer is not JSON: {reason}");
        Failure::started(FailureCode::ResultNotJson, message)
    };
    let text = std::str::from_utf8(body).map_err(|error| not_json(&error))?;
    if text.trim().is_empty() {
        return Ok(RawValue::NULL.to_owned());
    }
    // The derived reader would take an array for the fields of an object.
    if text.trim_start().starts_with('{')
        && let Ok(wrapped) = serde_json::from_str::<Wrapped<'_>>(text)
    {
        return Ok(wrapped.data.to_owned());
    }
    serde_json::from_str(text).map_err(|error| not_json(&error))
}

/// What lies beneath a chain of errors: the outer ones say little.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
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
    fn data_alone_is_unwrapped_and_nothing_else() {
        becomes(r#"{"data":{"a":1}}"#, r#"{"a":1}"#);
        becomes(r#" {"data" : null} "#, "null");
        becomes(r#"{"data":1,"more":2}"#, r#"{"data":1,"more":2}"#);
        becomes(r#"{"data":1,"data":2}"#, r#"{"data":1,"data":2}"#);
        becomes("[1,2]", "[1,2]");
        becomes("[1]", "[1]");
        becomes(r#""data""#, r#""data""#);
    }

    #[test]
    fn results_are_passed_on_as_they_are() {
        becomes("1e999", "1e999");
        becomes(r#"{"data":"\ud800"}"#, r#""\ud800""#);
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        becomes(&deep, &deep);
    }

    #[test]
    fn no_body_is_null() {
        becomes("", "null");
        becomes(" \r\n", "null");
    }

    #[test]
    fn what_is_no_json_is_refused() {
        for body in [&b"{"[..], b"<html>", b"1 2", b"\xff", b"NaN"] {
            let failure = result(body).unwrap_err();
            assert_eq!(failure.code, FailureCode::ResultNotJson, "{body:?}");
        }
    }

    proptest::proptest! {
        /// Whatever a contract says, its caller gets JSON or is told that it is none.
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
                    // Unlike values, this has no limit of depth or size of numbers.
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
    fn a_method_is_one_segment() {
        let segment = |method| utf8_percent_encode(method, SEGMENT).to_string();
        assert_eq!(segment("a/../b?c#d e"), "a%2F..%2Fb%3Fc%23d%20e");
        assert_eq!(segment("add_2-x.~"), "add_2-x.~");
        assert_eq!(segment("ü"), "%C3%BC");
    }
}
