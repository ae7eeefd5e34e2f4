//! Detects outages of Redis, after which lapsed leases prove nothing yet.
//!
//! While Redis is frozen or unreachable, no worker can renew its lease. When Redis answers again,
//! some leases have lapsed although their workers live. They count only after the workers had the
//! time to renew them.

use super::timing::{LEASE, OUTAGE_AFTER};
use crate::service::moment::Moment;

/// Tracks whether Redis has answered this process without a pause.
#[derive(Debug)]
pub(super) struct OutageDetector {
    last_response: Moment,
    /// When Redis answered again after an outage.
    recovered: Option<Moment>,
}

impl OutageDetector {
    /// Starts with a first response of Redis at `now`.
    pub(super) fn new(now: Moment) -> Self {
        Self {
            last_response: now,
            recovered: None,
        }
    }

    /// Records that Redis has answered.
    pub(super) fn record_response(&mut self, now: Moment) {
        if now - self.last_response > OUTAGE_AFTER {
            self.recovered = Some(now);
        }
        self.last_response = now;
    }

    /// Whether the last outage ended less than a lease ago. Then no worker may be declared dead.
    pub(super) fn is_recovering(&self, now: Moment) -> bool {
        self.recovered.is_some_and(|moment| now - moment < LEASE)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn after_an_outage_workers_have_the_time_of_a_lease_to_renew() {
        let mut now = Moment::now();
        let mut outages = OutageDetector::new(now);
        now += OUTAGE_AFTER;
        outages.record_response(now);
        assert!(!outages.is_recovering(now), "that was no outage");
        now += OUTAGE_AFTER * 2;
        outages.record_response(now);
        for second in 0..LEASE.as_secs() {
            assert!(outages.is_recovering(now), "{second} s after the outage");
            now += Duration::from_secs(1);
            outages.record_response(now);
        }
        assert!(!outages.is_recovering(now));
    }
}
