//! Stops this worker from acting while it cannot be sure that its lease is valid.
//!
//! A worker that was suspended, or cut off from Redis, does not notice it. The other processes see
//! its lease expire and give its contracts to other workers. So before this worker starts a call or
//! sends a reply, it checks when its lease was last renewed for certain. It counts the time by a
//! clock that also runs while the machine is paused ([`Moment`]).

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use shared::queue::timing::FENCE_AFTER;
use shared::service::moment::Moment;
use tokio::sync::watch;

/// Open while the worker may act, closed while it must not.
#[derive(Debug)]
pub(crate) struct Fence {
    /// When the lease was last renewed. None while the ownership of the contracts is unknown.
    renewed: watch::Sender<Option<Moment>>,
    /// When the lease was last found to have ended.
    lost: Mutex<Option<Instant>>,
}

impl Fence {
    /// An open fence, for a lease that was acquired just now.
    pub(crate) fn new() -> Self {
        Self {
            renewed: watch::Sender::new(Some(Moment::now())),
            lost: Mutex::default(),
        }
    }

    /// Opens the fence: the lease was renewed by a command that was sent at `moment`.
    pub(crate) fn lease_renewed(&self, moment: Moment) {
        self.renewed.send_replace(Some(moment));
    }

    /// Closes the fence until the lease is [renewed](Self::lease_renewed): the lease has ended.
    pub(crate) fn lease_lost(&self) {
        self.renewed.send_replace(None);
        *self.last_loss() = Some(Instant::now());
    }

    /// Whether the lease has ended since `moment`. If so, another worker may have the jobs that
    /// this worker accepted before `moment`.
    pub(crate) fn lease_lost_since(&self, moment: Instant) -> bool {
        self.last_loss().is_some_and(|lost| lost >= moment)
    }

    /// Whether the worker must not act.
    pub(crate) fn is_closed(&self) -> bool {
        !is_trusted(*self.renewed.borrow())
    }

    /// Waits until the worker may act.
    pub(crate) async fn opened(&self) {
        let mut renewed = self.renewed.subscribe();
        // Cannot fail: the sender lives as long as `self`.
        _ = renewed.wait_for(|moment| is_trusted(*moment)).await;
    }

    fn last_loss(&self) -> MutexGuard<'_, Option<Instant>> {
        // The value is written in one step, so it is valid even if the mutex is poisoned.
        self.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_trusted(renewed: Option<Moment>) -> bool {
    renewed.is_some_and(|moment| moment.elapsed() <= FENCE_AFTER)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn fence_closes_without_renewals_and_opens_with_the_next_one() {
        let fence = Fence::new();
        assert!(!fence.is_closed());
        // A renewal that is just too old.
        let past = Moment::now().checked_sub(FENCE_AFTER + Duration::from_millis(1));
        fence.lease_renewed(past.expect("the machine has run for some seconds"));
        assert!(fence.is_closed());
        fence.lease_renewed(Moment::now());
        fence.opened().await;
        assert!(!fence.is_closed());
    }

    #[tokio::test]
    async fn lost_lease_closes_the_fence_at_once_and_voids_earlier_jobs() {
        let fence = Fence::new();
        let before = Instant::now();
        assert!(!fence.lease_lost_since(before));
        fence.lease_lost();
        assert!(fence.is_closed() && fence.lease_lost_since(before));
        let after = Instant::now() + Duration::from_millis(1);
        fence.lease_renewed(Moment::now());
        assert!(!fence.is_closed() && !fence.lease_lost_since(after));
    }
}
