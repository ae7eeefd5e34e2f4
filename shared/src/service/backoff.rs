//! Pauses between repeated attempts.

use std::time::Duration;

/// Exponential backoff with jitter. Each delay is random, between half of the current ceiling and
/// the whole. The ceiling doubles up to a limit. Jitter keeps many waiters from returning together.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    limit: Duration,
    ceiling: Duration,
}

impl Backoff {
    /// Starts at `first` and never waits longer than `limit`.
    pub fn new(first: Duration, limit: Duration) -> Self {
        Self {
            first,
            limit,
            ceiling: first,
        }
    }

    /// The next delay.
    pub fn delay(&mut self) -> Duration {
        let delay = self.ceiling.mul_f64(rand::random_range(0.5..=1.0));
        self.ceiling = (self.ceiling * 2).min(self.limit);
        delay
    }

    /// Waits for the next delay.
    pub async fn wait(&mut self) {
        tokio::time::sleep(self.delay()).await;
    }

    /// Starts again with the first delay, after a success.
    pub fn reset(&mut self) {
        self.ceiling = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_the_limit_until_reset() {
        let ms = Duration::from_millis;
        let mut backoff = Backoff::new(ms(100), ms(400));
        for ceiling in [100, 200, 400, 400] {
            let delay = backoff.delay();
            assert!(
                (ms(ceiling / 2)..=ms(ceiling)).contains(&delay),
                "{delay:?} of {ceiling}"
            );
        }
        backoff.reset();
        assert!(backoff.delay() <= ms(100));
    }
}
