//! The response of a failure: its body and its headers.

use std::borrow::Cow;
use std::collections::BTreeMap;

use axum::response::{IntoResponse, Response};
use http::header::{CONNECTION, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};
use serde::Serialize;
use shared::protocol::reply::StackEntry;
use shared::queue::timing::RETRY_IMAGE;
use shared::schemas::Violation;
use utoipa::ToSchema;

use super::{ApiError, cut};

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
    pub(super) started: Option<bool>,
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
    /// The seconds of `Retry-After`, for failures that may pass.
    pub(crate) fn retry_after(&self) -> Option<u64> {
        match self {
            Self::ContractQuarantined(left) => Some(left.as_secs().max(1)),
            Self::RateLimited(exceeded) => Some(exceeded.seconds()),
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
            Self::OfDefaultTenant => format!("{realm}, error=\"insufficient_scope\""),
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
        if let Self::RateLimited(exceeded) = self {
            response.headers_mut().extend(exceeded.headers());
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use shared::protocol::reply::{Failure, FailureCode};

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
}
