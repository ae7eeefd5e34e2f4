//! Whether this worker may still act: only while it knows that its lease lives.
//!
//! A worker that was stopped, or cut off from Redis, does not notice it; the others do, and give
//! its contracts to somebody else. So before it starts a call or sends a reply, it looks at how
//! long ago its lease was renewed for certain.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// Shorter than the lease, so that the worker has stopped before others take over.
const TRUSTED: Duration = Duration::from_secs(4);

/// The last renewal.
#[derive(Debug)]
pub(crate) struct Fence {
    renewed: watch::Sender<Instant>,
}

impl Fence {
    /// Open for a lease that was made just now.
    pub(crate) fn new() -> Self {
        Self {
            renewed: watch::Sender::new(Instant::now()),
        }
    }

    /// The lease was renewed by a command that was sent at `moment`.
    pub(crate) fn renewed(&self, moment: Instant) {
        self.renewed.send_replace(moment);
    }

    /// Whether the worker must not act.
    pub(crate) fn is_closed(&self) -> bool {
        self.renewed.borrow().elapsed() > TRUSTED
    }

    /// Waits until the worker may act.
    pub(crate) async fn open(&self) {
        let mut renewed = self.renewed.subscribe();
        // Fails only when the fence is gone, and with it whoever waits.
        _ = renewed.wait_for(|moment| moment.elapsed() <= TRUSTED).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_fence_closes_by_itself_and_opens_with_a_renewal() {
        let fence = Fence::new();
        assert!(!fence.is_closed());
        // As time passes.
        let past = Instant::now().checked_sub(TRUSTED + Duration::from_millis(1));
        fence.renewed(past.expect("the machine has run for some seconds"));
        assert!(fence.is_closed());
        fence.renewed(Instant::now());
        fence.open().await;
        assert!(!fence.is_closed());
    }
}
