//! Every failure that a caller can see, its HTTP status and its body.
//!
//! This is the only module that chooses a failure's status.

mod reasons;
mod text;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::header::{CONNECTION, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};
use serde::Serialize;
use shared::protocol::reply::{Failure, FailureCode, StackEntry};
use shared::queue::QueueError;
use shared::queue::key_store::KEYS_KEPT;
use shared::queue::timing::RETRY_IMAGE;
use shared::schemas::Violation;
use utoipa::ToSchema;

pub(crate) use self::text::cut;

/// The invalid fields of a request, each with the reason.
pub(crate) type Fields = BTreeMap<&'static str, String>;

/// A request that failed.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum ApiError {
    #[error("{0}")]
    InvalidRequest(String, Fields),
    #[error(
        "The request comes from a web page of another origin. \
        The setting CORS_ORIGINS lists the origins whose pages may use this service"
    )]
    ForeignOrigin,
    #[error("The Host header does not name this machine. Use localhost or 127.0.0.1")]
    ForeignHost,
    /// Says what is wrong with the key, if there is one.
    #[error("{}", .0.unwrap_or("This request needs a key: Authorization: Bearer KEY"))]
    Unauthenticated(Option<&'static str>),
    /// Names the scope.
    #[error("The key does not permit this. It needs the scope {0}")]
    InsufficientScope(String),
    // The original service's text: its clients may match it.
    #[error("Contract not loaded. Call /loadSmartContract and then try again")]
    ContractNotLoaded,
    #[error("{0}")]
    EndpointNotFound(String),
    #[error("No such route. See /docs for the routes")]
    RouteNotFound,
    #[error("This route does not support this method. See /docs for its methods")]
    MethodNotAllowed,
    #[error("The request body must have the content type application/json")]
    UnsupportedMediaType,
    #[error("The request body did not arrive in time. Send the request again")]
    RequestTimeout,
    #[error(
        "The request body arrived too slowly while other requests waited for its place. \
        Send the request again"
    )]
    BodyTooSlow,
    #[error("The request body is larger than the limit of {0} bytes")]
    PayloadTooLarge(usize),
    #[error("{0}")]
    InvalidExecutable(String),
    /// Holds the calls in the contract's executable, if they are known.
    #[error("{0}")]
    ExecutionFailed(String, Vec<StackEntry>),
    // The places are not in the text, which is logged: they have names that the caller chose.
    #[error("The argument does not match the contract's schema; \"errors\" lists where")]
    ArgumentInvalid(Vec<Violation>),
    #[error("The result does not match the contract's schema; \"errors\" lists where")]
    ResultInvalid(Vec<Violation>),
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
    ImageUnavailable(String),
    #[error("{0}")]
    QueueUnavailable(String),
    #[error(
        "The queue did not answer in time. The request may have been executed or may still run"
    )]
    Ambiguous,
    /// Holds the time that is left.
    #[error(
        "The contract crashed repeatedly and is quarantined for another {} s. \
        Load it again to lift the quarantine",
        .0.as_secs().max(1)
    )]
    ContractQuarantined(Duration),
    #[error("The contract's worker died during the request. The request may have been executed")]
    OutcomeUnknown,
    #[error("No such worker. GET /workers lists the workers")]
    WorkerNotFound,
    #[error("No such key. GET /keys lists them")]
    KeyNotFound,
    #[error("There are {KEYS_KEPT} keys, those included that were revoked within 30 days")]
    TooManyKeys,
    #[error("No such dead letter. GET /dead-letters lists them")]
    DeadLetterNotFound,
    #[error("This process is shutting down. Send requests to another one")]
    Draining,
    #[error("{0}")]
    ExecutionTimeout(String),
    /// The same failure, but the request may have had an effect or may still run.
    #[error("{0}")]
    MayHaveRun(Box<Self>),
    /// The same failure of a call, with what the call has written.
    #[error("{0}")]
    Logged(Box<Self>, Vec<String>),
}

