//! When the browser itself was stalled, or the worker: the time that no page is to blame for.
//!
//! All messages of all pages go through one thread of the browser. While that thread works on what
//! one page has sent it, the calls of the others wait, and their time runs. So the browser is asked
//! something trivial at short intervals, and the time that it takes to reply is recorded. If an
//! interval takes much longer than it should, the worker itself was not running, and replies may
//! wait that it has not read.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The time between a reply and the next question.
pub(crate) const PERIOD: Duration = Duration::from_millis(25);
/// A browser that takes longer than this to reply is stalled. So is a worker that asks this much
/// later than it should.
pub(crate) const STALLED: Duration = Duration::from_millis(50);
/// How many stalls are remembered. Those of the longest call limit fit, or it gets less credit.
const REMEMBERED: usize = 256;

/// The stalls of one browser.
#[derive(Debug, Default)]
pub(crate) struct Stalls(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// When the interval began after which the browser is asked again.
    waiting_since: Option<Instant>,
    /// The last reply before the question that has none yet, if there is such a question.
    open_since: Option<Question>,
    /// The stalls that have ended, oldest first.
    ended: VecDeque<(Instant, Instant)>,
}

#[derive(Debug, Clone, Copy)]
struct Question {
    asked: Instant,
    /// The browser replied for the last time. It may have stalled since then.
    replied: Instant,
}

impl Stalls {
    /// Records that the browser will be asked in a [`PERIOD`].
    pub(crate) fn wait(&self, now: Instant) {
        self.lock().waiting_since = Some(now);
    }

    /// Records that the period is over.
    pub(crate) fn wake(&self, now: Instant) {
        let mut state = self.lock();
        if let Some(since) = state.waiting_since.take()
            && now.duration_since(since) > PERIOD + STALLED
        {
            state.remember(since, now);
        }
    }

    /// Records that the browser was asked. It last replied at `replied`.
    pub(crate) fn ask(&self, replied: Instant, asked: Instant) {
        let mut state = self.lock();
        // Nothing is counted twice.
        let known = state.ended.back().map_or(replied, |(_, to)| *to);
        let replied = replied.max(known);
        state.open_since = Some(Question { asked, replied });
    }

    /// Records the reply.
    pub(crate) fn reply(&self, now: Instant) {
        let mut state = self.lock();
        if let Some(question) = state.open_since.take()
            && now.duration_since(question.asked) > STALLED
        {
            state.remember(question.replied, now);
        }
    }

    /// For how long the browser or the worker was stalled between two times.
    pub(crate) fn between(&self, start: Instant, end: Instant) -> Duration {
        let state = self.lock();
        let open = state
            .open_since
            .filter(|question| end.saturating_duration_since(question.asked) > STALLED)
            .map(|question| (question.replied, end));
        let late = state
            .waiting_since
            .filter(|since| end.saturating_duration_since(*since) > PERIOD + STALLED)
            .map(|since| (since, end));
        let stalls = state.ended.iter().copied().chain(open).chain(late);
        stalls
            .map(|(from, to)| to.min(end).saturating_duration_since(from.max(start)))
            .sum()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No panic can leave the state half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn remember(&mut self, from: Instant, to: Instant) {
        if self.ended.len() == REMEMBERED {
            self.ended.pop_front();
        }
        self.ended.push_back((from, to));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_stalls_within_the_time_count() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let stalls = Stalls::default();
        let between = |from, to| stalls.between(at(from), at(to)).as_millis();
        // A quick reply is no stall.
        stalls.ask(at(0), at(100));
        assert_eq!(between(0, 150), 0);
        stalls.reply(at(110));
        assert_eq!(between(0, 1000), 0);
        // A stall may have begun right after the last reply.
        stalls.ask(at(110), at(200));
        assert_eq!(between(0, 251), 141);
        stalls.reply(at(700));
        assert_eq!(between(0, 1000), 590);
        assert_eq!(between(300, 400), 100);
        assert_eq!(between(700, 1000), 0);
        stalls.ask(at(700), at(800));
        assert_eq!(between(600, 1000), 400);
    }

    #[test]
    fn a_worker_that_asks_late_was_stalled_itself() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let stalls = Stalls::default();
        let between = |from, to| stalls.between(at(from), at(to)).as_millis();
        stalls.wait(at(0));
        assert_eq!(between(0, 75), 0);
        // Whoever asks before the browser is asked again knows it as well.
        assert_eq!(between(10, 2000), 1990);
        stalls.wake(at(2010));
        assert_eq!(between(10, 3000), 2000);
        stalls.ask(at(0), at(2010));
        stalls.reply(at(2100));
        assert_eq!(between(0, 3000), 2100);
        stalls.wait(at(2100));
        stalls.wake(at(2130));
        assert_eq!(between(2100, 3000), 0);
    }

    #[test]
    fn the_oldest_stalls_are_forgotten() {
        let start = Instant::now();
        let stalls = Stalls::default();
        for n in 0..1000 {
            stalls.ask(start + n * STALLED * 3, start + n * STALLED * 3);
            stalls.reply(start + n * STALLED * 3 + STALLED * 2);
        }
        assert_eq!(stalls.lock().ended.len(), REMEMBERED);
    }
}
