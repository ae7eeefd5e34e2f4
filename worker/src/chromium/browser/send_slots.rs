//! Send slots: a limit for the messages in flight to the pages of one browser.
//!
//! More messages would wait inside the browser, each with the few calls that it was sent with. A
//! contract that waits for a slot here goes on to gather calls, and then sends all of them in one
//! message.
//!
//! The slots are shared fairly by the time for which they are held, by start-time fair queueing
//! (Goyal, Vin and Cheng, 1996). Every contract has a clock, which advances while it holds a slot.
//! A free slot goes to the request of the contract whose clock is furthest behind. After a pause, a
//! contract's clock is set to that of the contract that was granted a slot last: so it is ahead of
//! those that were busy meanwhile, but the pause is not saved up.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// Messages in flight at once, for each core of the machine. Measured on two cores with a hundred
/// contracts and 256 callers: 5,350 calls/s without a limit, 6,900 with 8 for each core, 8,900 with
/// 4, 9,300 with 2, 5,800 with 1.
const PER_CORE: usize = 4;

/// The send slots of one browser.
#[derive(Debug, Clone)]
pub(crate) struct SendSlots(Arc<Mutex<Queue>>);

/// One contract's share of the send slots of its browser.
#[derive(Debug, Clone)]
pub(crate) struct SlotShare {
    slots: SendSlots,
    clock: Arc<Clock>,
}

/// The clock of one contract, in microseconds.
#[derive(Debug, Default)]
struct Clock(AtomicU64);

/// The permission to send one message. Dropping it frees the slot.
#[derive(Debug)]
pub(crate) struct SendSlot {
    share: SlotShare,
    granted: Instant,
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

#[derive(Debug)]
struct Queue {
    free: usize,
    /// The clock of the contract that was granted a slot last, as it was at the request.
    time: u64,
    /// The requests by the clock of the contract, and then in their order. One that was dropped
    /// stays until it is its turn.
    waiting: BTreeMap<(u64, u64), Waiting>,
    /// How many requests have joined the queue.
    requests: u64,
}

#[derive(Debug)]
struct Waiting {
    clock: Arc<Clock>,
    grant: oneshot::Sender<SendSlot>,
}

impl SendSlots {
    /// The slots of one browser, where so many browsers share the machine.
    pub(crate) fn for_one_of(browsers: usize) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self::new((PER_CORE * cores).div_ceil(browsers.max(1)))
    }

    fn new(slots: usize) -> Self {
        Self(Arc::new(Mutex::new(Queue {
            free: slots,
            time: 0,
            waiting: BTreeMap::new(),
            requests: 0,
        })))
    }

