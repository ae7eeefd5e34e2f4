//! Brings a job to the worker that owns its contract and awaits the reply.
//!
//! `call = with_deadline(retry_loop(attempt))`: an attempt sends the job to one worker and awaits
//! the outcome. The loop tries again while the job certainly was not started, or may run again.
//! What a reply means to a client is decided in `routes` and `error`.

mod attempt;
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
use shared::protocol::job::{Argument, Job};
use shared::queue::farm::Farm;
use shared::queue::timing::TIDY_WITHIN;
use shared::queue::{Queue, QueueError};
use shared::service::backoff::Backoff;
use tokio::time::Instant;

use self::attempt::AttemptOutcome;
use self::deadline::Sent;
use self::lost_attempts::LostAttempts;
use self::route_cache::{Destination, RouteCache, RouteCacheParts};
use crate::breaker::Breaker;
use crate::error::ApiError;
use crate::inboxes::Inboxes;
use crate::limits::{Meter, MeterPermit, Meters};
use crate::metrics::DispatchMetrics;
use crate::reply_router::Waiters;
use crate::reply_streams::ReplyStreams;

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
    /// The meter of the contract, if it has one.
    pub(crate) meter: Option<Arc<Meter>>,
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
        self.with_deadline(
            deadline,
            &sent,
            self.retry_loop(contract, &mut ticket, &sent),
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
            self.check_record(contract)?;
            stored = self.store_argument(contract, &mut ticket).await?;
            self.retry_loop(contract, &mut ticket, &sent).await
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

    /// Repeats attempts until one is answered or no time is left for another.
    async fn retry_loop(
        &self,
        contract: &ContractAddress,
        ticket: &mut Ticket,
        sent: &Sent,
    ) -> Result<Answer, ApiError> {
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(250));
        let mut last_error = ApiError::no_owner();
        let mut lost = LostAttempts::default();
        let mut answered_by = None;
        let mut admitted = None;
        let mut number = 1;
        let began = Instant::now();
        self.check_record(contract)?;
        let ended = loop {
            let destination = self.route(contract, &mut ticket.job).await;
            match destination.and_then(Destination::owner) {
                Ok(Some((address, owner))) => {
                    if !lost.allow(&ticket.job, &owner) {
                        break Err(ApiError::OutcomeUnknown);
                    }
                    if let Err(refused) = self.admit(&mut admitted, &owner).await {
                        break Err(refused);
                    }
                    sent.set(true);
                    let outcome = self.attempt(owner.worker, ticket, number).await;
                    match outcome.and_then(|outcome| self.classify(owner.worker, outcome)) {
                        Ok(AttemptOutcome::Answered(reply)) => {
                            answered_by = Some(owner.worker);
                            break self.in_time(reply, began);
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
                    self.routes.invalidate(&address);
                }
                // The contract waits for a worker.
                Ok(None) => {}
                // An admitted request waits for Redis to return.
                Err(error @ ApiError::QueueUnavailable(_))
                    if number > 1 || !self.is_incomplete() =>
                {
                    last_error = error;
                }
                Err(error) => break Err(error),
            }
            let pause = backoff.delay();
            if self.queue.clock().until(ticket.deadline) < pause {
                break Err(self.out_of_time(last_error, began));
            }
            tokio::time::sleep(pause).await;
            self.metrics.retries.increment(1);
            number += 1;
        };
        let reply = lost.qualify(&ticket.job, ended)?;
        Ok(Answer {
            reply,
            worker: answered_by,
            meter: admitted.and_then(|admitted| admitted.meter),
        })
    }

    /// Admits a call before its first attempt: the server with its worker's inbox must answer, and
    /// its limits must allow it.
    async fn admit(
        &self,
        admitted: &mut Option<Admitted>,
        owner: &route_cache::Assignment,
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

    /// Moves a call's argument into Redis; returns its name there.
    async fn store_argument(
        &self,
        contract: &ContractAddress,
        ticket: &mut Ticket,
    ) -> Result<Option<String>, QueueError> {
        let Job::Execute(execute) = &mut ticket.job else {
            return Ok(None);
        };
        let Argument::Json(json) = &execute.argument else {
            return Ok(None);
        };
        let (id, body) = (self.waiters.next_id(), json.get().as_bytes());
        // On a server that the call needs anyway.
        let stream = match self.routes.known_owner(contract) {
            Some(owner) => self.inboxes.writer(owner).stream,
            None => self.replies.for_contract(contract),
        };
        let storing = self.queue.store_body(stream, id, body, ticket.deadline);
        let name = storing.await?;
        execute.argument = Argument::Stored(name.clone());
        Ok(Some(name))
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

fn has_large_argument(job: &Job) -> bool {
    let Job::Execute(execute) = job else {
        return false;
    };
    matches!(&execute.argument, Argument::Json(json) if json.get().len() > INLINE_LIMIT)
}
