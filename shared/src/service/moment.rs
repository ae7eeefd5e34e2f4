//! A clock that also runs while the machine is suspended or its virtual machine is paused.

use std::ops::{Add, AddAssign, Sub};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// A point in time by `CLOCK_BOOTTIME`.
///
/// `Instant` stands still while the machine sleeps. A worker that trusted it would act after a
/// pause as if its lease were still valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(Duration);

impl Moment {
    /// The current moment.
    pub fn now() -> Self {
        let time = clock_gettime(ClockId::Boottime);
        let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
        let nanos = u32::try_from(time.tv_nsec).unwrap_or_default();
        Self(Duration::new(seconds, nanos))
    }

    /// The time that has passed since this moment. Zero if it is in the future.
    pub fn elapsed(self) -> Duration {
        Self::now() - self
    }

    /// The time between the start of the machine and this moment.
    pub fn since_boot(self) -> Duration {
        self.0
    }

    /// The moment `span` before this one. None if the machine was not running then.
    pub fn checked_sub(self, span: Duration) -> Option<Self> {
        self.0.checked_sub(span).map(Self)
    }
}

impl Add<Duration> for Moment {
    type Output = Self;

    fn add(self, span: Duration) -> Self {
        Self(self.0 + span)
    }
}

impl AddAssign<Duration> for Moment {
    fn add_assign(&mut self, span: Duration) {
        *self = *self + span;
    }
}

impl Sub for Moment {
    type Output = Duration;

    /// Zero if `earlier` is the later one.
    fn sub(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_the_time_since_the_start_of_the_machine() {
        let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
        let uptime: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
        let since_boot = Moment::now().since_boot().as_secs_f64();
        assert!((uptime - since_boot).abs() < 5.0, "{uptime} {since_boot}");
    }

    #[test]
    fn the_future_has_not_begun() {
        let now = Moment::now();
        let later = now + Duration::from_secs(5);
        assert_eq!(later - now, Duration::from_secs(5));
        assert_eq!(now - later, Duration::ZERO);
        assert_eq!(later.elapsed(), Duration::ZERO);
    }
}
