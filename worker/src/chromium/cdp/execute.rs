//! The one rule for time limits of commands: each command that is awaited has one.

use std::borrow::Cow;
use std::fmt::Display;
use std::time::Duration;

use tokio::time::timeout;

/// The time limit of a command that does not depend on a contract's code. Chromium leaves a command
/// to a page unanswered while the page computes.
pub(crate) const COMMAND_LIMIT: Duration = Duration::from_secs(5);

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CdpError {
    /// No reply in time.
    #[error("{0} was not answered within {1:?}")]
    Timeout(Cow<'static, str>, Duration),
    /// The browser refused the command, or has ended.
    #[error("{0}: {1}")]
    Refused(Cow<'static, str>, String),
}

/// Awaits a command's reply, at most for `limit`. `name` is for the error's text.
pub(crate) async fn within<T, E: Display>(
    limit: Duration,
    name: impl Into<Cow<'static, str>>,
    command: impl Future<Output = Result<T, E>>,
) -> Result<T, CdpError> {
    match timeout(limit, command).await {
        Ok(Ok(reply)) => Ok(reply),
        Ok(Err(error)) => Err(CdpError::Refused(name.into(), error.to_string())),
        Err(_) => Err(CdpError::Timeout(name.into(), limit)),
    }
}
