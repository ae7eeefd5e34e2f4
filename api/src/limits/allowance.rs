//! What this process may spend of a quota that all apis share.
//!
//! It begins with one slice, a tenth of the quota, and leases the next one before the last is
//! spent. So all apis together exceed a quota by one slice each at most. Who finds nothing left
//! waits for the answer to the next lease; while Redis says that there is nothing, requests are
//! refused at once.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// How many slices a quota has.
const SLICES: u64 = 10;

/// How long a request waits for the answer to a lease. Longer means that Redis does not answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// A part of a quota.
#[derive(Debug)]
pub(super) struct Allowance {
    /// The units in a window; 0: they are not limited.
    quota: AtomicU64,
    /// What is left to spend. Below 0: more was spent than there was, which the next lease pays.
    left: AtomicI64,
    /// Requests that wait for a lease.
    waiting: AtomicU64,
    /// Whether a lease was asked for.
    is_asked: AtomicBool,
    /// Until when there is nothing, in microseconds after `origin`.
    refused_until: AtomicU64,
    origin: Instant,
    answered: Notify,
}

/// Whether a request may begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spent {
    /// It may, and nothing has to be done.
    Enough,
    /// It may, and another slice should be leased.
    Low,
    /// There is nothing left at the moment.
    Nothing,
    /// There is nothing for so long.
    Refused(Duration),
}

impl Default for Allowance {
    fn default() -> Self {
        Self {
            quota: AtomicU64::new(0),
            left: AtomicI64::new(0),
            waiting: AtomicU64::new(0),
            is_asked: AtomicBool::new(false),
            refused_until: AtomicU64::new(0),
            origin: Instant::now(),
            answered: Notify::new(),
        }
    }
}

impl Allowance {
    /// Sets the units in a window, 0 for no limit. Another number than before begins with a slice.
    pub(super) fn limit(&self, quota: u64) {
        if self.quota.swap(quota, Ordering::Relaxed) != quota {
            self.left.store(units(slice(quota)), Ordering::Relaxed);
            self.refused_until.store(0, Ordering::Relaxed);
        }
    }

    /// The units in a window; 0 if they are not limited.
    pub(super) fn quota(&self) -> u64 {
        self.quota.load(Ordering::Relaxed)
    }

    /// Spends `cost` units, if there are as many and at least one.
    pub(super) fn spend(&self, cost: u64) -> Spent {
        let quota = self.quota();
        if quota == 0 {
            return Spent::Enough;
        }
        let cost = units(cost);
        let before = self.left.fetch_sub(cost, Ordering::Relaxed);
        if before >= cost.max(1) {
            let is_low = (before - cost).saturating_mul(2) < units(slice(quota));
            return if is_low { Spent::Low } else { Spent::Enough };
        }
        self.left.fetch_add(cost, Ordering::Relaxed);
        match self.refusal() {
            Some(time) => Spent::Refused(time),
            None => Spent::Nothing,
        }
    }

    /// Takes units that were used already. Whether another slice should be leased.
    pub(super) fn charge(&self, used: u64) -> bool {
        let quota = self.quota();
        if quota == 0 {
            return false;
        }
        let left = self.left.fetch_sub(units(used), Ordering::Relaxed) - units(used);
        left.saturating_mul(2) < units(slice(quota))
    }

    /// Gives back what was spent for a request that did not begin.
    pub(super) fn give_back(&self, units_spent: u64) {
        if self.quota() > 0 {
            self.left.fetch_add(units(units_spent), Ordering::Relaxed);
        }
    }

    /// Spends, and waits for a lease if there is nothing left. `ask` asks for one. An error says
    /// when there will be something.
    pub(super) async fn obtain(&self, cost: u64, ask: impl Fn()) -> Result<(), Duration> {
        match self.spend(cost) {
            Spent::Enough => Ok(()),
            Spent::Low => {
                ask();
                Ok(())
            }
            Spent::Refused(time) => Err(time),
            // Boxed: rare, and larger than the rest of a call's future.
            Spent::Nothing => Box::pin(self.wait_and_spend(cost, ask)).await,
        }
    }

    async fn wait_and_spend(&self, cost: u64, ask: impl Fn()) -> Result<(), Duration> {
        loop {
            let mut answered = std::pin::pin!(self.answered.notified());
            answered.as_mut().enable();
            match self.spend(cost) {
                Spent::Enough => return Ok(()),
                Spent::Low => {
                    ask();
                    return Ok(());
                }
                Spent::Refused(time) => return Err(time),
                Spent::Nothing => {}
            }
            self.waiting.fetch_add(1, Ordering::Relaxed);
            let waits = Waiting(&self.waiting);
            ask();
            let answer = tokio::time::timeout(PATIENCE, answered).await;
            drop(waits);
            if answer.is_err() {
                return Err(PATIENCE);
            }
        }
    }

