//! Brings a job to the worker that owns its contract and awaits the reply.
//!
//! `call = with_deadline(retry_loop(attempt))`: an attempt sends the job to one worker and awaits
//! the outcome. The loop tries again while the job certainly was not started, or may run again.
//! What a reply means to a client is decided in `routes` and `error`.

mod arguments;
mod attempt;
mod checks;
mod deadline;
mod inspect;
mod loading;
mod lost_attempts;
mod needs;
mod requirements;
mod route_cache;

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use shared::protocol::frame::Reply;
use shared::protocol::id::{ContractAddress, WorkerId};
use shared::protocol::job::Job;
use shared::queue::Queue;
use shared::queue::farm::Farm;
use shared::service::backoff::Backoff;
use tokio::time::Instant;

use self::arguments::has_large_argument;
use self::attempt::AttemptOutcome;
use self::checks::CallChecks;
use self::deadline::Sent;
use self::lost_attempts::LostAttempts;
use self::route_cache::{Assignment, Destination, RouteCache, RouteCacheParts};
use crate::breaker::Breaker;
use crate::error::ApiError;
use crate::inboxes::Inboxes;
use crate::limits::{Meter, MeterPermit, Meters};
use crate::metrics::DispatchMetrics;
use crate::reply_router::Waiters;
use crate::reply_streams::ReplyStreams;
use crate::schemas::SchemaCache;

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
    /// The meter of the contract, if it has one.
    pub(crate) meter: Option<Arc<Meter>>,
    /// Why the caller does not get the result, if it does not match the contract's schema.
    pub(crate) rejected: Option<ApiError>,
}

/// What is known about a call from one attempt to the next.
#[derive(Default)]
struct Progress {
    admitted: Option<Admitted>,
    checks: CallChecks,
    lost: LostAttempts,
    /// Why there is no reply yet, if that is known.
    last_error: Option<ApiError>,
}

/// A call that its contract's limits have let in.
struct Admitted {
    meter: Option<Arc<Meter>>,
    _permit: Option<MeterPermit>,
}

/// Sends jobs to workers and awaits their replies.
pub(crate) struct Dispatcher {
    queue: Queue,
    replies: ReplyStreams,
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
    pub(crate) replies: ReplyStreams,
    pub(crate) waiters: Arc<Waiters>,
    pub(crate) inboxes: Arc<Inboxes>,
    pub(crate) meters: Arc<Meters>,
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
            replies,
            waiters,
            inboxes,
            meters,
            farm,
            breaker,
            schemas,
            metrics,
            executables_limit,
        } = parts;
        let routes = RouteCache::new(RouteCacheParts {
            queue: queue.clone(),
            inboxes: inboxes.clone(),
            breaker: breaker.clone(),
            meters,
            farm,
            metrics: metrics.clone(),
        });
        Self {
            queue,
            replies,
            waiters,
            routes,
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
        let progress = Progress::default();
        self.with_deadline(
            deadline,
            &sent,
            self.retry_loop(contract, &mut ticket, &sent, progress),
        )
        .await
    }

    /// Repeats attempts until one is answered or no time is left for another.
    async fn retry_loop(
        &self,
        contract: &ContractAddress,
        ticket: &mut Ticket,
        sent: &Sent,
        mut progress: Progress,
    ) -> Result<Answer, ApiError> {
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(250));
        let mut answered_by = None;
        let mut number = 1;
        let began = Instant::now();
        self.check_record(contract)?;
        let ended = loop {
            let destination = self.route(contract, &mut ticket.job).await;
            match destination.and_then(Destination::owner) {
                Ok(Some((address, owner))) => {
                    let tried =
                        self.try_owner(&address, &owner, ticket, sent, number, &mut progress);
                    match tried.await {
                        Ok(Some(reply)) => {
                            answered_by = Some(owner.worker);
                            break self.in_time(reply, began);
                        }
                        Ok(None) => self.routes.invalidate(&address),
                        Err(error) => break Err(error),
                    }
                }
                // The contract waits for a worker.
                Ok(None) => {}
                // An admitted request waits for Redis to return.
                Err(error @ ApiError::QueueUnavailable(_))
                    if number > 1 || !self.is_incomplete() =>
                {
                    progress.last_error = Some(error);
                }
                Err(error) => break Err(error),
            }
            let pause = backoff.delay();
            if self.queue.clock().until(ticket.deadline) < pause {
                let error = progress.last_error.take();
                break Err(self.out_of_time(error.unwrap_or_else(ApiError::no_owner), began));
            }
            tokio::time::sleep(pause).await;
            self.metrics.retries.increment(1);
            number += 1;
        };
        let reply = progress.lost.qualify(&ticket.job, ended)?;
        let rejected = self
            .check_result(&ticket.job, &reply, &progress.checks)
            .await;
        Ok(Answer {
            reply,
            worker: answered_by,
            meter: progress.admitted.and_then(|admitted| admitted.meter),
            rejected: rejected.err(),
        })
    }

    /// Sends a job to its contract's owner and awaits the reply. None if another attempt may
    /// follow.
    async fn try_owner(
        &self,
        address: &ContractAddress,
        owner: &Assignment,
        ticket: &mut Ticket,
        sent: &Sent,
        number: u32,
        progress: &mut Progress,
    ) -> Result<Option<Reply>, ApiError> {
        if !progress.lost.allow(&ticket.job, owner) {
            return Err(ApiError::OutcomeUnknown);
        }
        self.admit(&mut progress.admitted, owner).await?;
        if !self
            .check_argument(address, owner, &mut ticket.job, progress)
            .await?
        {
            return Ok(None);
        }
        sent.set(true);
        let outcome = self.attempt(owner.worker, ticket, number).await?;
        let lost = &mut progress.lost;
        match self.classify(owner.worker, outcome)? {
            AttemptOutcome::Answered(reply) => return Ok(Some(reply)),
            AttemptOutcome::NotStarted => sent.set(lost.any()),
            AttemptOutcome::MaybeStarted => {
                lost.add(owner.worker);
                if !lost.may_repeat(&ticket.job, owner) {
                    return Err(ApiError::OutcomeUnknown);
                }
            }
        }
        Ok(None)
    }

    /// Admits a call before its first attempt: the server with its worker's inbox must answer, and
    /// its limits must allow it.
    async fn admit(
        &self,
        admitted: &mut Option<Admitted>,
        owner: &Assignment,
    ) -> Result<(), ApiError> {
        if admitted.is_none() {
            self.check_inbox(owner.worker)?;
            *admitted = Some(Admitted::by(owner.meter.clone()).await?);
        }
        Ok(())
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
}

impl Admitted {
    /// Lets a call begin within the limits of its contract.
    async fn by(meter: Option<Arc<Meter>>) -> Result<Self, ApiError> {
        let permit = match &meter {
            Some(meter) => {
                meter.admit().await?;
                meter.enter()?
            }
            None => None,
        };
        Ok(Self {
            meter,
            _permit: permit,
        })
    }
}
