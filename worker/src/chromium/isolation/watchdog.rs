//! The watch over one browser: what its pages compute while nobody calls them, and what they make
//! the browser itself hold.
//!
//! Neither can be bounded where it happens. A page may go on after its answer, in timers or in the
//! engine's own threads; large strings and blobs live in the browser's process, where their page's
//! limits do not reach. So both are looked at twice a second, from outside, and whoever is over its
//! limit loses its page. What becomes of a contract then is the business of `crate::contracts`.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chromiumoxide::cdp::browser_protocol::target::TargetId;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::chromium::browser::Browser;
use crate::chromium::process::proc::Process;

/// How often the watch looks.
const ROUND: Duration = Duration::from_millis(500);
/// An idle page may use one part in so many of a core for good.
const IDLE_SHARE: u32 = 20;
/// The engine's helpers compute beside a call that runs.
const HELPERS: u32 = 2;
/// Rounds that the browser has to give memory back after a page was closed.
const RELIEF: u32 = 4;

/// What the watch allows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Allowance {
    /// What an idle page may compute at once.
    pub(crate) idle_cpu: Duration,
    /// What the browser's own process may hold. At half as much again the browser is given up.
    pub(crate) browser_bytes: u64,
}

/// For how long a page had calls under way: written by its calls, read by the watch.
#[derive(Debug)]
pub(crate) struct Activity(Mutex<Times>);

#[derive(Debug)]
struct Times {
    since: Option<Instant>,
    before: Duration,
}

impl Activity {
    /// A page that is being made is busy.
    pub(crate) fn begin() -> Arc<Self> {
        let since = Some(Instant::now());
        Arc::new(Self(Mutex::new(Times {
            since,
            before: Duration::ZERO,
        })))
    }

    /// Notes whether calls are under way.
    pub(crate) fn set(&self, busy: bool) {
        locked(&self.0).set(busy, Instant::now());
    }

    fn total(&self) -> Duration {
        locked(&self.0).total(Instant::now())
    }
}

impl Times {
    fn set(&mut self, busy: bool, now: Instant) {
        if busy == self.since.is_some() {
            return;
        }
        match self.since.take() {
            Some(since) => self.before += now - since,
            None => self.since = Some(now),
        }
    }

    fn total(&self, now: Instant) -> Duration {
        self.before + self.since.map_or(Duration::ZERO, |since| now - since)
    }
}

/// A page under watch.
#[derive(Debug)]
struct Subject {
    renderers: HashSet<Process>,
    activity: Arc<Activity>,
    /// At the last look.
    cpu: Duration,
    busy: Duration,
    /// Computed in the last round, called or not.
    recent: Duration,
    debt: Debt,
}

/// What a page has computed while it was idle, less what it may.
#[derive(Debug, Default)]
struct Debt(Duration);

impl Debt {
    /// Adds a round of `span`, in which a page computed for `cpu` and was called for `busy`.
    fn add(&mut self, span: Duration, cpu: Duration, busy: Duration) -> Duration {
        let idle = cpu.saturating_sub(busy * HELPERS);
        self.0 = (self.0 + idle).saturating_sub(span / IDLE_SHARE);
        self.0
    }
}

impl Subject {
    fn look(&mut self, span: Duration) -> Duration {
        let cpu: Duration = self.renderers.iter().map(|renderer| renderer.cpu()).sum();
        let busy = self.activity.total();
        self.recent = cpu.saturating_sub(self.cpu);
        let debt = self
            .debt
            .add(span, self.recent, busy.saturating_sub(self.busy));
        (self.cpu, self.busy) = (cpu, busy);
        debt
    }
}

/// The pages of one browser that are watched.
#[derive(Debug, Default)]
pub(crate) struct Subjects(Mutex<HashMap<TargetId, Subject>>);

impl Subjects {
    /// Begins to watch a page.
    pub(crate) fn add(
        &self,
        target: TargetId,
        renderers: HashSet<Process>,
        activity: Arc<Activity>,
    ) {
        let subject = Subject {
            cpu: renderers.iter().map(|renderer| renderer.cpu()).sum(),
            busy: activity.total(),
            renderers,
            activity,
            recent: Duration::ZERO,
            debt: Debt::default(),
        };
        locked(&self.0).insert(target, subject);
    }

    /// Watches a page no longer.
    pub(crate) fn remove(&self, target: &TargetId) {
        locked(&self.0).remove(target);
    }

    /// Looks at every page; gives those that computed too much while nobody called them.
    fn look(&self, span: Duration, allowance: Duration) -> Vec<TargetId> {
        let mut subjects = locked(&self.0);
        let over = subjects
            .iter_mut()
            .filter_map(|(target, subject)| (subject.look(span) > allowance).then_some(target));
        over.cloned().collect()
    }

