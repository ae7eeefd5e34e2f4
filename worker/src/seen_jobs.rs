//! Detects duplicate jobs. An api that got no confirmation for a frame sends the frame again.
//!
//! An api numbers its jobs consecutively. So one bit for each of its last million jobs covers all
//! recent ones. That costs 128 KiB per api, and no hashing per job.

use std::collections::HashMap;
use std::time::Instant;

use shared::protocol::id::{ApiId, JobId};
use shared::queue::timing::REMEMBERED_FOR;

/// The number of remembered jobs per api. At 60,000 jobs a second that covers more than
/// [`REMEMBERED_FOR`].
const WINDOW: u64 = 1 << 20;
const BITS: u64 = u64::BITS as u64;
const WORDS: usize = (WINDOW / BITS) as usize;

/// The recent jobs of every api.
#[derive(Debug, Default)]
pub(crate) struct SeenJobs {
    apis: HashMap<Option<ApiId>, Window>,
}

/// The last jobs of one api.
#[derive(Debug)]
struct Window {
    /// Bit `n % WINDOW` stands for job `n`, the newest such job up to `newest`.
    seen: Box<[u64]>,
    newest: u64,
    last_used: Instant,
}

impl SeenJobs {
    /// Returns a check for the jobs of one api, which reports whether a job is new. Forgets the
    /// apis that have sent nothing for a while.
    pub(crate) fn of(&mut self, api: Option<ApiId>) -> impl FnMut(JobId) -> bool {
        let now = Instant::now();
        if !self.apis.contains_key(&api) {
            self.apis
                .retain(|_, window| now.duration_since(window.last_used) <= REMEMBERED_FOR);
        }
        let window = self.apis.entry(api).or_insert_with(|| Window::new(now));
        window.last_used = now;
        |job| window.is_new(job.0)
    }
}

impl Window {
    fn new(now: Instant) -> Self {
        Self {
            seen: vec![0; WORDS].into(),
            newest: 0,
            last_used: now,
        }
    }

    /// Remembers a job and reports whether it is new. A job older than the window counts as seen,
    /// because running a job twice is worse than not running it.
    fn is_new(&mut self, job: u64) -> bool {
        if job > self.newest {
            self.advance(job);
        } else if self.newest - job >= WINDOW {
            return false;
        }
        let (word, bit) = position(job);
        let is_new = self.seen[word] & bit == 0;
        self.seen[word] |= bit;
        is_new
    }

    /// Moves the window to `newest`: clears the bits of the jobs that leave it.
    fn advance(&mut self, newest: u64) {
        if newest - self.newest >= WINDOW {
            self.seen.fill(0);
        } else {
            for job in self.newest + 1..=newest {
                let (word, bit) = position(job);
                self.seen[word] &= !bit;
            }
        }
        self.newest = newest;
    }
}

/// The index of a job's word, and the job's bit in this word.
fn position(job: u64) -> (usize, u64) {
    let index = job % WINDOW;
    let word = usize::try_from(index / BITS).expect("the index is below WORDS");
    (word, 1 << (index % BITS))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_job_is_new_once_per_api() {
        let mut seen = SeenJobs::default();
        let (one, other) = (Some(ApiId::random()), Some(ApiId::random()));
        assert!(seen.of(one)(JobId(1)));
        assert!(seen.of(other)(JobId(1)));
        assert!(!seen.of(one)(JobId(1)));
        assert!(seen.of(None)(JobId(0)));
        assert!(!seen.of(None)(JobId(0)));
    }

    #[test]
    fn order_and_gaps_do_not_matter() {
        let mut window = Window::new(Instant::now());
        let jobs = [5, 3, 9, 4, WINDOW + 2, 1_000, WINDOW - 1];
        for job in jobs {
            assert!(window.is_new(job), "{job}");
        }
        // The newest job has moved only jobs 0 to 2 out of the window.
        for job in jobs {
            assert!(!window.is_new(job), "{job}");
        }
        assert!(window.is_new(6) && window.is_new(WINDOW + 1));
    }

    #[test]
    fn bits_are_reused_one_window_later() {
        let mut window = Window::new(Instant::now());
        assert!(window.is_new(7));
        assert!(window.is_new(WINDOW + 7));
        assert!(!window.is_new(7), "older than the window");
        assert!(window.is_new(10 * WINDOW + 7));
        assert!(!window.is_new(10 * WINDOW + 7));
        assert!(window.is_new(9 * WINDOW + 8));
    }

    #[test]
    fn idle_apis_are_forgotten() {
        let mut seen = SeenJobs::default();
        seen.of(Some(ApiId::random()))(JobId(1));
        for window in seen.apis.values_mut() {
            window.last_used -= REMEMBERED_FOR + Duration::from_secs(1);
        }
        seen.of(Some(ApiId::random()))(JobId(1));
        assert_eq!(seen.apis.len(), 1);
    }
}
