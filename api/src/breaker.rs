//! Watches Redis, so that a request need not find out for itself, slowly, that it is in trouble.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use shared::queue::Queue;
use shared::service::lifecycle::Lifecycle;
use tokio::time::Instant;

/// How often Redis is asked, and how long it may take to answer: it answers in well under a
/// millisecond.
const ASK_EVERY: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_millis(400);

/// How long no answer must have come: a connection that broke is back before.
const SILENCE: Duration = Duration::from_millis(500);

/// How many questions lie between two looks at the memory.
const MEMORY_EVERY: u32 = 10;

/// What the queue can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum State {
    /// It takes requests.
    Closed,
    /// It does not answer.
    Open,
    /// It answers, but is short of memory.
    Short,
}

/// The state, as it was found last; cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Breaker(Arc<AtomicU8>);

impl Breaker {
    pub(crate) fn state(&self) -> State {
        match self.0.load(Ordering::Relaxed) {
            0 => State::Closed,
            1 => State::Open,
            _ => State::Short,
        }
    }

    fn enter(&self, state: State) {
        let before = self.0.swap(state as u8, Ordering::Relaxed);
        if before != state as u8 {
            tracing::warn!(?state, "the queue's breaker");
        }
    }

    /// Watches until the process stops.
    pub(crate) async fn watch(self, queue: Queue, life: Lifecycle) {
        let (mut answered_at, mut asked, mut short) = (Instant::now(), 0_u32, false);
        loop {
            tokio::select! {
                () = tokio::time::sleep(ASK_EVERY) => {}
                () = life.stopping() => return,
            }
            let look_at_memory = asked.is_multiple_of(MEMORY_EVERY);
            asked = asked.wrapping_add(1);
            let question = async {
                if look_at_memory {
                    short = queue.memory().await?.is_short();
                    return Ok(());
                }
                queue.ping().await
            };
            let answered = matches!(tokio::time::timeout(PATIENCE, question).await, Ok(Ok(())));
            if answered {
                answered_at = Instant::now();
                self.enter(if short { State::Short } else { State::Closed });
            } else if answered_at.elapsed() >= SILENCE {
                self.enter(State::Open);
            }
        }
    }
}