    /// The page that did most of late: whoever fills the browser has work to do.
    fn busiest(&self) -> Option<TargetId> {
        let subjects = locked(&self.0);
        let busiest = subjects.iter().max_by_key(|(_, subject)| subject.recent)?;
        Some(busiest.0.clone())
    }
}

/// Watches until the browser is to be given up.
pub(crate) async fn run(browser: Arc<Browser>, own: Option<Process>, allowance: Allowance) {
    let mut rounds = interval(ROUND);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = Instant::now();
    let mut pressure = Pressure::new(allowance.browser_bytes);
    loop {
        rounds.tick().await;
        let span = last.elapsed();
        last = Instant::now();
        for target in browser.subjects.look(span, allowance.idle_cpu) {
            browser.condemn(&target, "it computed while nobody called it");
        }
        let held = own.map_or(0, Process::own_memory);
        match pressure.under(held) {
            Relief::None => {}
            Relief::CloseOne => {
                if let Some(target) = browser.subjects.busiest() {
                    browser.condemn(&target, "the browser held too much memory for it");
                }
            }
            Relief::GiveUp => {
                tracing::warn!(held, "a browser holds too much memory; it is made anew");
                return;
            }
        }
    }
}

/// What the browser holds, over time. Memory that was freed may stay with the browser's allocator:
/// that is nobody's fault, so after a page was closed only further growth is.
#[derive(Debug)]
struct Pressure {
    limit: u64,
    threshold: u64,
    /// Rounds until the next look.
    rest: u32,
}

#[derive(Debug, PartialEq, Eq)]
enum Relief {
    None,
    /// The page to blame is closed.
    CloseOne,
    /// The browser ends, with all its pages.
    GiveUp,
}

impl Pressure {
    fn new(limit: u64) -> Self {
        Self {
            limit,
            threshold: limit,
            rest: 0,
        }
    }

    fn under(&mut self, held: u64) -> Relief {
        if held > self.limit + self.limit / 2 {
            return Relief::GiveUp;
        }
        if self.rest > 0 {
            self.rest -= 1;
            self.threshold = self.limit.max(held + self.limit / 8);
            return Relief::None;
        }
        if held > self.threshold {
            self.rest = RELIEF;
            return Relief::CloseOne;
        }
        self.threshold = self.threshold.min(self.limit.max(held + self.limit / 8));
        Relief::None
    }
}

/// Nothing in here can panic half-way, so a poisoned table is a whole one.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn what_is_computed_during_calls_is_no_debt() {
        let mut debt = Debt::default();
        assert_eq!(debt.add(SECOND, SECOND, SECOND), Duration::ZERO);
        assert_eq!(debt.add(SECOND, SECOND * 2, SECOND), Duration::ZERO);
    }

    #[test]
    fn what_is_computed_beside_them_adds_up_and_is_forgiven_slowly() {
        let mut debt = Debt::default();
        let half = SECOND / 2;
        assert_eq!(
            debt.add(SECOND, half, Duration::ZERO),
            Duration::from_millis(450)
        );
        assert_eq!(
            debt.add(SECOND, half, Duration::ZERO),
            Duration::from_millis(900)
        );
        for _ in 0..20 {
            debt.add(SECOND, Duration::ZERO, Duration::ZERO);
        }
        assert_eq!(debt.0, Duration::ZERO);
        // As much as is allowed for good never adds up.
        for _ in 0..100 {
            assert_eq!(
                debt.add(SECOND, SECOND / 20, Duration::ZERO),
                Duration::ZERO
            );
        }
    }

    #[test]
    fn a_browser_that_keeps_what_was_freed_costs_nobody_else_a_page() {
        let mut pressure = Pressure::new(800);
        assert_eq!(pressure.under(800), Relief::None);
        assert_eq!(pressure.under(900), Relief::CloseOne);
        for _ in 0..100 {
            assert_eq!(pressure.under(900), Relief::None);
        }
        assert_eq!(pressure.under(1001), Relief::CloseOne);
        for _ in 0..=RELIEF {
            assert_eq!(pressure.under(300), Relief::None);
        }
        assert_eq!(pressure.under(801), Relief::CloseOne);
        assert_eq!(pressure.under(1201), Relief::GiveUp);
    }

    #[test]
    fn busy_is_counted_while_it_lasts() {
        let start = Instant::now();
        let mut times = Times {
            since: Some(start),
            before: Duration::ZERO,
        };
        assert_eq!(times.total(start + SECOND), SECOND);
        times.set(false, start + SECOND);
        assert_eq!(times.total(start + SECOND * 2), SECOND);
        times.set(true, start + SECOND * 2);
        times.set(true, start + SECOND * 3);
        assert_eq!(times.total(start + SECOND * 4), SECOND * 3);
    }
}