/// The body of every failure.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Error)]
pub(crate) struct ErrorBody<'a> {
    /// What happened, for a person.
    error: String,
    /// What happened, for programs.
    code: &'static str,
    /// The same as in the header `X-Request-Id`.
    request_id: &'a str,
    /// `false`: nothing was executed, so repeating the request is safe.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<bool>, nullable = false)]
    started: Option<bool>,
    /// The invalid fields, each with the reason.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = BTreeMap<String, String>, required = false)]
    fields: BTreeMap<&'a str, Cow<'a, str>>,
    /// Where the contract threw: the calls in its executable, innermost first, at most 20. With a
    /// source map they are places in its sources.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    #[schema(value_type = Vec<StackEntry>, required = false)]
    stack: &'a [StackEntry],
    /// Where the argument or the result is not what the contract's schema says, at most 10 places.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    #[schema(value_type = Vec<Violation>, required = false)]
    errors: &'a [Violation],
    /// The last lines that the call has written to its console, where the request has asked for
    /// them.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    #[schema(value_type = Vec<String>, required = false)]
    logs: &'a [String],
}

impl ApiError {
    /// A command that changes what Redis stores has failed. Unlike a command that only reads, it
    /// may have been carried out.
    pub(crate) fn write_failed(error: QueueError) -> Self {
        if error.is_ambiguous() {
            tracing::warn!(%error, "redis unavailable");
            return Self::Ambiguous;
        }
        error.into()
    }

    /// The status and the code.
    fn parts(&self) -> (StatusCode, &'static str) {
        match self {
            Self::InvalidRequest(..) => (StatusCode::BAD_REQUEST, "invalid_request"),
            Self::Unauthenticated(_) => (StatusCode::UNAUTHORIZED, "unauthenticated"),
            Self::InsufficientScope(_) => (StatusCode::FORBIDDEN, "insufficient_scope"),
            Self::KeyNotFound => (StatusCode::NOT_FOUND, "key_not_found"),
            Self::TooManyKeys => (StatusCode::CONFLICT, "too_many_keys"),
            Self::ForeignOrigin => (StatusCode::FORBIDDEN, "foreign_origin"),
            Self::ForeignHost => (StatusCode::FORBIDDEN, "foreign_host"),
            Self::ContractNotLoaded => (StatusCode::NOT_FOUND, "contract_not_loaded"),
            Self::EndpointNotFound(_) => (StatusCode::NOT_FOUND, "endpoint_not_found"),
            Self::RouteNotFound => (StatusCode::NOT_FOUND, "route_not_found"),
            Self::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed"),
            Self::UnsupportedMediaType => {
                (StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type")
            }
            Self::RequestTimeout | Self::BodyTooSlow => {
                (StatusCode::REQUEST_TIMEOUT, "request_timeout")
            }
            Self::PayloadTooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large"),
            Self::InvalidExecutable(_) => (StatusCode::UNPROCESSABLE_ENTITY, "invalid_executable"),
            Self::ExecutionFailed(..) => (StatusCode::INTERNAL_SERVER_ERROR, "execution_failed"),
            Self::ArgumentInvalid(_) => (StatusCode::UNPROCESSABLE_ENTITY, "argument_invalid"),
            Self::ResultInvalid(_) => (StatusCode::INTERNAL_SERVER_ERROR, "result_invalid"),
            Self::ResultTooLarge(_) => (StatusCode::INTERNAL_SERVER_ERROR, "result_too_large"),
            Self::ResultNotJson(_) => (StatusCode::INTERNAL_SERVER_ERROR, "result_not_json"),
            Self::ContractCrashed(_) => (StatusCode::INTERNAL_SERVER_ERROR, "contract_crashed"),
            Self::Overloaded(_) => (StatusCode::SERVICE_UNAVAILABLE, "overloaded"),
            Self::NoCapacity(_) => (StatusCode::SERVICE_UNAVAILABLE, "no_capacity"),
            Self::ImageUnavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, "image_unavailable"),
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
            Self::MayHaveRun(error) | Self::Logged(error, _) => error.parts(),
        }
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.parts().0
    }

