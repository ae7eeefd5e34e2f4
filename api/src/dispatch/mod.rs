//! Brings a job to the worker that owns its contract and awaits the reply.
//!
//! `call = with_deadline(retry_loop(attempt))`: an attempt sends the job to one worker and awaits
//! the outcome. The loop tries again while the job certainly was not started, or may run again.
//! What a reply means to a client is decided in `routes` and `error`.

mod attempt;
mod checks;
mod inspect;
mod loading;
mod lost_attempts;
mod requirements;
mod route_cache;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::FutureExt;
use shared::protocol::frame::Reply;
use shared::protocol::id::{ApiId, ContractAddress, WorkerId};
use shared::protocol::job::{Argument, Job};
use shared::queue::farm::Farm;
use shared::queue::timing::{REQUEST_OVERTIME, TIDY_WITHIN};
use shared::queue::{Queue, QueueError};
use shared::service::backoff::Backoff;

use self::attempt::AttemptOutcome;
use self::checks::CallChecks;
use self::lost_attempts::LostAttempts;
use self::route_cache::{Destination, RouteCache};
use crate::breaker::{Breaker, QueueState};
use crate::error::ApiError;
use crate::inboxes::Inboxes;
use crate::metrics::DispatchMetrics;
use crate::reply_router::Waiters;
use crate::schemas::SchemaCache;

/// A larger argument, in bytes, is stored in Redis beside the frame instead of in it.
const INLINE_LIMIT: usize = 48 * 1024;

/// A job on behalf of one request.
#[derive(Debug)]
pub(crate) struct Ticket {
    /// What to do.
    pub(crate) job: Job,
    /// When the client stops waiting, by Redis' clock.
    pub(crate) deadline: u64,
    /// W3C trace context.
    pub(crate) trace: Option<String>,
    /// The request's id.
    pub(crate) request: Option<String>,
}

/// The reply to a call, and the worker that sent it.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) reply: Reply,
    pub(crate) worker: Option<WorkerId>,
}

/// Whether a job may be at a worker.
#[derive(Debug, Default)]
struct Sent(AtomicBool);

/// Sends jobs to workers and awaits their replies.
pub(crate) struct Dispatcher {
    queue: Queue,
    api: ApiId,
    waiters: Arc<Waiters>,
    routes: RouteCache,
    inboxes: Arc<Inboxes>,
    breaker: Breaker,
    schemas: SchemaCache,
    metrics: DispatchMetrics,
    executables_limit: u64,
}

/// What a dispatcher is built from.
pub(crate) struct DispatcherParts {
    pub(crate) queue: Queue,
    pub(crate) api: ApiId,
    pub(crate) waiters: Arc<Waiters>,
    pub(crate) inboxes: Arc<Inboxes>,
    pub(crate) farm: Farm,
    pub(crate) breaker: Breaker,
    pub(crate) schemas: SchemaCache,
    pub(crate) metrics: DispatchMetrics,
    /// What the executables of all contracts may take in Redis, in bytes.
    pub(crate) executables_limit: u64,
}

impl Dispatcher {
    pub(crate) fn new(parts: DispatcherParts) -> Self {
        let DispatcherParts {
            queue,
            api,
            waiters,
            inboxes,
            farm,
            breaker,
            schemas,
            metrics,
            executables_limit,
        } = parts;
        Self {
            routes: RouteCache::new(queue.clone(), inboxes.clone(), farm, metrics.clone()),
            queue,
            api,
            waiters,
            inboxes,
            breaker,
            schemas,
            metrics,
            executables_limit,
        }
    }

    /// How many replies had no waiter.
    pub(crate) fn unclaimed_replies(&self) -> u64 {
        self.waiters.unclaimed_replies()
    }

    /// Runs a job at the worker that owns the contract. The reply may still hold a failure of the
    /// contract.
    pub(crate) async fn call(
        &self,
        contract: &ContractAddress,
        mut ticket: Ticket,
    ) -> Result<Answer, ApiError> {
        if has_large_argument(&ticket.job) {
            // Rare paths are boxed, here and in `route_cache`: otherwise the future of every call
            // would reserve memory for them.
            return self
                .call_with_stored_argument(contract, ticket)
                .boxed()
                .await;
        }
        let (deadline, sent) = (ticket.deadline, Sent::default());
        let checks = CallChecks::default();
        self.with_deadline(
            deadline,
            &sent,
            self.retry_loop(contract, &mut ticket, &sent, checks),
        )
        .await
    }

    /// As [`Self::call`], with the argument stored in Redis meanwhile.
    async fn call_with_stored_argument(
        &self,
        contract: &ContractAddress,
        mut ticket: Ticket,
    ) -> Result<Answer, ApiError> {
        let (deadline, sent, mut stored) = (ticket.deadline, Sent::default(), None);
        let running = async {
            let mut checks = CallChecks::default();
            stored = self.store_argument(&mut ticket, &mut checks).await?;
            self.retry_loop(contract, &mut ticket, &sent, checks).await
        };
        let reply = self.with_deadline(deadline, &sent, running).await;
        if let Some(name) = stored {
            let removing = self.queue.remove_body(&name);
            if !matches!(
                tokio::time::timeout(TIDY_WITHIN, removing).await,
                Ok(Ok(()))
            ) {
                tracing::debug!(name, "stored argument not removed, it will expire");
            }
        }
        reply
    }

