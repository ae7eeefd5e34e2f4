//! Which jobs this worker was given already: an api that was not told sends a frame again.
//!
//! An api counts its jobs up, and those of the last seconds lie close together. So a bit for each of its
//! last million does for all of them: 128 KiB for each api, and nothing to be hashed for a job.

use std::collections::HashMap;
use std::time::Instant;

use shared::protocol::id::{ApiId, JobId};
use shared::queue::timing::REMEMBERED_FOR;

/// How far back an api's jobs are known: at 60,000 a second, more than [`REMEMBERED_FOR`].
const WINDOW: u64 = 1 << 20;
const BITS: u64 = u64::BITS as u64;
const WORDS: usize = (WINDOW / BITS) as usize;

/// The jobs of every api that were seen lately.
#[derive(Debug, Default)]
pub(crate) struct Known {
    apis: HashMap<Option<ApiId>, Window>,
}

/// One api's last jobs.
#[derive(Debug)]
struct Window {
    /// Job `n` is bit `n % WINDOW`, of those up to the newest.
    seen: Box<[u64]>,
    newest: u64,
    touched: Instant,
}

impl Known {
    /// The jobs of one frame's sender; forgets the senders that have long been silent.
    pub(crate) fn of(&mut self, api: Option<ApiId>) -> impl FnMut(JobId) -> bool {
        let now = Instant::now();
        if !self.apis.contains_key(&api) {
            self.apis
                .retain(|_, window| now.duration_since(window.touched) <= REMEMBERED_FOR);
        }
        let window = self.apis.entry(api).or_insert_with(|| Window::new(now));
        window.touched = now;
        |job| window.is_new(job.0)
    }
}

impl Window {
    fn new(now: Instant) -> Self {
        Self {
            seen: vec![0; WORDS].into(),
            newest: 0,
            touched: now,
        }
    }

    /// Notes a job; false if it was there before, or if it is too old for anybody to tell: running it
    /// twice would be worse than not at all.
    fn is_new(&mut self, job: u64) -> bool {
        if job > self.newest {
            self.advance(job);
        } else if self.newest - job >= WINDOW {
            return false;
        }
        let (word, bit) = place(job);
        let is_new = self.seen[word] & bit == 0;
        self.seen[word] |= bit;
        is_new
    }

    /// Makes room for jobs up to this one, by those that are a window older.
    fn advance(&mut self, newest: u64) {
        if newest - self.newest >= WINDOW {
            self.seen.fill(0);
        } else {
            for job in self.newest + 1..=newest {
                let (word, bit) = place(job);
                self.seen[word] &= !bit;
            }
        }
        self.newest = newest;
    }
}

/// A job's word, and its bit in there.
fn place(job: u64) -> (usize, u64) {
    let index = job % WINDOW;
    let word = usize::try_from(index / BITS).expect("there are few words");
    (word, 1 << (index % BITS))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_job_is_new_once_per_api() {
        let mut known = Known::default();
        let (one, other) = (Some(ApiId::random()), Some(ApiId::random()));
        assert!(known.of(one)(JobId(1)));
        assert!(known.of(other)(JobId(1)));
        assert!(!known.of(one)(JobId(1)));
        assert!(known.of(None)(JobId(0)));
        assert!(!known.of(None)(JobId(0)));
    }

    #[test]
    fn order_and_gaps_do_not_matter() {
        let mut window = Window::new(Instant::now());
        let jobs = [5, 3, 9, 4, WINDOW + 2, 1_000, WINDOW - 1];
        for job in jobs {
            assert!(window.is_new(job), "{job}");
        }
        // The newest one has pushed 0 to 2 out of the window, and nothing else.
        for job in jobs {
            assert!(!window.is_new(job), "{job}");
        }
        assert!(window.is_new(6) && window.is_new(WINDOW + 1));
    }

    #[test]
    fn a_window_later_the_bits_are_those_of_others() {
        let mut window = Window::new(Instant::now());
        assert!(window.is_new(7));
        assert!(window.is_new(WINDOW + 7));
        assert!(!window.is_new(7), "too old to tell");
        assert!(window.is_new(10 * WINDOW + 7));
        assert!(!window.is_new(10 * WINDOW + 7));
        assert!(window.is_new(9 * WINDOW + 8));
    }

    #[test]
    fn silent_apis_are_forgotten() {
        let mut known = Known::default();
        known.of(Some(ApiId::random()))(JobId(1));
        for window in known.apis.values_mut() {
            window.touched -= REMEMBERED_FOR + Duration::from_secs(1);
        }
        known.of(Some(ApiId::random()))(JobId(1));
        assert_eq!(known.apis.len(), 1);
    }
}
