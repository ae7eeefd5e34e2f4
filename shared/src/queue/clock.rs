//! The clock of Redis. Deadlines are compared across machines, so every process uses this one
//! clock.
//!
//! Between two readings this machine's [`Moment`] counts on: unlike the time of day, nobody sets
//! it, and unlike `Instant`, it does not stand still while the machine is paused.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use super::QueueError;
use crate::service::moment::Moment;

/// The time of Redis, stored as an offset to the time since this machine started. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Clock {
    offset_ms: Arc<AtomicI64>,
}

impl Clock {
    /// Milliseconds since the epoch by the clock of Redis.
    pub fn now_ms(&self) -> u64 {
        host_ms().saturating_add_signed(self.offset_ms.load(Ordering::Relaxed))
    }

    /// The moment `span` from now.
    pub fn after(&self, span: Duration) -> u64 {
        self.now_ms() + u64::try_from(span.as_millis()).unwrap_or(u64::MAX / 2)
    }

    /// The time left until `moment`. Zero if it has passed.
    pub fn until(&self, moment: u64) -> Duration {
        Duration::from_millis(moment.saturating_sub(self.now_ms()))
    }

    /// The time since `moment`. Zero if it is in the future.
    pub fn since(&self, moment: u64) -> Duration {
        Duration::from_millis(self.now_ms().saturating_sub(moment))
    }

    /// Sets the clock from a reply of `TIME`. It is off by half a round trip at most, which is
    /// harmless: deadlines are seconds.
    pub(super) fn set(&self, (seconds, micros): (u64, u64)) {
        let redis_ms = seconds * 1000 + micros / 1000;
        let offset = i128::from(redis_ms) - i128::from(host_ms());
        self.offset_ms
            .store(i64::try_from(offset).unwrap_or_default(), Ordering::Relaxed);
    }

    pub(super) async fn synchronise(
        &self,
        connection: &mut impl redis::aio::ConnectionLike,
    ) -> Result<(), QueueError> {
        self.set(redis::cmd("TIME").query_async(connection).await?);
        Ok(())
    }
}

fn host_ms() -> u64 {
    u64::try_from(Moment::now().since_boot().as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_offset_is_applied() {
        let clock = Clock::default();
        clock.set((host_ms() / 1000 + 3600, 0));
        let ahead = clock.now_ms() - host_ms();
        assert!((3_598_000..=3_601_000).contains(&ahead), "{ahead}");
        assert_eq!(clock.until(clock.now_ms() - 5), Duration::ZERO);
    }
}
