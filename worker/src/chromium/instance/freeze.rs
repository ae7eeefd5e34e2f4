//! Rest: a page that nobody has called for a while is frozen, so that its timers and queues stand
//! still until the next call. A call finds its endpoints all the same; the page is woken along with
//! it, for what the call awaits.

use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::time::Instant;

use super::{ContractPage, Step};

/// How long a page stays awake after its last call. Waking it costs the next one a message.
const AWAKE_FOR: Duration = Duration::from_secs(1);

/// How a page that has no calls spends its time.
pub(super) enum Rest {
    /// Its timers run; since then nobody has called it.
    Awake(Instant),
    /// It was told to stand still.
    Frozen(Option<BoxFuture<'static, ()>>),
}

impl Rest {
    /// Its last call has just ended.
    pub(super) fn begin() -> Self {
        Self::Awake(Instant::now())
    }

    /// Whether the page must be woken for its next call.
    pub(super) fn is_frozen(&self) -> bool {
        matches!(self, Self::Frozen(_))
    }
}

impl ContractPage {
    /// Freezes the page when its time has come.
    pub(super) fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<Step> {
        if let Rest::Awake(since) = self.rest {
            let end = since + AWAKE_FOR;
            if self.clock.deadline() != end {
                self.clock.as_mut().reset(end);
            }
            if self.clock.poll_unpin(cx).is_pending() {
                return Poll::Pending;
            }
            self.rest = Rest::Frozen(Some(self.page.harness.freeze()));
        }
        if let Rest::Frozen(freezing) = &mut self.rest
            && freezing
                .as_mut()
                .is_some_and(|f| f.poll_unpin(cx).is_ready())
        {
            *freezing = None;
        }
        Poll::Pending
    }
}
