//! Freezes a page that has had no call for a while, so that its timers and queues stop until the
//! next call.
//!
//! A frozen page still finds the endpoints of a call. It is woken together with the call, for the
//! timers and promises that the call awaits.

use std::pin::Pin;
use std::task::Context;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::time::{Instant, Sleep};

use crate::chromium::page::harness::handle::Harness;

/// How long a page stays awake after its last call. Waking it costs the next call one message.
const AWAKE_FOR: Duration = Duration::from_secs(1);

/// The state of a page without calls.
pub(super) enum IdleState {
    /// Its timers run. It has been idle since this time.
    Awake(Instant),
    /// It was told to freeze; the command may still be in flight.
    Frozen(Option<BoxFuture<'static, ()>>),
}

impl IdleState {
    /// The state right after a call.
    pub(super) fn begin() -> Self {
        Self::Awake(Instant::now())
    }

    /// Whether the page must be woken for its next call.
    pub(super) fn is_frozen(&self) -> bool {
        matches!(self, Self::Frozen(_))
    }

    /// Freezes the page when it has been idle for long enough. `clock` wakes the task for that.
    pub(super) fn poll(
        &mut self,
        harness: &Harness,
        mut clock: Pin<&mut Sleep>,
        cx: &mut Context<'_>,
    ) {
        if let Self::Awake(since) = self {
            let end = *since + AWAKE_FOR;
            if clock.deadline() != end {
                clock.as_mut().reset(end);
            }
            if clock.poll_unpin(cx).is_pending() {
                return;
            }
            *self = Self::Frozen(Some(harness.freeze()));
        }
        if let Self::Frozen(freezing) = self
            && freezing
                .as_mut()
                .is_some_and(|f| f.poll_unpin(cx).is_ready())
        {
            *freezing = None;
        }
    }
}
