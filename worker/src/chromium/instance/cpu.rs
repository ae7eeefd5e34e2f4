//! Shares the processor time of a page among the calls that run in it.
//!
//! Only the renderer as a whole is measured: when calls start, and at each reply. What it used in
//! between is shared equally among the calls that ran. So a call that runs alone gets its own
//! processor time exactly, and calls that run together get their sum.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::Instant;

use crate::chromium::process::proc::Process;
use crate::sandbox::CallTime;

/// Measures the calls of one page.
pub(super) struct CpuMeter {
    /// None if the page may live in one of several renderers.
    renderer: Option<Process>,
    /// The renderer's processor time at the last measurement; none if it could not be read.
    last: Option<Duration>,
    /// What a call that had run all the time would have got.
    shared: Duration,
}

/// A point in time, and what the meter showed then.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mark {
    pub(super) at: Instant,
    cpu: Option<Duration>,
}

impl CpuMeter {
    pub(super) fn new(renderers: &HashSet<Process>) -> Self {
        let mut all = renderers.iter().copied();
        Self {
            renderer: all.next().filter(|_| all.next().is_none()),
            last: None,
            shared: Duration::ZERO,
        }
    }

    /// Starts to measure. What the page has used while it had no calls is nobody's.
    pub(super) fn start(&mut self) {
        self.last = self.read();
    }

    /// Shares what was used since the last measurement among the calls that ran: so many.
    pub(super) fn share(&mut self, calls: usize) {
        let now = self.read();
        if let (Some(last), Some(now)) = (self.last, now) {
            let calls = u32::try_from(calls).unwrap_or(u32::MAX);
            self.shared += now
                .saturating_sub(last)
                .checked_div(calls)
                .unwrap_or_default();
        }
        self.last = now;
    }

    /// What the meter shows, at this time.
    pub(super) fn mark(&self, at: Instant) -> Mark {
        let cpu = self.last.map(|_| self.shared);
        Mark { at, cpu }
    }

    fn read(&self) -> Option<Duration> {
        self.renderer?.exact_cpu()
    }
}

impl Mark {
    /// What a call took that started at this mark and ended at a later one.
    pub(super) fn until(self, end: Self) -> CallTime {
        CallTime {
            elapsed: end.at.duration_since(self.at),
            cpu: end
                .cpu
                .zip(self.cpu)
                .map(|(end, start)| end.saturating_sub(start)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A meter of this process.
    fn meter() -> CpuMeter {
        let this = Process::find(nix::unistd::getpid()).unwrap();
        CpuMeter::new(&HashSet::from([this]))
    }

    fn compute(meter: &CpuMeter, time: Duration) {
        let end = meter.read().unwrap() + time;
        while meter.read().unwrap() < end {}
    }

    #[test]
    fn calls_share_what_was_used_while_they_ran() {
        const USED: Duration = Duration::from_millis(20);
        let mut meter = meter();
        let now = Instant::now();
        compute(&meter, USED);
        meter.start();
        let start = meter.mark(now);
        compute(&meter, USED);
        meter.share(4);
        let middle = meter.mark(now);
        compute(&meter, USED);
        meter.share(1);
        let end = meter.mark(now);
        let cpu = |from: Mark, to| from.until(to).cpu.unwrap();
        // Other tests compute in this process, too.
        assert!(cpu(start, middle) >= USED / 4);
        assert!(cpu(middle, end) >= USED);
        let (all, parts) = (cpu(start, end), cpu(start, middle) + cpu(middle, end));
        assert_eq!(all, parts);
    }

    #[test]
    fn nothing_is_known_of_a_page_with_several_renderers() {
        let mut meter = CpuMeter::new(&HashSet::new());
        meter.start();
        let start = meter.mark(Instant::now());
        meter.share(1);
        assert_eq!(start.until(meter.mark(Instant::now())).cpu, None);
    }
}
