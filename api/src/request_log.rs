//! The log line of a request: at level `info` for one that failed, at `debug` for any other.
//!
//! It says what an operator needs to go on: the id that the caller has as well, the contract, the
//! error's sentence, and the worker that ran it. It never holds what was sent.

use std::time::Duration;

use axum::extract::{MatchedPath, Request};
use axum::response::{IntoResponse, Response};
use http::header::HeaderName;
use http::{Extensions, HeaderMap, HeaderValue, Method, Uri};
use shared::protocol::id::{ContractAddress, WorkerId};
use shared::protocol::tenant::Tenant;
use shared::service::telemetry::traces::trace_id;

use crate::error::{ApiError, cut};
use crate::request::{TRACEPARENT, trace_text};

/// The header of a call's response with the contract's generation.
pub(crate) const GENERATION: HeaderName = HeaderName::from_static("contract-generation");

/// The contract that a request is about, where its path does not name it. Handlers attach it to
/// the response.
#[derive(Debug, Clone)]
struct About(ContractAddress);

/// The tenant of the caller, if it is not the default one. The layer that recognises callers
/// attaches it to the response.
#[derive(Debug, Clone)]
pub(crate) struct OfTenant(pub(crate) Tenant);

/// The worker that answered a call. Handlers attach it to the response.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AnsweredBy(pub(crate) WorkerId);

/// A response about a contract that the path does not name.
pub(crate) fn about(address: &ContractAddress, outcome: impl IntoResponse) -> Response {
    let mut response = outcome.into_response();
    response.extensions_mut().insert(About(address.clone()));
    response
}

/// What is known of a request before it is handled. All of it is shared with the request, so that
/// keeping it costs little.
pub(crate) struct RequestLog {
    method: Method,
    uri: Uri,
    route: Option<MatchedPath>,
    trace: Option<HeaderValue>,
}

/// How a request ended.
pub(crate) struct End<'a> {
    pub(crate) id: &'a HeaderValue,
    pub(crate) response: &'a Response,
    pub(crate) error: Option<&'a ApiError>,
    pub(crate) took: Duration,
}

impl RequestLog {
    pub(crate) fn of(request: &Request) -> Self {
        Self {
            method: request.method().clone(),
            uri: request.uri().clone(),
            route: request.extensions().get::<MatchedPath>().cloned(),
            trace: request.headers().get(TRACEPARENT).cloned(),
        }
    }

    /// The contract that the path names, as the caller wrote it.
    pub(crate) fn contract(&self) -> Option<&str> {
        let route = self.route.as_ref()?.as_str();
        let mut parts = route.split('/').zip(self.uri.path().split('/'));
        let (_, name) = parts.find(|(part, _)| *part == "{contractAddress}")?;
        Some(name)
    }

    /// Whether the request is a call.
    pub(crate) fn is_call(&self) -> bool {
        let route = self.route.as_ref().map(MatchedPath::as_str);
        route.is_some_and(|route| route.starts_with("/execute/"))
    }

    pub(crate) fn write(&self, end: &End<'_>) {
        match end.error {
            Some(error) => self.write_failure(end, error),
            None => self.write_success(end),
        }
    }

    fn write_success(&self, end: &End<'_>) {
        // Otherwise the fields would be computed for nothing.
        if !tracing::enabled!(target: "request", tracing::Level::DEBUG) {
            return;
        }
        tracing::debug!(
            target: "request",
            id = text(end.id),
            method = self.method.as_str(),
            path = &*cut(self.uri.path()),
            status = end.response.status().as_u16(),
            code = "ok",
            tenant = tenant(end.response.extensions()),
            duration_ms = milliseconds(end.took),
            trace_id = self.trace_id(),
            "answered"
        );
    }

    fn write_failure(&self, end: &End<'_>, error: &ApiError) {
        let extensions = end.response.extensions();
        let about = extensions.get::<About>().map(|about| about.0.local());
        let worker = extensions.get::<AnsweredBy>();
        tracing::info!(
            target: "request",
            id = text(end.id),
            method = self.method.as_str(),
            path = &*cut(self.uri.path()),
            route = self.route.as_ref().map(MatchedPath::as_str),
            contract = about.or(self.contract()).map(|name| cut(name).into_owned()),
            tenant = tenant(extensions),
            status = error.status().as_u16(),
            code = error.code(),
            error = &*cut(&error.to_string()),
            worker = worker.map(|worker| worker.0.to_string()),
            generation = generation(end.response.headers()),
            duration_ms = milliseconds(end.took),
            trace_id = self.trace_id(),
            "request failed"
        );
    }

    fn trace_id(&self) -> Option<&str> {
        trace_id(trace_text(self.trace.as_ref()?)?)
    }
}

/// The tenant of the caller, if it is not the default one.
pub(crate) fn tenant(extensions: &Extensions) -> Option<&str> {
    extensions.get::<OfTenant>()?.0.name()
}

fn text(id: &HeaderValue) -> &str {
    id.to_str().unwrap_or_default()
}

fn generation(headers: &HeaderMap) -> Option<u64> {
    headers.get(GENERATION)?.to_str().ok()?.parse().ok()
}

fn milliseconds(took: Duration) -> f64 {
    took.as_secs_f64() * 1000.0
}