    pub(crate) fn code(&self) -> &'static str {
        self.parts().1
    }

    /// Drops the promise that nothing was executed, if the request may have been `started`.
    pub(crate) fn if_started(self, started: bool) -> Self {
        if started && self.never_started() {
            return Self::MayHaveRun(Box::new(self));
        }
        self
    }

    /// Whether the request certainly had no effect, so that repeating it is safe.
    pub(crate) fn never_started(&self) -> bool {
        match self {
            Self::Logged(error, _) => error.never_started(),
            Self::ExecutionFailed(..)
            | Self::ResultInvalid(_)
            | Self::ResultTooLarge(_)
            | Self::ResultNotJson(_)
            | Self::ContractCrashed(_)
            | Self::ExecutionTimeout(_)
            | Self::InvalidExecutable(_)
            | Self::Ambiguous
            | Self::OutcomeUnknown
            | Self::MayHaveRun(_) => false,
            Self::InvalidRequest(..)
            | Self::ArgumentInvalid(_)
            | Self::ForeignOrigin
            | Self::Unauthenticated(_)
            | Self::InsufficientScope(_)
            | Self::KeyNotFound
            | Self::TooManyKeys
            | Self::ForeignHost
            | Self::ContractNotLoaded
            | Self::EndpointNotFound(_)
            | Self::RouteNotFound
            | Self::MethodNotAllowed
            | Self::UnsupportedMediaType
            | Self::RequestTimeout
            | Self::BodyTooSlow
            | Self::PayloadTooLarge(_)
            | Self::Overloaded(_)
            | Self::NoCapacity(_)
            | Self::ImageUnavailable(_)
            | Self::QueueUnavailable(_)
            | Self::ContractQuarantined(_)
            | Self::WorkerNotFound
            | Self::DeadLetterNotFound
            | Self::Draining => true,
        }
    }

    /// Whether the contract has answered, or the caller's request was wrong. Otherwise the farm, or
    /// the lack of an answer, is what the caller learns about.
    pub(crate) fn is_by_contract_or_caller(&self) -> bool {
        match self {
            Self::MayHaveRun(error) | Self::Logged(error, _) => error.is_by_contract_or_caller(),
            Self::ExecutionFailed(..)
            | Self::ResultInvalid(_)
            | Self::ResultTooLarge(_)
            | Self::ResultNotJson(_) => true,
            other => other.status().is_client_error(),
        }
    }

    /// The seconds of `Retry-After`, for failures that may pass.
    pub(crate) fn retry_after(&self) -> Option<u64> {
        match self {
            Self::ContractQuarantined(left) => Some(left.as_secs().max(1)),
            Self::ImageUnavailable(_) => Some(RETRY_IMAGE.as_secs()),
            other => (other.status() == StatusCode::SERVICE_UNAVAILABLE).then_some(1),
        }
    }

    /// What `WWW-Authenticate` says (RFC 6750), for failures that another key may cure.
    pub(crate) fn challenge(&self) -> Option<HeaderValue> {
        let realm = "Bearer realm=\"execution\"";
        let text = match self {
            Self::Unauthenticated(None) => realm.to_owned(),
            Self::Unauthenticated(Some(why)) => {
                format!("{realm}, error=\"invalid_token\", error_description=\"{why}\"")
            }
            Self::InsufficientScope(scope) => {
                format!("{realm}, error=\"insufficient_scope\", scope=\"{scope}\"")
            }
            _ => return None,
        };
        HeaderValue::try_from(text).ok()
    }

    /// Builds the response's body.
    pub(crate) fn body<'a>(&'a self, request_id: &'a str) -> ErrorBody<'a> {
        if let Self::Logged(error, logs) = self {
            return ErrorBody {
                logs,
                ..error.body(request_id)
            };
        }
        let fields = match self {
            Self::InvalidRequest(_, fields) => {
                fields.iter().map(|(name, why)| (*name, cut(why))).collect()
            }
            _ => BTreeMap::new(),
        };
        let stack = match self {
            Self::ExecutionFailed(_, stack) => stack.as_slice(),
            _ => &[],
        };
        let errors = match self {
            Self::ArgumentInvalid(errors) | Self::ResultInvalid(errors) => errors.as_slice(),
            _ => &[],
        };
        ErrorBody {
            stack,
            errors,
            logs: &[],
            error: cut(&self.to_string()).into_owned(),
            code: self.code(),
            request_id,
            started: self.never_started().then_some(false),
            fields,
        }
    }

    /// Builds the response.
    pub(crate) fn render(&self, request_id: &str) -> Response {
        let body = axum::Json(self.body(request_id));
        let mut response = (self.status(), body).into_response();
        if let Some(seconds) = self.retry_after() {
            response.headers_mut().insert(RETRY_AFTER, seconds.into());
        }
        if let Some(challenge) = self.challenge() {
            response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
        }
        if self.status() == StatusCode::REQUEST_TIMEOUT {
            // The rest of the body is not read.
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(CONNECTION, close);
        }
        response
    }
}

