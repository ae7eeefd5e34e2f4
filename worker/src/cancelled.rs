//! Jobs whose callers have disconnected. A cancelled job that has not started is not run.

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use shared::protocol::id::{ApiId, JobId};

/// The maximum number of remembered jobs. A job that was cancelled after it ran is never looked up,
/// so the oldest jobs are dropped.
const REMEMBERED: usize = 8192;

type JobKey = (ApiId, JobId);

/// The most recently cancelled jobs.
#[derive(Debug, Default)]
pub(crate) struct CancelledJobs {
    count: AtomicUsize,
    recent: Mutex<Recent>,
}

#[derive(Debug, Default)]
struct Recent {
    jobs: HashSet<JobKey>,
    /// The same jobs, the oldest first.
    order: VecDeque<JobKey>,
}

impl CancelledJobs {
    /// Remembers a job as cancelled.
    pub(crate) fn add(&self, api: ApiId, job: JobId) {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let Recent { jobs, order } = &mut *recent;
        if jobs.insert((api, job)) {
            order.push_back((api, job));
        }
        if order.len() > REMEMBERED
            && let Some(oldest) = order.pop_front()
        {
            jobs.remove(&oldest);
        }
        self.count.store(jobs.len(), Ordering::Relaxed);
    }

    /// Whether a job was cancelled. Takes no lock while no job is remembered.
    pub(crate) fn contains(&self, api: Option<ApiId>, job: JobId) -> bool {
        if self.count.load(Ordering::Relaxed) == 0 {
            return false;
        }
        let Some(api) = api else { return false };
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.jobs.contains(&(api, job))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_latest_jobs_are_remembered() {
        let (cancelled, api) = (CancelledJobs::default(), ApiId::random());
        assert!(!cancelled.contains(Some(api), JobId(0)));
        for job in 0..=REMEMBERED as u64 {
            cancelled.add(api, JobId(job));
        }
        assert!(!cancelled.contains(Some(api), JobId(0)));
        assert!(cancelled.contains(Some(api), JobId(1)));
        assert!(!cancelled.contains(Some(ApiId::random()), JobId(1)));
    }
}
