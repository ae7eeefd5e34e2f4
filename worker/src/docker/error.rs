//! What the daemon's errors mean for a load.

use bollard::errors::Error;

use crate::sandbox::StartError;

/// Why the Docker engine cannot start.
#[derive(Debug, thiserror::Error)]
pub enum DockerError {
    /// The daemon cannot be reached, or refuses the connection.
    #[error("the Docker daemon at {host} cannot be reached: {source}")]
    Unreachable {
        /// `DOCKER_HOST`
        host: String,
        /// Why the connection failed.
        source: Error,
    },
}

/// The error text of the daemon.
pub(super) fn text(error: &Error) -> String {
    match error {
        Error::DockerResponseServerError { message, .. } => message.clone(),
        Error::DockerStreamError { error } => error.clone(),
        other => other.to_string(),
    }
}

/// The HTTP status of the daemon's error response, if there is one.
pub(super) fn status(error: &Error) -> Option<u16> {
    match error {
        Error::DockerResponseServerError { status_code, .. } => Some(*status_code),
        _ => None,
    }
}

/// A failure of the daemon itself: a later retry may succeed.
pub(super) fn unavailable(what: &str, error: &Error) -> StartError {
    StartError::Unavailable(format!("Docker cannot {what}: {}", text(error)))
}

/// Treats the removal of something that does not exist as a success.
pub(super) fn unless_missing(removed: Result<(), Error>) -> Result<(), Error> {
    match removed {
        // 409: a removal is already in progress.
        Err(error) if matches!(status(&error), Some(404 | 409)) => Ok(()),
        other => other,
    }
}