    /// The share of one more contract.
    pub(crate) fn share(&self) -> SlotShare {
        SlotShare {
            slots: self.clone(),
            clock: Arc::default(),
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn grant(&self, clock: Arc<Clock>) -> SendSlot {
        let slots = self.clone();
        SendSlot {
            share: SlotShare { slots, clock },
            granted: Instant::now(),
        }
    }

    /// Gives a slot that became free to the next request.
    fn pass_on(&self) {
        let next = self.queue().next();
        if let Some(Waiting { clock, grant }) = next {
            // If the request is dropped at this moment, so is the slot, which passes it on again.
            drop(grant.send(self.grant(clock)));
        }
    }
}

impl SlotShare {
    /// Takes a free slot, or joins the queue for one. Dropping the request leaves the queue.
    pub(crate) fn request(&self) -> SlotRequest {
        let mut queue = self.slots.queue();
        let clock = self.clock.catch_up(queue.time);
        if queue.take_free(clock) {
            return SlotRequest::Granted(self.slots.grant(Arc::clone(&self.clock)));
        }
        let (grant, granted) = oneshot::channel();
        let key = (clock, queue.requests);
        queue.requests += 1;
        let clock = Arc::clone(&self.clock);
        queue.waiting.insert(key, Waiting { clock, grant });
        let granted = async { granted.await.expect("a request stays until it is granted") };
        SlotRequest::Queued(granted.boxed())
    }
}

impl Clock {
    /// Sets the clock to a time that is later; returns what it shows then.
    fn catch_up(&self, time: u64) -> u64 {
        self.0.fetch_max(time, Ordering::Relaxed).max(time)
    }

    fn advance(&self, held: Duration) {
        let held = u64::try_from(held.as_micros()).unwrap_or(u64::MAX);
        self.0.fetch_add(held, Ordering::Relaxed);
    }
}

impl Drop for SendSlot {
    fn drop(&mut self) {
        self.share.clock.advance(self.granted.elapsed());
        self.share.slots.pass_on();
    }
}

impl Queue {
    /// Takes a slot for a contract whose clock shows this, if one is free: then nobody waits.
    fn take_free(&mut self, clock: u64) -> bool {
        let Some(free) = self.free.checked_sub(1) else {
            return false;
        };
        self.free = free;
        self.time = self.time.max(clock);
        true
    }

    /// The request that gets a slot that became free. Without one, the slot stays free.
    fn next(&mut self) -> Option<Waiting> {
        while let Some(((clock, _), next)) = self.waiting.pop_first() {
            if !next.grant.is_closed() {
                self.time = self.time.max(clock);
                return Some(next);
            }
        }
        self.free += 1;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(share: &SlotShare) -> SendSlot {
        match share.request() {
            SlotRequest::Granted(slot) => slot,
            _ => panic!("a slot is free"),
        }
    }

    fn wait(share: &SlotShare) -> BoxFuture<'static, SendSlot> {
        match share.request() {
            SlotRequest::Queued(queued) => queued,
            _ => panic!("no slot is free"),
        }
    }

    /// Frees a slot as if it had been held for exactly so many milliseconds.
    fn hold(mut slot: SendSlot, time: u64) {
        slot.granted += Duration::from_hours(1); // Nothing has elapsed since a later time.
        slot.share.clock.advance(Duration::from_millis(time));
    }

    #[test]
    fn equal_contracts_are_granted_slots_in_the_order_of_their_requests() {
        let slots = SendSlots::new(1);
        let taken = take(&slots.share());
        let (mut first, mut second) = (wait(&slots.share()), wait(&slots.share()));
        assert!((&mut first).now_or_never().is_none());
        hold(taken, 1);
        assert!((&mut second).now_or_never().is_none());
        let taken = first.now_or_never().expect("the first request is granted");
        // A dropped request leaves the queue.
        drop(second);
        hold(taken, 1);
        drop(take(&slots.share()));
    }

    #[test]
    fn a_slot_granted_to_a_dropped_request_is_passed_on() {
        let slots = SendSlots::new(1);
        let taken = take(&slots.share());
        let (first, second) = (wait(&slots.share()), wait(&slots.share()));
        drop(taken);
        drop(first);
        assert!(second.now_or_never().is_some());
        drop(take(&slots.share()));
    }

    #[test]
    fn a_cold_contract_is_ahead_of_hot_ones() {
        let slots = SendSlots::new(1);
        let hot = [slots.share(), slots.share(), slots.share()];
        for (share, time) in hot.iter().zip([5, 6, 7]) {
            hold(take(share), time);
        }
        let taken = take(&hot[0]);
        let [mut second, mut third] = [wait(&hot[1]), wait(&hot[2])];
        let cold = wait(&slots.share());
        hold(taken, 5);
        assert!((&mut second).now_or_never().is_none());
        assert!((&mut third).now_or_never().is_none());
        assert!(cold.now_or_never().is_some());
        assert!(second.now_or_never().is_some());
        assert!(third.now_or_never().is_some());
    }

    /// How often two contracts that always have something to send got a slot, which each holds for
    /// a time of its own, in milliseconds.
    fn grants(times: [u64; 2], rounds: usize) -> [usize; 2] {
        let slots = SendSlots::new(1);
        let shares = [slots.share(), slots.share()];
        let mut taken = take(&slots.share());
        let mut queued = shares.each_ref().map(wait);
        let mut grants = [0, 0];
        let mut time = 0;
        for _ in 0..rounds {
            hold(taken, time);
            let [first, second] = &mut queued;
            let granted = first.now_or_never().map(|slot| (0, slot));
            let granted = granted.or_else(|| second.now_or_never().map(|slot| (1, slot)));
            let (index, slot) = granted.expect("a request is granted");
            taken = slot;
            time = times[index];
            grants[index] += 1;
            queued[index] = wait(&shares[index]);
        }
        grants
    }

    #[test]
    fn contracts_get_equal_time_not_equally_many_slots() {
        assert_eq!(grants([1, 1], 100), [50, 50]);
        let [short, long] = grants([1, 9], 100);
        assert!((8 * long..=10 * long).contains(&short), "{short} {long}");
    }

    #[test]
    fn a_pause_is_not_saved_up() {
        let slots = SendSlots::new(1);
        let (busy, paused) = (slots.share(), slots.share());
        for _ in 0..100 {
            hold(take(&busy), 5);
        }
        // The one that paused is ahead once, and then as far as the other.
        let taken = take(&paused);
        let first = wait(&busy);
        hold(taken, 20);
        let taken = first.now_or_never().expect("nobody else waits");
        let (mut ahead, second) = (wait(&paused), wait(&busy));
        hold(taken, 5);
        assert!((&mut ahead).now_or_never().is_none());
        assert!(second.now_or_never().is_some());
        assert!(ahead.now_or_never().is_some());
    }

    #[test]
    fn every_browser_has_a_slot() {
        assert_eq!(SendSlots::for_one_of(10_000).queue().free, 1);
        assert!(SendSlots::for_one_of(1).queue().free >= PER_CORE);
    }
}
