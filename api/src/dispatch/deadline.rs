//! How a request ends that has no time left. If a server of Redis was away meanwhile, the end says
//! so: neither the contract nor its worker is to blame.

use std::sync::atomic::{AtomicBool, Ordering};

use futures::FutureExt;
use shared::protocol::frame::Reply;
use shared::protocol::reply::{Failure, FailureCode};
use shared::queue::timing::REQUEST_OVERTIME;
use tokio::time::Instant;

use super::Dispatcher;
use crate::error::ApiError;

/// Whether a job may be at a worker.
#[derive(Debug, Default)]
pub(super) struct Sent(AtomicBool);

impl Sent {
    pub(super) fn set(&self, sent: bool) {
        self.0.store(sent, Ordering::Relaxed);
    }

    fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Dispatcher {
    /// Ends `work` that takes too long. Commands to Redis have limits of their own, but these may
    /// add up.
    ///
    /// Not an `async fn`, which would hold `work` twice.
    pub(super) fn with_deadline<T>(
        &self,
        deadline: u64,
        sent: &Sent,
        work: impl Future<Output = Result<T, ApiError>>,
    ) -> impl Future<Output = Result<T, ApiError>> {
        let began = Instant::now();
        let patience = self.queue.clock().until(deadline) + REQUEST_OVERTIME;
        tokio::time::timeout(patience, work).map(move |ended| {
            let failed = |_| Err(self.out_of_time(no_reply(sent.get()), began));
            ended.unwrap_or_else(failed)
        })
    }

    /// The end of a request that has no time left, and that began at `began`.
    pub(super) fn out_of_time(&self, error: ApiError, began: Instant) -> ApiError {
        explained(error, self.breaker.was_incomplete_since(began))
    }

    /// A reply, which may say that the job reached its deadline before it could start.
    pub(super) fn in_time(&self, reply: Reply, began: Instant) -> Result<Reply, ApiError> {
        match reply.outcome {
            Err(failure) if is_late(&failure) && self.breaker.was_incomplete_since(began) => {
                Err(explained(failure.into(), true))
            }
            _ => Ok(reply),
        }
    }
}

fn is_late(failure: &Failure) -> bool {
    failure.code == FailureCode::Expired
}

/// The error of a request that got no answer before its deadline.
fn no_reply(sent: bool) -> ApiError {
    if sent {
        ApiError::no_reply()
    } else {
        ApiError::queue_unavailable()
    }
}

/// The same error, unless Redis is the reason that the time ran out.
fn explained(error: ApiError, is_redis_the_reason: bool) -> ApiError {
    match (is_redis_the_reason, error.never_started()) {
        (false, _) => error,
        (true, true) => ApiError::queue_unavailable(),
        (true, false) => ApiError::Ambiguous,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_waited_for_redis_does_not_blame_its_contract_or_its_worker() {
        let expired = || ApiError::from(Failure::not_started(FailureCode::Expired, "late"));
        let unstarted = ("queue_unavailable", true);
        let ends = [
            (no_reply(false), unstarted, unstarted),
            (
                no_reply(true),
                ("execution_timeout", false),
                ("queue_unavailable", false),
            ),
            (expired(), ("overloaded", true), unstarted),
            (ApiError::no_owner(), ("no_capacity", true), unstarted),
        ];
        let told = |error: &ApiError| (error.code(), error.never_started());
        for (error, otherwise, redis) in ends {
            assert_eq!(told(&explained(error.clone(), false)), otherwise);
            assert_eq!(told(&explained(error, true)), redis);
        }
    }
}
