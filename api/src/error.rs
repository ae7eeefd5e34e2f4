//! The only place that chooses a status: every failure a caller can see, and what it looks like.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::RETRY_AFTER;
use serde::Serialize;
use shared::protocol::reply::{Failure, FailureCode};
use shared::queue::QueueError;
use utoipa::ToSchema;

/// The fields of a request that are wrong, and why.
pub(crate) type Fields = BTreeMap<&'static str, String>;

/// A request that failed.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum ApiError {
    #[error("{0}")]
    InvalidRequest(String, Fields),
    // The original service's words.
    #[error("Contract not loaded. Call /loadSmartContract and then try again")]
    ContractNotLoaded,
    #[error("{0}")]
    EndpointNotFound(String),
    #[error("There is no such route")]
    RouteNotFound,
    #[error("The route does not take this method")]
    MethodNotAllowed,
    #[error("The body must be application/json")]
    UnsupportedMediaType,
    #[error("The body did not arrive in time")]
    RequestTimeout,
    #[error("The body is larger than {0} bytes")]
    PayloadTooLarge(usize),
    #[error("{0}")]
    InvalidExecutable(String),
    #[error("{0}")]
    ExecutionFailed(String),
    #[error("{0}")]
    ResultTooLarge(String),
    #[error("{0}")]
    ResultNotJson(String),
    #[error("{0}")]
    ContractCrashed(String),
    #[error("{0}")]
    Overloaded(String),
    #[error("{0}")]
    NoCapacity(String),
    #[error("{0}")]
    QueueUnavailable(String),
    #[error("The queue does not answer: the call may have been executed, or may be still")]
    Ambiguous,
    #[error("The contract broke what hosts it again and again; it is not hosted for a while")]
    ContractQuarantined(Duration),
    #[error("The contract's worker died with the call: it may have been executed")]
    OutcomeUnknown,
    #[error("There is no such worker")]
    WorkerNotFound,
    #[error("There is no such dead letter")]
    DeadLetterNotFound,
    #[error("This process is shutting down")]
    Draining,
    #[error("{0}")]
    ExecutionTimeout(String),
    /// As the other one, though what was asked for may have been done, or may be still.
    #[error("{0}")]
    MayHaveRun(Box<Self>),
}

/// What a failure looks like over HTTP.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Error)]
pub(crate) struct ErrorBody<'a> {
    /// A sentence for a person.
    error: String,
    /// A name for programs.
    code: &'static str,
    /// As in the header `X-Request-Id`.
    request_id: &'a str,
    /// False: nothing was executed, so repeating the request is safe.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<bool>, nullable = false)]
    started: Option<bool>,
    /// What is wrong with which field.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = BTreeMap<String, String>, required = false)]
    fields: BTreeMap<&'a str, &'a str>,
}

impl ApiError {
    /// An invalid request with one field to blame.
    pub(crate) fn field(name: &'static str, reason: impl Into<String>) -> Self {
        let reason = reason.into();
        Self::InvalidRequest(format!("{name} {reason}"), Fields::from([(name, reason)]))
    }

    /// The status, and the name for programs.
    fn parts(&self) -> (StatusCode, &'static str) {
        match self {
            Self::InvalidRequest(..) => (StatusCode::BAD_REQUEST, "invalid_request"),
            Self::ContractNotLoaded => (StatusCode::NOT_FOUND, "contract_not_loaded"),
            Self::EndpointNotFound(_) => (StatusCode::NOT_FOUND, "endpoint_not_found"),
            Self::RouteNotFound => (StatusCode::NOT_FOUND, "route_not_found"),
            Self::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed"),
            Self::UnsupportedMediaType => {
                (StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type")
            }
            Self::RequestTimeout => (StatusCode::REQUEST_TIMEOUT, "request_timeout"),
            Self::PayloadTooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large"),
            Self::InvalidExecutable(_) => (StatusCode::UNPROCESSABLE_ENTITY, "invalid_executable"),
            Self::ExecutionFailed(_) => (StatusCode::INTERNAL_SERVER_ERROR, "execution_failed"),
            Self::ResultTooLarge(_) => (StatusCode::INTERNAL_SERVER_ERROR, "result_too_large"),
            Self::ResultNotJson(_) => (StatusCode::INTERNAL_SERVER_ERROR, "result_not_json"),
            Self::ContractCrashed(_) => (StatusCode::INTERNAL_SERVER_ERROR, "contract_crashed"),
            Self::Overloaded(_) => (StatusCode::SERVICE_UNAVAILABLE, "overloaded"),
            Self::NoCapacity(_) => (StatusCode::SERVICE_UNAVAILABLE, "no_capacity"),
            Self::QueueUnavailable(_) | Self::Ambiguous => {
                (StatusCode::SERVICE_UNAVAILABLE, "queue_unavailable")
            }
            Self::ContractQuarantined(_) => {
                (StatusCode::SERVICE_UNAVAILABLE, "contract_quarantined")
            }
            Self::OutcomeUnknown => (StatusCode::BAD_GATEWAY, "outcome_unknown"),
            Self::WorkerNotFound => (StatusCode::NOT_FOUND, "worker_not_found"),
            Self::DeadLetterNotFound => (StatusCode::NOT_FOUND, "dead_letter_not_found"),
            Self::Draining => (StatusCode::SERVICE_UNAVAILABLE, "draining"),
            Self::ExecutionTimeout(_) => (StatusCode::GATEWAY_TIMEOUT, "execution_timeout"),
            Self::MayHaveRun(error) => error.parts(),
        }
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.parts().0
    }

    pub(crate) fn code(&self) -> &'static str {
        self.parts().1
    }

