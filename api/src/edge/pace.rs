//! Whether a client keeps its connection waiting.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// How long a client may pause before it counts as late.
const GRACE: Duration = Duration::from_secs(1);

/// The bytes per second that a client must send to catch up. A tenth of a slow mobile connection.
const RATE: u64 = 16 * 1024;

/// The moment until which what a client has sent is enough, like a bucket that leaks.
///
/// Each byte postpones the moment, but never beyond [`GRACE`] from now. So a client that stops is
/// late after a second, however much it sent before, and one that sends a byte now and then stays
/// late.
#[derive(Debug)]
pub(super) struct Pace {
    origin: Instant,
    /// In microseconds after `origin`.
    due: AtomicU64,
}

impl Pace {
    /// A client that begins now.
    pub(super) fn new() -> Self {
        let origin = Instant::now();
        let pace = Self {
            origin,
            due: AtomicU64::new(0),
        };
        pace.restart(origin);
        pace
    }

    /// The client is waited for from `now` on.
    pub(super) fn restart(&self, now: Instant) {
        self.due.store(self.latest(now), Ordering::Relaxed);
    }

    /// The client has sent `bytes` by `now`.
    pub(super) fn advance(&self, bytes: usize, now: Instant) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let earned = bytes.saturating_mul(1_000_000) / RATE;
        let due = self.due.load(Ordering::Relaxed).saturating_add(earned);
        // Only the connection's own task writes.
        self.due.store(due.min(self.latest(now)), Ordering::Relaxed);
    }

    /// When the client is, or was, late.
    pub(super) fn due(&self) -> Instant {
        self.origin + Duration::from_micros(self.due.load(Ordering::Relaxed))
    }

    /// Makes a client late.
    #[cfg(test)]
    pub(super) fn lapse(&self) {
        self.due.store(0, Ordering::Relaxed);
    }

    fn latest(&self, now: Instant) -> u64 {
        let latest = now.duration_since(self.origin) + GRACE;
        u64::try_from(latest.as_micros()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_client_that_stops_is_late_after_a_second_whatever_it_sent() {
        let pace = Pace::new();
        let begun = pace.origin;
        pace.advance(62_000_000, begun);
        assert_eq!(pace.due(), begun + GRACE);
    }

    #[test]
    fn a_client_that_trickles_is_late_and_one_that_keeps_the_rate_is_not() {
        let (trickles, keeps) = (Pace::new(), Pace::new());
        let mut now = Instant::now();
        for _ in 0..20 {
            now += 500 * MS;
            trickles.advance(1, now);
            keeps.advance(16 * 1024, now);
        }
        assert!(trickles.due() < now);
        assert!(keeps.due() > now);
        trickles.advance(1 << 20, now);
        assert!(trickles.due() > now, "it has caught up");
    }
}
