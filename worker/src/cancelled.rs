//! Jobs whose callers have left: not to be started any more.

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use shared::protocol::id::{ApiId, JobId};

/// How many are remembered: a job that is cancelled in vain, since it has run, is never asked for.
const REMEMBERED: usize = 8192;

type Name = (ApiId, JobId);

/// The cancelled jobs, the latest ones.
#[derive(Debug, Default)]
pub(crate) struct Cancelled {
    count: AtomicUsize,
    jobs: Mutex<(HashSet<Name>, VecDeque<Name>)>,
}

impl Cancelled {
    /// Notes a job.
    pub(crate) fn add(&self, api: ApiId, job: JobId) {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        let (known, order) = &mut *jobs;
        if known.insert((api, job)) {
            order.push_back((api, job));
        }
        if order.len() > REMEMBERED
            && let Some(oldest) = order.pop_front()
        {
            known.remove(&oldest);
        }
        self.count.store(known.len(), Ordering::Relaxed);
    }

    /// Whether a job was noted. Costs nothing while none is.
    pub(crate) fn contains(&self, api: Option<ApiId>, job: JobId) -> bool {
        if self.count.load(Ordering::Relaxed) == 0 {
            return false;
        }
        let Some(api) = api else { return false };
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.0.contains(&(api, job))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_are_remembered() {
        let (cancelled, api) = (Cancelled::default(), ApiId::random());
        assert!(!cancelled.contains(Some(api), JobId(0)));
        for job in 0..=REMEMBERED as u64 {
            cancelled.add(api, JobId(job));
        }
        assert!(!cancelled.contains(Some(api), JobId(0)));
        assert!(cancelled.contains(Some(api), JobId(1)));
        assert!(!cancelled.contains(Some(ApiId::random()), JobId(1)));
    }
}
