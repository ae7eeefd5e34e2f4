//! Whether this worker may still act: only while it knows that its lease lives.
//!
//! A worker that was stopped, or cut off from Redis, does not notice it; the others do, and give
//! its contracts to somebody else. So before it starts a call or sends a reply, it looks at how
//! long ago its lease was renewed for certain.

use std::sync::{Mutex, MutexGuard, PoisonError};

use shared::queue::timing::FENCE_AFTER;
use tokio::sync::watch;
use tokio::time::Instant;

/// What is known of the lease.
#[derive(Debug)]
pub(crate) struct Fence {
    /// The last renewal; none while it is not known what the worker may keep.
    renewed: watch::Sender<Option<Instant>>,
    lost: Mutex<Option<Instant>>,
}

impl Fence {
    /// Open for a lease that was made just now.
    pub(crate) fn new() -> Self {
        Self {
            renewed: watch::Sender::new(Some(Instant::now())),
            lost: Mutex::default(),
        }
    }

    /// The lease was renewed by a command that was sent at `moment`.
    pub(crate) fn renewed(&self, moment: Instant) {
        self.renewed.send_replace(Some(moment));
    }

    /// The lease has ended: closed until it is [renewed](Self::renewed).
    pub(crate) fn lost(&self) {
        self.renewed.send_replace(None);
        *self.last_loss() = Some(Instant::now());
    }

    /// Whether the lease has ended since `moment`: what was taken in by then may be somebody else's.
    pub(crate) fn was_lost_since(&self, moment: std::time::Instant) -> bool {
        self.last_loss()
            .is_some_and(|lost| lost.into_std() >= moment)
    }

    /// Whether the worker must not act.
    pub(crate) fn is_closed(&self) -> bool {
        !is_trusted(*self.renewed.borrow())
    }

    /// Waits until the worker may act.
    pub(crate) async fn open(&self) {
        let mut renewed = self.renewed.subscribe();
        // Fails only when the fence is gone, and with it whoever waits.
        _ = renewed.wait_for(|moment| is_trusted(*moment)).await;
    }

    fn last_loss(&self) -> MutexGuard<'_, Option<Instant>> {
        // A moment is written whole.
        self.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_trusted(renewed: Option<Instant>) -> bool {
    renewed.is_some_and(|moment| moment.elapsed() <= FENCE_AFTER)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_fence_closes_by_itself_and_opens_with_a_renewal() {
        let fence = Fence::new();
        assert!(!fence.is_closed());
        // As time passes.
        let past = Instant::now().checked_sub(FENCE_AFTER + Duration::from_millis(1));
        fence.renewed(past.expect("the machine has run for some seconds"));
        assert!(fence.is_closed());
        fence.renewed(Instant::now());
        fence.open().await;
        assert!(!fence.is_closed());
    }

    #[tokio::test]
    async fn a_lost_lease_closes_it_at_once_and_voids_what_came_before() {
        let fence = Fence::new();
        let before = std::time::Instant::now();
        assert!(!fence.was_lost_since(before));
        fence.lost();
        assert!(fence.is_closed() && fence.was_lost_since(before));
        let after = std::time::Instant::now() + Duration::from_millis(1);
        fence.renewed(Instant::now());
        assert!(!fence.is_closed() && !fence.was_lost_since(after));
    }
}