/// Carries the error to the router's outermost layer, which renders it with the request's id.
impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = self.status().into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// For commands that only read; see [`ApiError::write_failed`] for the others.
impl From<QueueError> for ApiError {
    fn from(error: QueueError) -> Self {
        tracing::warn!(%error, "redis unavailable");
        Self::queue_unavailable()
    }
}

impl From<Failure> for ApiError {
    fn from(failure: Failure) -> Self {
        let Failure {
            code,
            message,
            started,
            stack,
            logs,
        } = failure;
        let error = match code {
            FailureCode::NotHosted => Self::ContractNotLoaded,
            FailureCode::EndpointNotFound => Self::EndpointNotFound(message),
            FailureCode::InvalidExecutable => Self::InvalidExecutable(message),
            FailureCode::ExecutionFailed => {
                Self::ExecutionFailed(message, stack.unwrap_or_default().entries)
            }
            FailureCode::ExecutionTimeout => Self::ExecutionTimeout(message),
            FailureCode::ResultTooLarge => Self::ResultTooLarge(message),
            FailureCode::ResultNotJson => Self::ResultNotJson(message),
            FailureCode::WorkerLost => Self::OutcomeUnknown,
            FailureCode::ContractCrashed => Self::ContractCrashed(message),
            FailureCode::Rejected | FailureCode::Expired | FailureCode::UnsupportedVersion => {
                Self::Overloaded(message)
            }
            FailureCode::NoCapacity | FailureCode::Draining | FailureCode::SandboxUnavailable => {
                Self::NoCapacity(message)
            }
            // Redis has lost data.
            FailureCode::ExecutableMissing => Self::QueueUnavailable(message),
        };
        let error = error.if_started(started);
        if logs.is_empty() {
            error
        } else {
            Self::Logged(Box::new(error), logs)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_has_retry_after() {
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
    fn every_text_of_a_failure_is_cut() {
        let long = "ü".repeat(5_000_000);
        for error in [
            ApiError::InvalidExecutable(long.clone()),
            ApiError::field("limits", long),
        ] {
            let body = serde_json::to_vec(&error.body("id")).unwrap();
            assert!(body.len() < 10_000, "{}", body.len());
        }
    }

    #[test]
    fn a_failure_of_the_contract_has_no_retry_after() {
        let error = ApiError::from(Failure::started(FailureCode::ExecutionFailed, "Error: no"));
        let response = error.render("id");
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert!(!response.headers().contains_key(RETRY_AFTER));
    }

    #[test]
    fn data_that_redis_has_lost_is_not_overload() {
        let lost = Failure::not_started(FailureCode::ExecutableMissing, "lost");
        let error = ApiError::from(lost);
        assert_eq!(
            (error.code(), error.never_started()),
            ("queue_unavailable", true)
        );
    }

    #[test]
    fn a_started_request_does_not_claim_to_be_unstarted() {
        let by_contract = Failure::started(FailureCode::EndpointNotFound, "404 by the contract");
        let error = ApiError::from(by_contract);
        assert_eq!(
            (error.status().as_u16(), error.code()),
            (404, "endpoint_not_found")
        );
        assert_eq!(error.body("id").started, None);
        let by_worker = Failure::not_started(FailureCode::EndpointNotFound, "no such endpoint");
        assert_eq!(ApiError::from(by_worker).body("id").started, Some(false));
    }
}
