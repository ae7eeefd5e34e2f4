//! Attempts that may have been started and got no reply: whether the job may be sent again, and
//! what its end may promise.

use shared::protocol::frame::Reply;
use shared::protocol::id::WorkerId;
use shared::protocol::job::Job;

use super::route_cache::Assignment;
use crate::error::ApiError;

/// How many workers may die with a job before it fails.
const MAX_LOST_ATTEMPTS: u32 = 2;

/// The attempts of one job that may have been started and got no reply.
#[derive(Debug, Default)]
pub(super) struct LostAttempts {
    count: u32,
    last_worker: Option<WorkerId>,
}

impl LostAttempts {
    /// Whether there are any.
    pub(super) fn any(&self) -> bool {
        self.count > 0
    }

    /// Notes an attempt at this worker.
    pub(super) fn add(&mut self, worker: WorkerId) {
        self.count += 1;
        self.last_worker = Some(worker);
    }

    /// Whether a job may be sent to this owner. A call that may have been started is repeated
    /// only because the page's state died with its worker. If the same worker still owns the
    /// contract, the state may have survived.
    pub(super) fn allow(&self, job: &Job, owner: &Assignment) -> bool {
        let is_same = |last: WorkerId| last.same_process(owner.worker);
        !is_call(job) || owner.idempotent || !self.last_worker.is_some_and(is_same)
    }

    /// Whether a job that may have been started may be sent again.
    pub(super) fn may_repeat(&self, job: &Job, owner: &Assignment) -> bool {
        self.count < MAX_LOST_ATTEMPTS && (owner.repeatable || !is_call(job))
    }

    /// Replaces an end that says "never started", which only holds for the last attempt: an
    /// earlier attempt may have been started.
    pub(super) fn qualify(
        &self,
        job: &Job,
        ended: Result<Reply, ApiError>,
    ) -> Result<Reply, ApiError> {
        if self.count == 0 || !never_started(&ended) {
            return ended;
        }
        if is_call(job) {
            return Err(ApiError::OutcomeUnknown);
        }
        match ended {
            Ok(Reply {
                outcome: Err(failure),
                ..
            }) => Err(ApiError::from(failure).if_started(true)),
            other => other.map_err(|error| error.if_started(true)),
        }
    }
}

fn is_call(job: &Job) -> bool {
    matches!(job, Job::Execute(_))
}

/// Whether an end says that the job was not started.
fn never_started(ended: &Result<Reply, ApiError>) -> bool {
    match ended {
        Ok(reply) => matches!(&reply.outcome, Err(failure) if !failure.started),
        Err(error) => error.never_started(),
    }
}

#[cfg(test)]
mod tests {
    use shared::protocol::id::JobId;
    use shared::protocol::job::{Argument, Execute, Unload};
    use shared::protocol::reply::{Failure, FailureCode};

    use super::*;

    fn unload() -> Job {
        let address = "abcd".parse().unwrap();
        Job::Unload(Unload { address })
    }

    fn call() -> Job {
        Job::Execute(Execute {
            address: "abcd".parse().unwrap(),
            method: "add".to_owned(),
            argument: Argument::None,
            schemas: None,
            logs: None,
        })
    }

    fn refused() -> Reply {
        let failure = Failure::not_started(FailureCode::UnsupportedVersion, "no");
        Reply {
            id: JobId(1),
            generation: None,
            ran_us: None,
            cpu_us: None,
            outcome: Err(failure),
        }
    }

    /// A worker died with the job, then nothing could be sent to another one.
    #[test]
    fn a_job_that_was_lost_once_may_have_been_started() {
        let mut lost = LostAttempts::default();
        for job in [unload(), call()] {
            let ended = lost.qualify(&job, Err(ApiError::no_owner()));
            assert!(ended.unwrap_err().never_started(), "nothing was lost");
            assert!(never_started(&lost.qualify(&job, Ok(refused()))));
        }
        lost.add(WorkerId::random());
        let ends = || {
            [
                Err(ApiError::no_owner()),
                Err(ApiError::queue_unavailable()),
                Ok(refused()),
            ]
        };
        for ended in ends() {
            let error = lost.qualify(&unload(), ended).unwrap_err();
            assert!(!error.never_started(), "{error:?}");
            assert_eq!(error.status(), 503, "the code stays");
        }
        for ended in ends() {
            let error = lost.qualify(&call(), ended).unwrap_err();
            assert!(matches!(error, ApiError::OutcomeUnknown), "{error:?}");
        }
    }
}
