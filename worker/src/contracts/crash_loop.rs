//! When to restart a crashed sandbox, and when its contract counts as crash-looping.
//!
//! The first restart is immediate. With every further crash within the engine's
//! [limit](RestartLimit), the pause before the next restart doubles. At the limit the contract is
//! quarantined. A crash under several calls at once does not count towards that limit: together
//! they may have needed more than each of them does. Each runs again alone, and crashes then count.
//! Losses for which a slow machine or a caller's argument may be the cause are no crashes, however
//! many there are. This file only counts and computes; `restart` acts on the result.

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
    recent: VecDeque<Crash>,
}

#[derive(Debug)]
struct Crash {
    at: Instant,
    /// Whether at most one call ran.
    counts: bool,
}

impl CrashHistory {
    pub(super) fn new(limit: RestartLimit) -> Self {
        Self {
            limit,
            recent: VecDeque::new(),
        }
    }

    /// Counts the loss of a sandbox at `now`, if the contract caused it. `calls` were running then.
    /// A new sandbox that the contract broke while it started is a loss, too.
    pub(super) fn record(&mut self, cause: LossCause, calls: usize, now: Instant) {
        self.recent
            .retain(|crash| now - crash.at < self.limit.within);
        match cause {
            LossCause::Crash => self.recent.push_back(Crash {
                at: now,
                counts: calls <= 1,
            }),
            LossCause::Timeout | LossCause::Unresponsive | LossCause::Arguments => {}
        }
    }

    /// Whether the contract must be quarantined.
    pub(super) fn is_crash_loop(&self) -> bool {
        self.recent.iter().filter(|crash| crash.counts).count() >= self.limit.losses
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
        history.record(LossCause::Crash, 1, now);
        assert_eq!(history.pause(), Duration::ZERO);
        history.record(LossCause::Crash, 1, now);
        assert_eq!(history.pause(), FIRST_PAUSE);
        assert!(!history.is_crash_loop());
        history.record(LossCause::Crash, 1, now);
        assert_eq!(history.pause(), FIRST_PAUSE * 2);
        assert!(history.is_crash_loop());
    }

    #[test]
    fn a_crash_under_several_calls_delays_restarts_but_is_no_reason_for_a_quarantine() {
        let (mut history, now) = (history(2), Instant::now());
        for _ in 0..10 {
            history.record(LossCause::Crash, 2, now);
        }
        assert_eq!(history.pause(), LONGEST_PAUSE);
        history.record(LossCause::Crash, 1, now);
        assert!(!history.is_crash_loop());
        history.record(LossCause::Crash, 0, now);
        assert!(history.is_crash_loop());
    }

    #[test]
    fn pause_has_an_upper_bound() {
        let (mut history, now) = (history(1000), Instant::now());
        for _ in 0..100 {
            history.record(LossCause::Crash, 1, now);
        }
        assert_eq!(history.pause(), LONGEST_PAUSE);
    }

    #[test]
    fn old_crashes_do_not_count() {
        let (mut history, mut now) = (history(3), Instant::now());
        for _ in 0..5 {
            history.record(LossCause::Crash, 1, now);
            assert!(!history.is_crash_loop());
            now += Duration::from_secs(31);
        }
        // Any later loss forgets them, so that the restart is immediate again.
        history.record(LossCause::Timeout, 1, now + Duration::from_secs(31));
        assert_eq!(history.pause(), Duration::ZERO);
    }

    #[test]
    fn losses_that_the_machine_may_have_caused_never_lead_to_a_quarantine() {
        let (mut history, now) = (history(5), Instant::now());
        for _ in 0..100 {
            history.record(LossCause::Timeout, 1, now);
            history.record(LossCause::Unresponsive, 1, now);
            history.record(LossCause::Arguments, 1, now);
        }
        assert_eq!(history.pause(), Duration::ZERO);
        assert!(!history.is_crash_loop());
        // Nor do they help crashes to add up, or hide them.
        for crash in 1..=5 {
            assert!(!history.is_crash_loop());
            history.record(LossCause::Crash, 1, now);
            history.record(LossCause::Unresponsive, 1, now);
            assert_eq!(history.is_crash_loop(), crash == 5);
        }
    }
}