    /// Whether a lease has to be asked for now; another one is not asked for before it is answered.
    pub(super) fn begin_to_ask(&self) -> bool {
        self.refusal().is_none() && !self.is_asked.swap(true, Ordering::Relaxed)
    }

    /// Whether more was spent than there was, and no lease has paid for it yet.
    pub(super) fn is_in_debt(&self) -> bool {
        self.quota() > 0 && self.left.load(Ordering::Relaxed) < 0
    }

    /// How many units to lease: a slice, what was spent without being there, and as many as wait
    /// for some.
    pub(super) fn wanted(&self, unit_of_call: u64) -> u64 {
        let debt = self.left.load(Ordering::Relaxed).min(0).unsigned_abs();
        let waiting = self
            .waiting
            .load(Ordering::Relaxed)
            .saturating_mul(unit_of_call);
        let quota = self.quota();
        (slice(quota) + debt.saturating_add(waiting)).min(quota)
    }

    /// The units of a slice.
    pub(super) fn slice(&self) -> u64 {
        slice(self.quota())
    }

    /// Some units were leased.
    pub(super) fn granted(&self, granted: u64) {
        self.left.fetch_add(units(granted), Ordering::Relaxed);
        self.answer();
    }

    /// There is nothing to lease for so long.
    pub(super) fn refused(&self, time: Duration) {
        let until = micros(self.origin.elapsed().saturating_add(time));
        self.refused_until.store(until, Ordering::Relaxed);
        self.answer();
    }

    fn answer(&self) {
        self.is_asked.store(false, Ordering::Relaxed);
        self.answered.notify_waiters();
    }

    fn refusal(&self) -> Option<Duration> {
        let until = self.refused_until.load(Ordering::Relaxed);
        if until == 0 {
            return None;
        }
        let left = until.saturating_sub(micros(self.origin.elapsed()));
        (left > 0).then(|| Duration::from_micros(left))
    }
}

/// A request that waits.
struct Waiting<'a>(&'a AtomicU64);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn slice(quota: u64) -> u64 {
    quota.div_ceil(SLICES)
}

fn units(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn limited_to(quota: u64) -> Allowance {
        let allowance = Allowance::default();
        allowance.limit(quota);
        allowance
    }

    #[test]
    fn what_is_not_limited_is_never_spent() {
        let allowance = Allowance::default();
        assert_eq!(allowance.spend(u64::MAX), Spent::Enough);
        assert!(!allowance.charge(u64::MAX));
    }

    #[test]
    fn a_slice_is_there_at_the_beginning_and_no_more() {
        let allowance = limited_to(100);
        let outcomes: Vec<_> = (0..11).map(|_| allowance.spend(1)).collect();
        assert_eq!(outcomes[..5], [Spent::Enough; 5]);
        assert_eq!(outcomes[6..10], [Spent::Low; 4]);
        assert_eq!(outcomes[10], Spent::Nothing);
        allowance.granted(1);
        assert_eq!(allowance.spend(1), Spent::Low);
        allowance.refused(Duration::from_mins(1));
        assert!(matches!(allowance.spend(1), Spent::Refused(_)));
        assert!(!allowance.begin_to_ask());
        // The same limit once more changes nothing.
        allowance.limit(100);
        assert!(matches!(allowance.spend(1), Spent::Refused(_)));
        allowance.limit(200);
        assert_eq!(allowance.spend(1), Spent::Enough);
    }

    #[test]
    fn what_was_overspent_is_paid_by_the_next_lease() {
        let allowance = limited_to(100);
        assert!(allowance.charge(35));
        assert!(allowance.is_in_debt());
        assert_eq!(allowance.spend(0), Spent::Nothing);
        assert_eq!(allowance.wanted(0), 35);
        allowance.granted(25);
        assert_eq!(allowance.spend(0), Spent::Nothing);
        assert!(!allowance.is_in_debt());
        allowance.granted(1);
        assert_eq!(allowance.spend(0), Spent::Low);
    }

    #[tokio::test]
    async fn whoever_finds_nothing_waits_for_the_lease() {
        let allowance = limited_to(10);
        assert_eq!(allowance.spend(1), Spent::Low);
        let asked = Cell::new(0);
        let ask = || {
            if allowance.begin_to_ask() {
                asked.set(asked.get() + 1);
            }
        };
        let waiting = futures::future::join_all((0..4).map(|_| allowance.obtain(1, ask)));
        let granting = async {
            tokio::task::yield_now().await;
            assert_eq!(allowance.wanted(1), 5);
            allowance.granted(3);
            tokio::task::yield_now().await;
            allowance.refused(Duration::from_mins(1));
        };
        let (obtained, ()) = tokio::join!(waiting, granting);
        let count = obtained.iter().filter(|outcome| outcome.is_ok()).count();
        assert_eq!((count, asked.get() >= 1), (3, true), "{obtained:?}");
    }
}
