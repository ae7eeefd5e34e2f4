//! The audit log: who changed what, and what came of it. One line for each request that was
//! permitted, with the target `audit`; never a payload or a secret.

use crate::access::Caller;
use crate::error::{ApiError, cut};

/// What a caller did.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Action {
    /// Loaded a contract.
    Load,
    /// Unloaded one.
    Unload,
    /// Created a key.
    CreateKey,
    /// Revoked one.
    RevokeKey,
    /// Drained a worker.
    Drain,
    /// Removed a dead letter.
    RemoveDeadLetter,
}

impl Action {
    fn name(self) -> &'static str {
        match self {
            Self::Load => "load",
            Self::Unload => "unload",
            Self::CreateKey => "create_key",
            Self::RevokeKey => "revoke_key",
            Self::Drain => "drain",
            Self::RemoveDeadLetter => "remove_dead_letter",
        }
    }
}

/// Records that `caller` did something to the contract, key, worker or dead letter `subject`, and
/// returns the outcome unchanged. `digest` is that of an executable.
pub(crate) fn record<T>(
    caller: &Caller,
    action: Action,
    subject: &str,
    digest: Option<&str>,
    outcome: Result<T, ApiError>,
) -> Result<T, ApiError> {
    let code = outcome.as_ref().err().map_or("ok", ApiError::code);
    tracing::info!(
        target: "audit",
        caller = caller.name,
        action = action.name(),
        subject = &*cut(subject),
        digest,
        outcome = code,
        "audit"
    );
    outcome
}
