//! A circuit breaker: probes Redis, so that requests are refused at once while it is unavailable
//! instead of each waiting for a timeout. It also measures the memory of Redis.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use shared::queue::{Memory, Queue};
use shared::service::lifecycle::Lifecycle;
use tokio::time::Instant;

use crate::admission::RequestKind;

/// The pause between two probes.
const PROBE_EVERY: Duration = Duration::from_millis(100);

/// How long a probe may take. Redis normally answers in well under a millisecond.
const PROBE_TIMEOUT: Duration = Duration::from_millis(400);

/// How long all probes must fail before the breaker opens. A broken connection is replaced sooner.
const OPEN_AFTER: Duration = Duration::from_millis(500);

/// One probe of this many also measures the memory: often enough that what arrives in between, at
/// the speed of a network, fits into the part of the memory that is left to requests in progress.
const MEMORY_EVERY: u32 = 2;

/// Above this part of the memory of Redis, in percent, loads are refused: what they store stays.
const NO_LOADS_ABOVE: u64 = 70;

/// Above this part calls are refused as well. At the limit Redis would refuse replies, so the rest
/// is left to requests in progress and to unloads.
const NO_CALLS_ABOVE: u64 = 80;

/// Whether the queue takes requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum QueueState {
    /// It answers.
    Available(MemoryPressure),
    /// It does not answer.
    Unavailable,
}

impl QueueState {
    /// Whether requests of this kind are refused.
    pub(crate) fn refuses(self, kind: RequestKind) -> bool {
        match self {
            Self::Available(pressure) => pressure.refuses(kind),
            Self::Unavailable => true,
        }
    }
}

/// Which requests are refused because the memory of Redis is nearly full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MemoryPressure {
    /// None.
    None,
    /// Loads.
    Loads,
    /// Loads and calls.
    Calls,
}

impl MemoryPressure {
    fn of(memory: Memory) -> Self {
        let percent = memory.percent();
        if percent > NO_CALLS_ABOVE {
            Self::Calls
        } else if percent > NO_LOADS_ABOVE {
            Self::Loads
        } else {
            Self::None
        }
    }

    /// Whether requests of this kind are refused.
    pub(crate) fn refuses(self, kind: RequestKind) -> bool {
        match kind {
            RequestKind::Load => self != Self::None,
            RequestKind::Call => self == Self::Calls,
            RequestKind::Unload => false,
        }
    }
}

/// What the last probes found; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Breaker(Arc<Found>);

#[derive(Debug)]
struct Found {
    answers: AtomicBool,
    used: AtomicU64,
    limit: AtomicU64,
    executables: AtomicU64,
}

impl Default for Breaker {
    fn default() -> Self {
        Self(Arc::new(Found {
            answers: AtomicBool::new(true),
            used: AtomicU64::new(0),
            limit: AtomicU64::new(0),
            executables: AtomicU64::new(0),
        }))
    }
}

impl Breaker {
    pub(crate) fn state(&self) -> QueueState {
        if self.0.answers.load(Ordering::Relaxed) {
            QueueState::Available(MemoryPressure::of(self.memory()))
        } else {
            QueueState::Unavailable
        }
    }

    /// The memory of Redis, as it was measured last.
    pub(crate) fn memory(&self) -> Memory {
        Memory {
            used: self.0.used.load(Ordering::Relaxed),
            limit: self.0.limit.load(Ordering::Relaxed),
        }
    }

    /// The bytes of all executables in Redis, as they were read last.
    pub(crate) fn executables(&self) -> u64 {
        self.0.executables.load(Ordering::Relaxed)
    }

    /// Stores a measurement.
    pub(crate) fn found(&self, memory: Memory) {
        self.0.used.store(memory.used, Ordering::Relaxed);
        self.0.limit.store(memory.limit, Ordering::Relaxed);
    }

    /// Probes Redis until the process stops.
    pub(crate) async fn run(self, queue: Queue, life: Lifecycle) {
        let (mut answered_at, mut probes) = (Instant::now(), 0_u32);
        let mut before = self.state();
        loop {
            tokio::select! {
                () = tokio::time::sleep(PROBE_EVERY) => {}
                () = life.stopping() => return,
            }
            let measure = probes.is_multiple_of(MEMORY_EVERY);
            probes = probes.wrapping_add(1);
            let probe = async {
                if measure {
                    self.found(queue.memory().await?);
                    let executables = queue.executable_bytes().await?;
                    self.0.executables.store(executables, Ordering::Relaxed);
                    return Ok(());
                }
                queue.ping().await
            };
            let answered = matches!(tokio::time::timeout(PROBE_TIMEOUT, probe).await, Ok(Ok(())));
            if answered {
                answered_at = Instant::now();
            }
            let answers = answered || answered_at.elapsed() < OPEN_AFTER;
            if answered || !answers {
                self.0.answers.store(answers, Ordering::Relaxed);
            }
            let state = self.state();
            if state != before {
                let Memory { used, limit } = self.memory();
                let (answers, refuses_loads) = (
                    state != QueueState::Unavailable,
                    state.refuses(RequestKind::Load),
                );
                let refuses_calls = state.refuses(RequestKind::Call);
                tracing::warn!(
                    answers,
                    refuses_loads,
                    refuses_calls,
                    used,
                    limit,
                    "queue state changed"
                );
                before = state;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_limit_memory_is_never_short() {
        let breaker = Breaker::default();
        breaker.found(Memory {
            used: u64::MAX,
            limit: 0,
        });
        let state = breaker.state();
        assert_eq!(state, QueueState::Available(MemoryPressure::None));
    }
}
