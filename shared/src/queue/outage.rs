//! Detects outages of the servers of Redis, after which lapsed leases prove nothing yet.
//!
//! While Redis is frozen or unreachable, no worker can renew its lease. When Redis answers again,
//! some leases have lapsed although their workers live. They count only after the workers had the
//! time to renew them.

use std::collections::HashMap;
use std::time::Duration;

use super::servers::ServerName;
use super::timing::{LEASE, OUTAGE_AFTER};
use crate::service::moment::Moment;

/// After how long a server that is gone is forgotten: 10 min.
const FORGOTTEN_AFTER: Duration = Duration::from_mins(10);

/// Tracks for each server of Redis whether it has answered this process without a pause.
#[derive(Debug, Default)]
pub(super) struct Outages {
    servers: HashMap<ServerName, OutageDetector>,
    /// When the servers were asked last.
    asked: Option<Moment>,
}

impl Outages {
    /// Records which servers have answered. A server that was not there at first counts as if it
    /// had just had an outage: it may have taken the place of one that was away.
    pub(super) fn record_responses(&mut self, servers: &[ServerName], now: Moment) {
        let is_start = self.servers.is_empty();
        self.asked = Some(now);
        for server in servers {
            if let Some(detector) = self.servers.get_mut(server) {
                detector.record_response(now);
                continue;
            }
            let mut detector = OutageDetector::new(now);
            detector.recovered = (!is_start).then_some(now);
            self.servers.insert(server.clone(), detector);
        }
        // What is forgotten counts as new when it comes back.
        self.servers
            .retain(|_, detector| now - detector.last_response < FORGOTTEN_AFTER);
    }

    /// Whether no worker with a lease on this server may be declared dead: it did not answer when
    /// it was asked last, or its last outage ended less than a lease ago.
    pub(super) fn is_recovering(&self, server: &ServerName, now: Moment) -> bool {
        let detector = self.servers.get(server);
        detector.is_none_or(|detector| {
            Some(detector.last_response) != self.asked || detector.is_recovering(now)
        })
    }
}

/// Tracks whether one server has answered this process without a pause.
#[derive(Debug)]
struct OutageDetector {
    last_response: Moment,
    /// When Redis answered again after an outage.
    recovered: Option<Moment>,
}

impl OutageDetector {
    /// Starts with a first response of Redis at `now`.
    fn new(now: Moment) -> Self {
        Self {
            last_response: now,
            recovered: None,
        }
    }

    /// Records that Redis has answered.
    fn record_response(&mut self, now: Moment) {
        if now - self.last_response > OUTAGE_AFTER {
            self.recovered = Some(now);
        }
        self.last_response = now;
    }

    /// Whether the last outage ended less than a lease ago. Then no worker may be declared dead.
    fn is_recovering(&self, now: Moment) -> bool {
        self.recovered.is_some_and(|moment| now - moment < LEASE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_judged_one_by_one() {
        let mut now = Moment::now();
        let [one, other, new] = ["one", "other", "new"].map(ServerName::from);
        let mut outages = Outages::default();
        outages.record_responses(&[one.clone(), other.clone()], now);
        assert!(!outages.is_recovering(&one, now));
        for _ in 0..6 {
            now += Duration::from_secs(1);
            outages.record_responses(std::slice::from_ref(&one), now);
            assert!(outages.is_recovering(&other, now), "it does not answer");
        }
        outages.record_responses(&[one.clone(), other.clone(), new.clone()], now);
        assert!(!outages.is_recovering(&one, now));
        assert!(outages.is_recovering(&other, now), "it was away");
        assert!(
            outages.is_recovering(&new, now),
            "it may replace one that was away"
        );
        assert!(outages.is_recovering(&"unknown".into(), now));
    }

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
