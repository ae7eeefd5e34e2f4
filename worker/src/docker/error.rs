//! What the daemon's refusals mean for a load.

use bollard::errors::Error;

use crate::sandbox::StartError;

/// Why there is no Docker engine here.
#[derive(Debug, thiserror::Error)]
pub enum DockerError {
    /// The daemon cannot be reached, or does not speak to us.
    #[error("no Docker daemon at {host}: {source}")]
    Unreachable {
        /// `DOCKER_HOST`
        host: String,
        /// What was tried.
        source: Error,
    },
}

/// The daemon's own words.
pub(super) fn text(error: &Error) -> String {
    match error {
        Error::DockerResponseServerError { message, .. } => message.clone(),
        Error::DockerStreamError { error } => error.clone(),
        other => other.to_string(),
    }
}

/// The status with which the daemon refused, if it did.
pub(super) fn status(error: &Error) -> Option<u16> {
    match error {
        Error::DockerResponseServerError { status_code, .. } => Some(*status_code),
        _ => None,
    }
}

/// The daemon is in trouble: later it may work.
pub(super) fn unavailable(what: &str, error: &Error) -> StartError {
    StartError::Unavailable(format!("Docker cannot {what}: {}", text(error)))
}

/// What is to be removed may be gone already.
pub(super) fn unless_missing(removed: Result<(), Error>) -> Result<(), Error> {
    match removed {
        // 409: a removal is under way.
        Err(error) if matches!(status(&error), Some(404 | 409)) => Ok(()),
        other => other,
    }
}