    /// Ends `work` that takes too long. Commands to Redis have limits of their own, but these may
    /// add up.
    ///
    /// Not an `async fn`, which would hold `work` twice.
    fn with_deadline<T>(
        &self,
        deadline: u64,
        sent: &Sent,
        work: impl Future<Output = Result<T, ApiError>>,
    ) -> impl Future<Output = Result<T, ApiError>> {
        let patience = self.queue.clock().until(deadline) + REQUEST_OVERTIME;
        tokio::time::timeout(patience, work)
            .map(|ended| ended.unwrap_or_else(|_| Err(no_reply(sent.get(), self.breaker.state()))))
    }

    /// Repeats attempts until one is answered or no time is left for another.
    async fn retry_loop(
        &self,
        contract: &ContractAddress,
        ticket: &mut Ticket,
        sent: &Sent,
        mut checks: CallChecks,
    ) -> Result<Answer, ApiError> {
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(250));
        let mut last_error = ApiError::no_owner();
        let mut lost = LostAttempts::default();
        let mut answered_by = None;
        let mut number = 1;
        let ended = loop {
            let destination = self.route(contract, &mut ticket.job).await;
            match destination.and_then(Destination::owner) {
                Ok(Some((address, owner))) => {
                    if !lost.allow(&ticket.job, &owner) {
                        break Err(ApiError::OutcomeUnknown);
                    }
                    let job = &mut ticket.job;
                    let is_checked = match self
                        .check_argument(&address, &owner, job, &mut checks)
                        .await
                    {
                        Ok(is_checked) => is_checked,
                        Err(error @ ApiError::QueueUnavailable(_)) => {
                            last_error = error;
                            false
                        }
                        Err(error) => break Err(error),
                    };
                    if is_checked {
                        sent.set(true);
                        let outcome = self.attempt(owner.worker, ticket, number).await;
                        match outcome.and_then(|outcome| self.classify(owner.worker, outcome)) {
                            Ok(AttemptOutcome::Answered(reply)) => {
                                self.check_result(&ticket.job, &reply, &checks).await?;
                                answered_by = Some(owner.worker);
                                break Ok(reply);
                            }
                            Ok(AttemptOutcome::NotStarted) => sent.set(lost.any()),
                            Ok(AttemptOutcome::MaybeStarted) => {
                                lost.add(owner.worker);
                                if !lost.may_repeat(&ticket.job, &owner) {
                                    break Err(ApiError::OutcomeUnknown);
                                }
                            }
                            Err(error) => break Err(error),
                        }
                    }
                    self.routes.invalidate(&address);
                }
                // The contract waits for a worker.
                Ok(None) => {}
                // An admitted request waits for Redis to return.
                Err(error @ ApiError::QueueUnavailable(_)) => last_error = error,
                Err(error) => break Err(error),
            }
            let pause = backoff.delay();
            if self.queue.clock().until(ticket.deadline) < pause {
                break Err(last_error);
            }
            tokio::time::sleep(pause).await;
            self.metrics.retries.increment(1);
            number += 1;
        };
        let reply = lost.qualify(&ticket.job, ended)?;
        Ok(Answer {
            reply,
            worker: answered_by,
        })
    }

    /// Where a job goes: a call to one of the contract's replicas, every other job to the
    /// given address itself.
    async fn route(
        &self,
        contract: &ContractAddress,
        job: &mut Job,
    ) -> Result<Destination, ApiError> {
        let Job::Execute(execute) = job else {
            return Ok(Destination {
                address: contract.clone(),
                target: self.routes.target(contract).await?,
            });
        };
        let destination = self.routes.choose_replica(contract).await?;
        execute.address = destination.address.clone();
        Ok(destination)
    }

    /// Moves a call's argument into Redis; returns its name there.
    async fn store_argument(
        &self,
        ticket: &mut Ticket,
        checks: &mut CallChecks,
    ) -> Result<Option<String>, QueueError> {
        let Job::Execute(execute) = &mut ticket.job else {
            return Ok(None);
        };
        let Argument::Json(json) = &execute.argument else {
            return Ok(None);
        };
        let (id, body) = (self.waiters.next_id(), json.get().as_bytes());
        let name = self
            .queue
            .store_body(self.api, id, body, ticket.deadline)
            .await?;
        let argument = Argument::Stored(name.clone());
        if let Argument::Json(json) = std::mem::replace(&mut execute.argument, argument) {
            checks.stored = Some(json);
        }
        Ok(Some(name))
    }
}

impl Sent {
    fn set(&self, sent: bool) {
        self.0.store(sent, Ordering::Relaxed);
    }

    fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// The error of a request that got no answer before its deadline. If Redis is the reason, the error
/// says so: the contract is not to blame.
fn no_reply(sent: bool, queue: QueueState) -> ApiError {
    match (sent, queue) {
        (false, _) => ApiError::queue_unavailable(),
        (true, QueueState::Unavailable) => ApiError::Ambiguous,
        (true, QueueState::Available(_)) => ApiError::no_reply(),
    }
}

fn has_large_argument(job: &Job) -> bool {
    let Job::Execute(execute) = job else {
        return false;
    };
    matches!(&execute.argument, Argument::Json(json) if json.get().len() > INLINE_LIMIT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::breaker::MemoryPressure;

    #[test]
    fn a_call_that_hangs_on_redis_is_not_an_execution_timeout() {
        let unsent = no_reply(false, QueueState::Available(MemoryPressure::None));
        assert_eq!(
            (unsent.code(), unsent.never_started()),
            ("queue_unavailable", true)
        );
        let sent = no_reply(true, QueueState::Unavailable);
        assert_eq!(
            (sent.code(), sent.never_started()),
            ("queue_unavailable", false)
        );
        let unanswered = no_reply(true, QueueState::Available(MemoryPressure::None));
        assert_eq!(unanswered.code(), "execution_timeout");
    }
}
