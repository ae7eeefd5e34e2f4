//! Charges the requests of pages to the pages that send them.
//!
//! Every request of a page is reported with its whole text, of up to megabytes, and then aborted.
//! An honest page sends none but the one for its document.

use std::collections::HashMap;
use std::time::Duration;

use chromiumoxide_cdp::cdp::browser_protocol::target::TargetId;
use tokio::time::Instant;

/// The time over which requests are added up.
const SPAN: Duration = Duration::from_secs(1);
/// Requests of one frame within that time at most.
const REQUESTS: u32 = 64;
/// The size of these requests together at most, in bytes. That of a request for a short URL is
/// under 2 KiB.
const BYTES: usize = 256 << 10;

/// What the frames of one browser have sent lately.
#[derive(Debug)]
pub(super) struct Charges {
    since: Instant,
    frames: HashMap<TargetId, Sent>,
}

#[derive(Debug, Default)]
struct Sent {
    requests: u32,
    bytes: usize,
}

impl Charges {
    pub(super) fn new() -> Self {
        Self {
            since: Instant::now(),
            frames: HashMap::new(),
        }
    }

    /// Charges a request of this size to a frame; false if the frame has sent too much.
    pub(super) fn add(&mut self, frame: &TargetId, bytes: usize, now: Instant) -> bool {
        if now.duration_since(self.since) > SPAN {
            self.since = now;
            self.frames.clear();
        }
        let sent = self.frames.entry(frame.clone()).or_default();
        sent.requests += 1;
        sent.bytes += bytes;
        sent.requests <= REQUESTS && sent.bytes <= BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_may_send_little_within_a_second() {
        let start = Instant::now();
        let mut charges = Charges::new();
        let [one, other] = ["one", "other"].map(TargetId::new);
        assert!((0..REQUESTS).all(|_| charges.add(&one, 1000, start)));
        assert!(!charges.add(&one, 1000, start));
        assert!(charges.add(&other, 1000, start));
        assert!(charges.add(&one, 1000, start + SPAN * 2));
        assert!(!charges.add(&other, BYTES + 1, start + SPAN * 2));
    }
}
