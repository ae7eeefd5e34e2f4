//! When to restart a crashed sandbox, and when its contract counts as crash-looping.
//!
//! The first restart is immediate. With every further crash within the engine's
//! [limit](RestartLimit), the pause before the next restart doubles. At the limit the contract is
//! quarantined. Losses for which a slow machine may be the cause are no crashes, however many there
//! are. This file only counts and computes; `restart` acts on the result.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::sandbox::{LossCause, RestartLimit};

/// The pause after the second crash in a row. It doubles with each further crash.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause.
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The recent crashes of one contract.
#[derive(Debug)]
pub(super) struct CrashHistory {
    limit: RestartLimit,
    recent: VecDeque<Instant>,
}

impl CrashHistory {
    pub(super) fn new(limit: RestartLimit) -> Self {
        Self {
            limit,
            recent: VecDeque::new(),
        }
    }

    /// Counts the loss of a sandbox at `now`, if the contract caused it. A new sandbox that the
    /// contract broke while it started is a loss, too.
    pub(super) fn record(&mut self, cause: LossCause, now: Instant) {
        self.recent.retain(|crash| now - *crash < self.limit.within);
        match cause {
            LossCause::Crash => self.recent.push_back(now),
            LossCause::Timeout | LossCause::Unresponsive => {}
        }
    }

    /// Whether the contract must be quarantined.
    pub(super) fn is_crash_loop(&self) -> bool {
        self.recent.len() >= self.limit.losses
    }

    /// How long to wait before the next restart.
    pub(super) fn pause(&self) -> Duration {
        match u32::try_from(self.recent.len()) {
            Ok(0 | 1) => Duration::ZERO,
            Ok(crashes) => (FIRST_PAUSE * 2_u32.saturating_pow(crashes - 2)).min(LONGEST_PAUSE),
            Err(_) => LONGEST_PAUSE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(losses: usize) -> CrashHistory {
        CrashHistory::new(RestartLimit {
            losses,
            within: Duration::from_mins(1),
        })
    }

    #[test]
    fn restarts_at_once_after_the_first_crash_and_later_after_each_further_one() {
        let (mut history, now) = (history(3), Instant::now());
        history.record(LossCause::Crash, now);
        assert_eq!(history.pause(), Duration::ZERO);
        history.record(LossCause::Crash, now);
        assert_eq!(history.pause(), FIRST_PAUSE);
        assert!(!history.is_crash_loop());
        history.record(LossCause::Crash, now);
        assert_eq!(history.pause(), FIRST_PAUSE * 2);
        assert!(history.is_crash_loop());
    }

    #[test]
    fn pause_has_an_upper_bound() {
        let (mut history, now) = (history(1000), Instant::now());
        for _ in 0..100 {
            history.record(LossCause::Crash, now);
        }
        assert_eq!(history.pause(), LONGEST_PAUSE);
    }

    #[test]
    fn old_crashes_do_not_count() {
        let (mut history, mut now) = (history(3), Instant::now());
        for _ in 0..5 {
            history.record(LossCause::Crash, now);
            assert!(!history.is_crash_loop());
            now += Duration::from_secs(31);
        }
        // Any later loss forgets them, so that the restart is immediate again.
        history.record(LossCause::Timeout, now + Duration::from_secs(31));
        assert_eq!(history.pause(), Duration::ZERO);
    }

    #[test]
    fn losses_that_the_machine_may_have_caused_never_lead_to_a_quarantine() {
        let (mut history, now) = (history(5), Instant::now());
        for _ in 0..100 {
            history.record(LossCause::Timeout, now);
            history.record(LossCause::Unresponsive, now);
        }
        assert_eq!(history.pause(), Duration::ZERO);
        assert!(!history.is_crash_loop());
        // Nor do they help crashes to add up, or hide them.
        for crash in 1..=5 {
            assert!(!history.is_crash_loop());
            history.record(LossCause::Crash, now);
            history.record(LossCause::Unresponsive, now);
            assert_eq!(history.is_crash_loop(), crash == 5);
        }
    }
}
