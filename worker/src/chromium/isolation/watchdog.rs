//! The watchdog of one browser: what its pages compute while they are idle, and how much memory the
//! browser's own process holds for them.
//!
//! Neither can be limited where it happens. A page may go on after its reply, in timers or in the
//! engine's own threads. Large strings and blobs live in the browser's process, where the limits of
//! their page do not apply. So both are measured twice a second, from outside, and a page that is
//! over its limit is declared dead. `crate::contracts` decides what happens to its contract then.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chromiumoxide_cdp::cdp::browser_protocol::target::TargetId;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::chromium::browser::death_watch::DeathWatch;
use crate::chromium::process::proc::{CpuTimes, Process};

/// The time between two measurements.
const ROUND: Duration = Duration::from_millis(500);
/// An idle page may permanently use one core divided by this.
const IDLE_SHARE: u32 = 20;
/// While a call runs, the engine's helper threads compute as well: up to this many cores together.
const CORES_PER_CALL: u32 = 2;
/// How many rounds the browser has to free memory after a page was closed.
const ROUNDS_AFTER_CLOSE: u32 = 4;

/// The limits that the watchdog enforces.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WatchdogLimits {
    /// The processor time that an idle page may use at once.
    pub(crate) idle_cpu: Duration,
    /// The memory that the browser's own process may hold. At one and a half times as much the
    /// browser is restarted.
    pub(crate) browser_bytes: u64,
}

/// For how long a page has had calls in flight. Written by its calls, read by the watchdog.
#[derive(Debug)]
pub(crate) struct Activity(Mutex<BusyTime>);

#[derive(Debug)]
struct BusyTime {
    /// The start of the current busy period; none while the page is idle.
    since: Option<Instant>,
    /// The sum of the earlier busy periods.
    before: Duration,
}

impl Activity {
    /// Starts busy: a page that is being loaded computes.
    pub(crate) fn begin() -> Arc<Self> {
        let since = Some(Instant::now());
        Arc::new(Self(Mutex::new(BusyTime {
            since,
            before: Duration::ZERO,
        })))
    }

    /// Records whether calls are in flight.
    pub(crate) fn set(&self, busy: bool) {
        locked(&self.0).set(busy, Instant::now());
    }

    fn is_busy(&self) -> bool {
        locked(&self.0).since.is_some()
    }

    fn total(&self) -> Duration {
        locked(&self.0).total(Instant::now())
    }
}

impl BusyTime {
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

/// A page that is measured.
#[derive(Debug)]
struct WatchedPage {
    renderers: HashSet<Process>,
    activity: Arc<Activity>,
    /// Processor time at the last measurement.
    cpu: Duration,
    /// Busy time at the last measurement.
    busy: Duration,
    /// Processor time used in the last round, idle or not.
    recent: Duration,
    excess: ExcessCpu,
}

/// The processor time that a page has used while it was idle, beyond the share that it may use.
#[derive(Debug, Default)]
struct ExcessCpu(Duration);

impl ExcessCpu {
    /// Adds a round of length `span` in which the page computed for `cpu` and had calls for `busy`.
    fn add(&mut self, span: Duration, cpu: Duration, busy: Duration) -> Duration {
        let idle = cpu.saturating_sub(busy * CORES_PER_CALL);
        self.0 = (self.0 + idle).saturating_sub(span / IDLE_SHARE);
        self.0
    }
}

impl WatchedPage {
    /// Measures the page; returns its excess processor time.
    fn measure(&mut self, span: Duration) -> Duration {
        let cpu: Duration = self.renderers.iter().map(|renderer| renderer.cpu()).sum();
        let busy = self.activity.total();
        self.recent = cpu.saturating_sub(self.cpu);
        let excess = self
            .excess
            .add(span, self.recent, busy.saturating_sub(self.busy));
        (self.cpu, self.busy) = (cpu, busy);
        excess
    }
}

/// The pages of one browser that are measured.
#[derive(Debug, Default)]
pub(crate) struct WatchedPages(Mutex<HashMap<TargetId, WatchedPage>>);

impl WatchedPages {
    /// Starts measuring a page.
    pub(crate) fn add(
        &self,
        target: TargetId,
        renderers: HashSet<Process>,
        activity: Arc<Activity>,
    ) {
        let page = WatchedPage {
            cpu: renderers.iter().map(|renderer| renderer.cpu()).sum(),
            busy: activity.total(),
            renderers,
            activity,
            recent: Duration::ZERO,
            excess: ExcessCpu::default(),
        };
        locked(&self.0).insert(target, page);
    }

    /// Stops measuring a page; returns the renderers that it may live in.
    pub(crate) fn remove(&self, target: &TargetId) -> Option<HashSet<Process>> {
        let page = locked(&self.0).remove(target)?;
        Some(page.renderers)
    }

    /// Whether any page has calls in flight.
    pub(crate) fn is_any_busy(&self) -> bool {
        let pages = locked(&self.0);
        pages.values().any(|page| page.activity.is_busy())
    }

    /// The processor time that each page has used so far.
    pub(crate) fn cpu_times(&self) -> HashMap<TargetId, CpuTimes> {
        let pages = locked(&self.0);
        let times = pages.iter().map(|(target, page)| {
            let times = page.renderers.iter().map(|renderer| renderer.times());
            (
                target.clone(),
                times.fold(CpuTimes::default(), CpuTimes::plus),
            )
        });
        times.collect()
    }

    /// Measures every page; returns those whose excess is above the limit.
    fn measure(&self, span: Duration, limit: Duration) -> Vec<TargetId> {
        let mut pages = locked(&self.0);
        let over = pages
            .iter_mut()
            .filter_map(|(target, page)| (page.measure(span) > limit).then_some(target));
        over.cloned().collect()
    }