    /// The same, for what may have been `started`.
    pub(crate) fn if_started(self, started: bool) -> Self {
        if started && self.never_started() {
            return Self::MayHaveRun(Box::new(self));
        }
        self
    }

    /// Whether the request certainly had no effect, so that repeating it is safe.
    pub(crate) fn never_started(&self) -> bool {
        match self {
            Self::ExecutionFailed(_)
            | Self::ResultTooLarge(_)
            | Self::ResultNotJson(_)
            | Self::ContractCrashed(_)
            | Self::ExecutionTimeout(_)
            | Self::InvalidExecutable(_)
            | Self::Ambiguous
            | Self::OutcomeUnknown
            | Self::MayHaveRun(_) => false,
            Self::InvalidRequest(..)
            | Self::ContractNotLoaded
            | Self::EndpointNotFound(_)
            | Self::RouteNotFound
            | Self::MethodNotAllowed
            | Self::UnsupportedMediaType
            | Self::RequestTimeout
            | Self::PayloadTooLarge(_)
            | Self::Overloaded(_)
            | Self::NoCapacity(_)
            | Self::QueueUnavailable(_)
            | Self::ContractQuarantined(_)
            | Self::WorkerNotFound
            | Self::DeadLetterNotFound
            | Self::Draining => true,
        }
    }

    /// When to try again, in seconds: at once is of no use, and soon everything may be different.
    pub(crate) fn retry_after(&self) -> Option<u64> {
        match self {
            Self::ContractQuarantined(left) => Some(left.as_secs().max(1)),
            other => (other.status() == StatusCode::SERVICE_UNAVAILABLE).then_some(1),
        }
    }

    /// The response's body as a caller gets it.
    pub(crate) fn body<'a>(&'a self, request_id: &'a str) -> ErrorBody<'a> {
        let fields = match self {
            Self::InvalidRequest(_, fields) => fields
                .iter()
                .map(|(name, why)| (*name, why.as_str()))
                .collect(),
            _ => BTreeMap::new(),
        };
        ErrorBody {
            error: self.to_string(),
            code: self.code(),
            request_id,
            started: self.never_started().then_some(false),
            fields,
        }
    }

    /// The response as a caller gets it.
    pub(crate) fn render(&self, request_id: &str) -> Response {
        let body = axum::Json(self.body(request_id));
        let mut response = (self.status(), body).into_response();
        if let Some(seconds) = self.retry_after() {
            response.headers_mut().insert(RETRY_AFTER, seconds.into());
        }
        response
    }
}

/// Carries the error to `router`'s outermost layer, which knows the request's id and renders it.
impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = self.status().into_response();
        response.extensions_mut().insert(self);
        response
    }
}

impl From<QueueError> for ApiError {
    fn from(error: QueueError) -> Self {
        tracing::warn!(%error, "the queue is unavailable");
        Self::QueueUnavailable("The queue is unavailable at the moment".to_owned())
    }
}

impl From<Failure> for ApiError {
    fn from(failure: Failure) -> Self {
        let Failure {
            code,
            message,
            started,
        } = failure;
        let error = match code {
            FailureCode::NotHosted => Self::ContractNotLoaded,
            FailureCode::EndpointNotFound => Self::EndpointNotFound(message),
            FailureCode::InvalidExecutable => Self::InvalidExecutable(message),
            FailureCode::ExecutionFailed => Self::ExecutionFailed(message),
            FailureCode::ExecutionTimeout => Self::ExecutionTimeout(message),
            FailureCode::ResultTooLarge => Self::ResultTooLarge(message),
            FailureCode::ResultNotJson => Self::ResultNotJson(message),
            FailureCode::WorkerLost => Self::OutcomeUnknown,
            FailureCode::ContractCrashed => Self::ContractCrashed(message),
            FailureCode::Rejected | FailureCode::Expired | FailureCode::UnsupportedVersion => {
                Self::Overloaded(message)
            }
            FailureCode::NoCapacity
            | FailureCode::Draining
            | FailureCode::ExecutableMissing
            | FailureCode::SandboxUnavailable => Self::NoCapacity(message),
        };
        error.if_started(started)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_never_started_says_when_to_come_back() {
        let refused = [
            ApiError::Overloaded(String::new()),
            ApiError::NoCapacity(String::new()),
            ApiError::QueueUnavailable(String::new()),
            ApiError::ContractQuarantined(Duration::ZERO),
            ApiError::Draining,
        ];
        for error in refused {
            let response = error.render("id");
            assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
            assert!(response.headers().contains_key(RETRY_AFTER), "{error:?}");
        }
    }

    #[test]
    fn a_contracts_own_failure_is_not_retried() {
        let error = ApiError::from(Failure::started(FailureCode::ExecutionFailed, "Error: no"));
        let response = error.render("id");
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert!(!response.headers().contains_key(RETRY_AFTER));
    }

    #[test]
    fn what_may_have_run_does_not_say_otherwise() {
        let own = Failure::started(FailureCode::EndpointNotFound, "404 by the contract");
        let error = ApiError::from(own);
        assert_eq!(
            (error.status().as_u16(), error.code()),
            (404, "endpoint_not_found")
        );
        assert_eq!(error.body("id").started, None);
        let known = Failure::not_started(FailureCode::EndpointNotFound, "no such endpoint");
        assert_eq!(ApiError::from(known).body("id").started, Some(false));
    }
}
