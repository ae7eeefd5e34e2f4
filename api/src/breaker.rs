//! A circuit breaker: probes Redis, so that requests are refused at once while it is unavailable
//! instead of each waiting for a timeout.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use shared::queue::Queue;
use shared::service::lifecycle::Lifecycle;
use tokio::time::Instant;

/// The pause between two probes.
const PROBE_EVERY: Duration = Duration::from_millis(100);

/// How long a probe may take. Redis normally answers in well under a millisecond.
const PROBE_TIMEOUT: Duration = Duration::from_millis(400);

/// How long all probes must fail before the breaker opens. A broken connection is replaced sooner.
const OPEN_AFTER: Duration = Duration::from_millis(500);

/// One probe of this many also checks the memory.
const MEMORY_EVERY: u32 = 10;

/// Whether the queue takes requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum QueueState {
    /// It takes requests.
    Available,
    /// It does not answer.
    Unavailable,
    /// It answers, but is low on memory.
    LowMemory,
}

/// The state that the last probe found; cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Breaker(Arc<AtomicU8>);

impl Breaker {
    pub(crate) fn state(&self) -> QueueState {
        match self.0.load(Ordering::Relaxed) {
            0 => QueueState::Available,
            1 => QueueState::Unavailable,
            _ => QueueState::LowMemory,
        }
    }

    fn enter(&self, state: QueueState) {
        let before = self.0.swap(state as u8, Ordering::Relaxed);
        if before != state as u8 {
            tracing::warn!(?state, "queue state changed");
        }
    }

    /// Probes Redis until the process stops.
    pub(crate) async fn run(self, queue: Queue, life: Lifecycle) {
        let (mut answered_at, mut probes, mut low_memory) = (Instant::now(), 0_u32, false);
        loop {
            tokio::select! {
                () = tokio::time::sleep(PROBE_EVERY) => {}
                () = life.stopping() => return,
            }
            let check_memory = probes.is_multiple_of(MEMORY_EVERY);
            probes = probes.wrapping_add(1);
            let probe = async {
                if check_memory {
                    low_memory = queue.memory().await?.is_short();
                    return Ok(());
                }
                queue.ping().await
            };
            let answered = matches!(tokio::time::timeout(PROBE_TIMEOUT, probe).await, Ok(Ok(())));
            if answered {
                answered_at = Instant::now();
                self.enter(if low_memory {
                    QueueState::LowMemory
                } else {
                    QueueState::Available
                });
            } else if answered_at.elapsed() >= OPEN_AFTER {
                self.enter(QueueState::Unavailable);
            }
        }
    }
}