    /// The page that computed most in the last round. A page that fills the browser has to compute.
    fn busiest(&self) -> Option<TargetId> {
        let pages = locked(&self.0);
        let busiest = pages.iter().max_by_key(|(_, page)| page.recent)?;
        Some(busiest.0.clone())
    }
}

/// The watchdog of one browser.
#[derive(Debug)]
pub(crate) struct Watchdog {
    pub(crate) pages: Arc<WatchedPages>,
    pub(crate) deaths: Arc<DeathWatch>,
    /// The browser's own process, if it is known.
    pub(crate) process: Option<Process>,
    pub(crate) limits: WatchdogLimits,
}

impl Watchdog {
    /// Measures until the browser must be restarted.
    pub(crate) async fn run(self) {
        let mut rounds = interval(ROUND);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last = Instant::now();
        let mut memory = MemoryPressure::new(self.limits.browser_bytes);
        loop {
            rounds.tick().await;
            let span = last.elapsed();
            last = Instant::now();
            for target in self.pages.measure(span, self.limits.idle_cpu) {
                self.declare_dead(&target, "it used too much processor time while idle");
            }
            let held = self.process.map_or(0, Process::own_memory);
            match memory.update(held) {
                MemoryAction::None => {}
                MemoryAction::ClosePage => {
                    if let Some(target) = self.pages.busiest() {
                        let reason =
                            "its browser held too much memory, and it was the busiest page";
                        self.declare_dead(&target, reason);
                    }
                }
                MemoryAction::RestartBrowser => {
                    tracing::warn!(held, "browser holds too much memory; restarting it");
                    return;
                }
            }
        }
    }

    fn declare_dead(&self, target: &TargetId, reason: &str) {
        self.pages.remove(target);
        self.deaths.announce(target, reason.to_owned());
    }
}

/// What the browser holds, over time. Freed memory may stay with the browser's allocator, which is
/// no page's fault. So after a page was closed, only further growth closes another one.
#[derive(Debug)]
struct MemoryPressure {
    limit: u64,
    /// Above this a page is closed.
    threshold: u64,
    /// Rounds until the next page may be closed.
    pause: u32,
}

#[derive(Debug, PartialEq, Eq)]
enum MemoryAction {
    None,
    /// The busiest page is closed.
    ClosePage,
    /// The browser ends, with all its pages.
    RestartBrowser,
}

impl MemoryPressure {
    fn new(limit: u64) -> Self {
        Self {
            limit,
            threshold: limit,
            pause: 0,
        }
    }

    /// Records a measurement, in bytes; says what to do about it.
    fn update(&mut self, held: u64) -> MemoryAction {
        if held > self.limit + self.limit / 2 {
            return MemoryAction::RestartBrowser;
        }
        if self.pause > 0 {
            self.pause -= 1;
            self.threshold = self.limit.max(held + self.limit / 8);
            return MemoryAction::None;
        }
        if held > self.threshold {
            self.pause = ROUNDS_AFTER_CLOSE;
            return MemoryAction::ClosePage;
        }
        self.threshold = self.threshold.min(self.limit.max(held + self.limit / 8));
        MemoryAction::None
    }
}

/// No panic can leave what the mutex protects half changed.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn processor_time_during_calls_is_no_excess() {
        let mut excess = ExcessCpu::default();
        assert_eq!(excess.add(SECOND, SECOND, SECOND), Duration::ZERO);
        assert_eq!(excess.add(SECOND, SECOND * 2, SECOND), Duration::ZERO);
    }

    #[test]
    fn idle_processor_time_adds_up_and_decays_slowly() {
        let mut excess = ExcessCpu::default();
        let half = SECOND / 2;
        assert_eq!(
            excess.add(SECOND, half, Duration::ZERO),
            Duration::from_millis(450)
        );
        assert_eq!(
            excess.add(SECOND, half, Duration::ZERO),
            Duration::from_millis(900)
        );
        for _ in 0..20 {
            excess.add(SECOND, Duration::ZERO, Duration::ZERO);
        }
        assert_eq!(excess.0, Duration::ZERO);
        // The permanently allowed share never adds up.
        for _ in 0..100 {
            assert_eq!(
                excess.add(SECOND, SECOND / 20, Duration::ZERO),
                Duration::ZERO
            );
        }
    }

    #[test]
    fn memory_that_the_browser_keeps_after_a_close_closes_no_other_page() {
        let mut memory = MemoryPressure::new(800);
        assert_eq!(memory.update(800), MemoryAction::None);
        assert_eq!(memory.update(900), MemoryAction::ClosePage);
        for _ in 0..100 {
            assert_eq!(memory.update(900), MemoryAction::None);
        }
        assert_eq!(memory.update(1001), MemoryAction::ClosePage);
        for _ in 0..=ROUNDS_AFTER_CLOSE {
            assert_eq!(memory.update(300), MemoryAction::None);
        }
        assert_eq!(memory.update(801), MemoryAction::ClosePage);
        assert_eq!(memory.update(1201), MemoryAction::RestartBrowser);
    }

    #[test]
    fn busy_time_is_counted_while_it_lasts() {
        let start = Instant::now();
        let mut time = BusyTime {
            since: Some(start),
            before: Duration::ZERO,
        };
        assert_eq!(time.total(start + SECOND), SECOND);
        time.set(false, start + SECOND);
        assert_eq!(time.total(start + SECOND * 2), SECOND);
        time.set(true, start + SECOND * 2);
        time.set(true, start + SECOND * 3);
        assert_eq!(time.total(start + SECOND * 4), SECOND * 3);
    }
}
