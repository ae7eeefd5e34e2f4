//! The processor time of each kind of process of a farm, as /proc reports it.

use crate::support::processes::{self, ProcessInfo};

/// The kinds, in the order in which a call passes them.
pub(crate) const KINDS: [&str; 5] = ["api", "Redis", "worker", "browser", "renderers"];

/// Microseconds of a clock tick. Linux reports a hundred ticks a second on every machine.
const TICK_US: f64 = 10_000.0;

/// The processor time of this program's descendants so far. Those are the farm's processes, while
/// no other descendants are busy.
pub(crate) struct Times(Vec<(ProcessInfo, u64)>);

impl Times {
    pub(crate) fn now() -> Self {
        let own = i32::try_from(std::process::id()).expect("process ids are small");
        let seen = processes::descendants(own).into_iter();
        Self(seen.map(|seen| (seen.clone(), seen.ticks())).collect())
    }

    /// The processor time of each kind between two samples, in microseconds. Processes that started
    /// or ended between them do not count.
    pub(crate) fn until(&self, later: &Self) -> [f64; KINDS.len()] {
        KINDS.map(|kind| self.of(later, |seen| is_of(seen) == Some(kind)))
    }

    /// The same for all processes together.
    pub(crate) fn total_until(&self, later: &Self) -> f64 {
        self.of(later, |_| true)
    }

    fn of(&self, later: &Self, counts: impl Fn(&ProcessInfo) -> bool) -> f64 {
        let own = later.0.iter().filter(|(seen, _)| counts(seen));
        let since = own.filter_map(|(seen, now)| {
            let (_, before) = self.0.iter().find(|(earlier, _)| earlier.pid == seen.pid)?;
            Some(now.saturating_sub(*before))
        });
        #[expect(clippy::cast_precision_loss, reason = "there are never 2^52 of them")]
        let ticks = since.sum::<u64>() as f64;
        ticks * TICK_US
    }
}

fn is_of(seen: &ProcessInfo) -> Option<&'static str> {
    let program = seen.command.split(' ').next().unwrap_or_default();
    match program.rsplit('/').next().unwrap_or_default() {
        "execution-api" => Some("api"),
        "redis-server" => Some("Redis"),
        "execution-worker" => Some("worker"),
        _ if seen.is_browser() => Some("browser"),
        _ if seen.is_renderer() => Some("renderers"),
        _ => None,
    }
}
