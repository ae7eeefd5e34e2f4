//! Send slots: a limit for the messages in flight to the pages of one browser.
//!
//! More messages would wait inside the browser, each with the few calls that it was sent with. A
//! contract that waits for a slot here goes on to gather calls, and then sends all of them in one
//! message. Slots are given out in the order of the requests, so every contract gets its share.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Messages in flight at once, for each core of the machine. Measured on two cores with a hundred
/// contracts and 256 callers: 5,350 calls/s without a limit, 6,900 with 8 for each core, 8,900 with
/// 4, 9,300 with 2, 5,800 with 1.
const PER_CORE: usize = 4;

/// The send slots of one browser.
#[derive(Debug, Clone)]
pub(crate) struct SendSlots(Arc<Semaphore>);

/// The permission to send one message. Dropping it frees the slot.
#[derive(Debug)]
pub(crate) struct SendSlot {
    _permit: OwnedSemaphorePermit,
}

/// A page's request for a send slot.
pub(crate) enum SlotRequest {
    /// The page has made no request.
    None,
    /// The request is in the queue.
    Queued(BoxFuture<'static, SendSlot>),
    /// The page has a slot.
    Granted(SendSlot),
}

impl SendSlots {
    /// The slots of one browser, where so many browsers share the machine.
    pub(crate) fn for_one_of(browsers: usize) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let slots = (PER_CORE * cores).div_ceil(browsers.max(1));
        Self(Arc::new(Semaphore::new(slots)))
    }

    /// Takes a free slot, or joins the queue for one. Dropping the request leaves the queue.
    pub(crate) fn request(&self) -> SlotRequest {
        let semaphore = Arc::clone(&self.0);
        if let Ok(permit) = Arc::clone(&semaphore).try_acquire_owned() {
            return SlotRequest::Granted(SendSlot { _permit: permit });
        }
        let queued = async move {
            let permit = semaphore.acquire_owned().await;
            SendSlot {
                _permit: permit.expect("the semaphore is never closed"),
            }
        };
        SlotRequest::Queued(queued.boxed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_granted_in_the_order_of_the_requests() {
        let slots = SendSlots(Arc::new(Semaphore::new(1)));
        let SlotRequest::Granted(taken) = slots.request() else {
            panic!("the only slot is free")
        };
        let (SlotRequest::Queued(mut first), SlotRequest::Queued(mut second)) =
            (slots.request(), slots.request())
        else {
            panic!("the only slot is taken")
        };
        assert!((&mut first).now_or_never().is_none());
        assert!((&mut second).now_or_never().is_none());
        drop(taken);
        assert!((&mut second).now_or_never().is_none());
        let taken = first.now_or_never().expect("the first request is granted");
        // A dropped request leaves the queue.
        drop(second);
        drop(taken);
        assert!(matches!(slots.request(), SlotRequest::Granted(_)));
    }

    #[test]
    fn every_browser_has_a_slot() {
        assert_eq!(SendSlots::for_one_of(10_000).0.available_permits(), 1);
        assert!(SendSlots::for_one_of(1).0.available_permits() >= PER_CORE);
    }
}
