//! The latencies of many calls.

use std::time::Duration;

/// Latencies of calls, shortest first.
pub(crate) struct Latencies(Vec<Duration>);

impl Latencies {
    pub(crate) fn new(mut times: Vec<Duration>) -> Self {
        assert!(!times.is_empty(), "nothing was called");
        times.sort_unstable();
        Self(times)
    }

    /// The time in milliseconds within which all but one in `rare` calls were answered: 2 gives the
    /// median, 100 the p99.
    pub(crate) fn all_but_one_in(&self, rare: usize) -> f64 {
        let index = self.0.len() - 1 - (self.0.len() - 1) / rare;
        self.0[index].as_secs_f64() * 1e3
    }

    /// The highest latency, in milliseconds.
    pub(crate) fn max(&self) -> f64 {
        self.0.last().expect("there are some").as_secs_f64() * 1e3
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }
}
