//! The id under which this worker acts. A worker that was fenced takes the next one.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use shared::protocol::id::WorkerId;
use shared::queue::timing::LOSS;
use shared::service::moment::Moment;
use tokio::sync::watch;
use tokio::time::Instant;

/// Earlier ids that are remembered. A worker takes one after another only while servers of Redis
/// are away.
const REMEMBERED: usize = 64;

/// The current id of this process.
#[derive(Debug)]
pub(crate) struct Identity {
    current: watch::Sender<Registered>,
    /// The ids before, and until when each of them certainly owned its contracts.
    earlier: Mutex<VecDeque<(WorkerId, Moment)>>,
}

/// An id, and when it was registered.
#[derive(Debug, Clone, Copy)]
struct Registered {
    id: WorkerId,
    at: Instant,
}

impl Identity {
    /// The first id of a new process. It is to be registered right away.
    pub(crate) fn new(id: WorkerId) -> Self {
        let at = Instant::now();
        Self {
            current: watch::Sender::new(Registered { id, at }),
            earlier: Mutex::default(),
        }
    }

    /// The current id.
    pub(crate) fn id(&self) -> WorkerId {
        self.current.borrow().id
    }

    /// Goes on under another id, which was registered just now. The current one certainly owned its
    /// contracts until the moment `owned`.
    pub(crate) fn renew(&self, id: WorkerId, owned: Moment) {
        let mut earlier = self.earlier();
        earlier.truncate(REMEMBERED - 1);
        earlier.push_front((self.id(), owned));
        drop(earlier);
        let at = Instant::now();
        self.current.send_replace(Registered { id, at });
    }

    /// Until when an earlier id certainly owned its contracts. None if that is not known any more.
    pub(crate) fn owned_until(&self, id: WorkerId) -> Option<Moment> {
        let earlier = self.earlier();
        let found = earlier.iter().find(|(known, _)| *known == id);
        found.map(|(_, moment)| *moment)
    }

    fn earlier(&self) -> MutexGuard<'_, VecDeque<(WorkerId, Moment)>> {
        // No code that holds the lock can panic half-way.
        self.earlier.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the id is not `id` any more.
    pub(crate) async fn changed_from(&self, id: WorkerId) {
        let mut current = self.current.subscribe();
        // Cannot fail: the sender lives as long as `self`.
        _ = current.wait_for(|registered| registered.id != id).await;
    }

    /// Waits until the current id may be used in contract records: a failover of Redis cannot lose
    /// its registration any more.
    pub(crate) async fn usable(&self) -> WorkerId {
        loop {
            let Registered { id, at } = *self.current.borrow();
            let left = LOSS.saturating_sub(at.elapsed());
            if left == Duration::ZERO {
                return id;
            }
            tokio::time::sleep(left).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_id_is_usable_when_its_registration_cannot_be_lost() {
        let first = WorkerId::random();
        let identity = Identity::new(first);
        let begun = Instant::now();
        assert_eq!(identity.usable().await, first);
        assert!(begun.elapsed() >= LOSS);
        let owned = Moment::now();
        identity.renew(first.next_epoch(), owned);
        assert_eq!(identity.owned_until(first), Some(owned));
        assert_eq!(identity.owned_until(first.next_epoch()), None);
        identity.changed_from(first).await;
        let begun = Instant::now();
        assert_eq!(identity.usable().await, first.next_epoch());
        assert!(begun.elapsed() >= LOSS);
    }
}
