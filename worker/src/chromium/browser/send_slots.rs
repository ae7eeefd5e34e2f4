//! Lanes: how many messages are under way to the pages of one browser.
//!
//! More of them would wait inside the browser, each with the few calls that it left with. Whoever waits
//! for a lane here goes on to gather calls, and leaves with all of them in one message; and since lanes
//! go to those who wait in the order in which they came, every contract has its turn.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Messages under way at once, for each core of the machine. Measured on two cores with a hundred
/// contracts and 256 callers: 5,350 calls/s without a bound, 6,900 with 8 for each core, 8,900 with 4,
/// 9,300 with 2, 5,800 with 1.
const PER_CORE: usize = 4;

/// The lanes of a browser.
#[derive(Debug, Clone)]
pub(crate) struct Lanes(Arc<Semaphore>);

/// Leave to send one message; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Lane {
    _permit: OwnedSemaphorePermit,
}

/// What a page has of a lane.
pub(crate) enum Claim {
    /// It wants none.
    None,
    /// It is in the queue.
    Queued(BoxFuture<'static, Lane>),
    /// It has one.
    Lane(Lane),
}

impl Lanes {
    /// The part of one of so many browsers.
    pub(crate) fn of(browsers: usize) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let lanes = (PER_CORE * cores).div_ceil(browsers.max(1));
        Self(Arc::new(Semaphore::new(lanes)))
    }

    /// Takes a lane, or gets in the queue for one.
    pub(crate) fn claim(&self) -> Claim {
        let semaphore = Arc::clone(&self.0);
        if let Ok(permit) = Arc::clone(&semaphore).try_acquire_owned() {
            return Claim::Lane(Lane { _permit: permit });
        }
        let queued = async move {
            let permit = semaphore.acquire_owned().await;
            Lane {
                _permit: permit.expect("the semaphore is never closed"),
            }
        };
        Claim::Queued(queued.boxed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_go_to_those_who_wait_in_their_order() {
        let lanes = Lanes(Arc::new(Semaphore::new(1)));
        let Claim::Lane(taken) = lanes.claim() else {
            panic!("there is one")
        };
        let (Claim::Queued(mut first), Claim::Queued(mut second)) = (lanes.claim(), lanes.claim())
        else {
            panic!("there is only one")
        };
        assert!((&mut first).now_or_never().is_none());
        assert!((&mut second).now_or_never().is_none());
        drop(taken);
        assert!((&mut second).now_or_never().is_none());
        let taken = first.now_or_never().expect("its turn has come");
        // Who loses interest leaves the queue.
        drop(second);
        drop(taken);
        assert!(matches!(lanes.claim(), Claim::Lane(_)));
    }

    #[test]
    fn every_browser_has_a_lane() {
        assert_eq!(Lanes::of(10_000).0.available_permits(), 1);
        assert!(Lanes::of(1).0.available_permits() >= PER_CORE);
    }
}
