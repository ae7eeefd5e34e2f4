//! Whether what Redis says of leases can be believed yet.
//!
//! While Redis stands still, or is out of reach, nobody can renew a lease. When it answers again some have
//! lapsed: that says nothing until the workers have had the time to renew them.

use tokio::time::Instant;

use super::timing::{LEASE, OUTAGE_AFTER};

/// How Redis has answered this process.
#[derive(Debug)]
pub(super) struct Contact {
    last: Instant,
    /// When it answered again after a pause.
    resumed: Option<Instant>,
}

impl Contact {
    /// Redis has answered now, for the first time.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            last: now,
            resumed: None,
        }
    }

    /// Redis has answered.
    pub(super) fn confirm(&mut self, now: Instant) {
        if now - self.last > OUTAGE_AFTER {
            self.resumed = Some(now);
        }
        self.last = now;
    }

    /// Whether it answers again, but not for the time of a lease yet: nobody can be declared dead.
    pub(super) fn is_fresh(&self, now: Instant) -> bool {
        self.resumed.is_some_and(|moment| now - moment < LEASE)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn after_a_pause_leases_say_nothing_until_they_could_be_renewed() {
        let mut now = Instant::now();
        let mut contact = Contact::new(now);
        now += OUTAGE_AFTER;
        contact.confirm(now);
        assert!(!contact.is_fresh(now), "that was no pause");
        now += OUTAGE_AFTER * 2;
        contact.confirm(now);
        for second in 0..LEASE.as_secs() {
            assert!(contact.is_fresh(now), "{second} s after the pause");
            now += Duration::from_secs(1);
            contact.confirm(now);
        }
        assert!(!contact.is_fresh(now));
    }
}
