//! What the failures of Redis and of workers mean to a caller.

use shared::protocol::reply::{Failure, FailureCode};
use shared::queue::QueueError;

use super::ApiError;

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
            lacks_image,
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
            FailureCode::SandboxUnavailable if lacks_image => Self::ImageUnavailable(message),
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
