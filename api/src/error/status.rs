//! The status and the code of each failure, and whether the request may have had an effect.
//!
//! This is the only file that chooses a failure's status.

use http::StatusCode;

use super::ApiError;

impl ApiError {
    /// The status and the code.
    fn parts(&self) -> (StatusCode, &'static str) {
        match self {
            Self::InvalidRequest(..) => (StatusCode::BAD_REQUEST, "invalid_request"),
            Self::Unauthenticated(_) => (StatusCode::UNAUTHORIZED, "unauthenticated"),
            Self::InsufficientScope(_) | Self::OfDefaultTenant => {
                (StatusCode::FORBIDDEN, "insufficient_scope")
            }
            Self::KeyNotFound => (StatusCode::NOT_FOUND, "key_not_found"),
            Self::TooManyKeys(_) => (StatusCode::CONFLICT, "too_many_keys"),
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
            Self::RateLimited(_) => (StatusCode::TOO_MANY_REQUESTS, "rate_limited"),
            Self::QuotaExceeded(_) => (StatusCode::FORBIDDEN, "quota_exceeded"),
            Self::TenantNotFound => (StatusCode::NOT_FOUND, "tenant_not_found"),
            Self::TooManyTenants => (StatusCode::CONFLICT, "too_many_tenants"),
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
            | Self::OfDefaultTenant
            | Self::KeyNotFound
            | Self::TooManyKeys(_)
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
            | Self::RateLimited(_)
            | Self::QuotaExceeded(_)
            | Self::TenantNotFound
            | Self::TooManyTenants
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
}
