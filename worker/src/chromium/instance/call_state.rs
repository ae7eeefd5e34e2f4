//! Where a call is on its way through a page, and what it has taken.

use super::cpu::Mark;
use crate::sandbox::CallTime;

/// Where a call is.
#[derive(Debug, Clone, Copy)]
pub(super) enum CallState {
    /// In a message without a reply.
    InMessage,
    /// It was started at this time, and its promise is pending.
    Pending(Mark),
    /// Its promise has settled after this time. The page sends the result as soon as a reply has
    /// room for it.
    Settled(CallTime),
}

impl CallState {
    pub(super) fn has_promise(self) -> bool {
        matches!(self, Self::Pending(_) | Self::Settled(_))
    }

    pub(super) fn is_settled(self) -> bool {
        matches!(self, Self::Settled(_))
    }

    /// What the call has taken. `since` counts for a call that has returned no promise.
    pub(super) fn time(self, since: Mark, now: Mark) -> CallTime {
        match self {
            Self::InMessage => since.until(now),
            Self::Pending(since) => since.until(now),
            Self::Settled(time) => time,
        }
    }
}
