//! How used this worker is, compared with the other workers of its farm. The least used ones wait
//! for the next loads; the others look only for what none of those has taken. So a new worker takes
//! the next contracts, and a machine that computes all the time gets fewer.

use std::fs;
use std::thread::available_parallelism;
use std::time::Duration;

use shared::protocol::job::EngineKind;
use tokio::time::Instant;

use crate::worker::Worker;

/// How much more used than the least used one a worker may be that waits for loads: a tenth of its
/// capacity, or of its machine's processors.
const MARGIN: f64 = 0.1;

/// How long a comparison is valid.
const VALID: Duration = Duration::from_secs(1);

/// Where a worker stands among the others, for one engine, as last compared.
#[derive(Debug)]
pub(crate) struct Rank {
    engine: EngineKind,
    made: Option<Instant>,
    is_behind: bool,
}

impl Rank {
    pub(crate) fn new(engine: EngineKind) -> Self {
        Self {
            engine,
            made: None,
            is_behind: false,
        }
    }

    /// Whether other workers are clearly less used. False if Redis cannot tell.
    pub(crate) async fn is_behind(&mut self, worker: &Worker) -> bool {
        if self.made.is_none_or(|made| made.elapsed() >= VALID) {
            self.made = Some(Instant::now());
            self.is_behind = self.compare(worker).await;
        }
        self.is_behind
    }

    async fn compare(&self, worker: &Worker) -> bool {
        let own = used_capacity(worker) + machine_load();
        let queue = &worker.queue;
        match queue.compare_usage(self.engine, worker.id(), own).await {
            Ok(least) => own > least + MARGIN,
            Err(error) => {
                tracing::debug!(%error, "usage of workers not compared");
                false
            }
        }
    }
}

/// The share of its capacity that a worker uses, 0 to 1.
#[expect(
    clippy::cast_precision_loss,
    reason = "a capacity has far fewer than 53 bits"
)]
fn used_capacity(worker: &Worker) -> f64 {
    let contracts = &worker.contracts;
    contracts.len() as f64 / contracts.capacity().max(1) as f64
}

/// How busy the processors of this machine were in the last minute, 0 to 1. The kernel's average is
/// the same for every worker of a machine.
fn machine_load() -> f64 {
    let average = fs::read_to_string("/proc/loadavg").ok();
    let average = average.and_then(|text| text.split(' ').next()?.parse::<f64>().ok());
    let processors = available_parallelism().map_or(1, usize::from);
    let processors = u32::try_from(processors).unwrap_or(u32::MAX);
    (average.unwrap_or_default() / f64::from(processors)).clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::machine_load;

    #[test]
    fn the_load_of_the_machine_is_a_share() {
        assert!((0.0..=1.0).contains(&machine_load()));
    }
}
