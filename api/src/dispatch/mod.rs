//! Brings a job to the worker that hosts its contract and waits for the answer.
//!
//! Register the waiter, route, enqueue, await; and again, within the deadline, when the answer is
//! that the job was not started, or that it may be run again. What a reply means to a caller is
//! decided elsewhere.

mod inspect;
mod loading;
mod routes;

use std::sync::Arc;
use std::time::Duration;

use shared::backoff::Backoff;
use shared::frame::{Envelope, Reply, encode_item};
use shared::id::{ApiId, ContractAddress, JobId, WorkerId};
use shared::job::{Argument, Job};
use shared::queue::inbox::{Outgoing, Refusal};
use shared::queue::{Queue, QueueError};
use shared::reply::FailureCode;

use self::routes::{Host, Hosting, Routes};
use crate::error::ApiError;
use crate::inboxes::Inboxes;
use crate::metrics::DispatchMetrics;
use crate::reply_router::{Answer, Waiters};

/// An argument over this many bytes does not travel in a frame but lies in Redis meanwhile.
const INLINE_LIMIT: usize = 48 * 1024;

/// How much longer than a job's deadline its answer is awaited, since the worker, too, answers
/// that a job has expired.
const SLACK: Duration = Duration::from_millis(500);

/// What is said when nobody could be asked.
const NO_HOST: &str = "No worker hosts the contract at the moment";

/// How often a job may be given to a worker that dies with it.
const MAX_DEATHS: u32 = 2;

/// A job on behalf of one request.
#[derive(Debug)]
pub(crate) struct Ticket {
    /// What to do.
    pub(crate) job: Job,
    /// When the caller stops waiting, by Redis' clock.
    pub(crate) deadline: u64,
    /// W3C trace context.
    pub(crate) trace: Option<String>,
}

/// Sends jobs, awaits replies.
pub(crate) struct Dispatcher {
    queue: Queue,
    api: ApiId,
    waiters: Arc<Waiters>,
    routes: Routes,
    inboxes: Arc<Inboxes>,
    metrics: DispatchMetrics,
}

/// What came of giving a job to a worker.
enum Attempt {
    /// It was answered.
    Settled(Reply),
    /// It certainly was not started, and another worker may be the right one.
    NotStarted,
    /// The worker died with it.
    MaybeStarted,
}

impl Dispatcher {
    pub(crate) fn new(
        queue: Queue,
        api: ApiId,
        waiters: Arc<Waiters>,
        inboxes: Arc<Inboxes>,
        farm: String,
        metrics: DispatchMetrics,
    ) -> Self {
        Self {
            routes: Routes::new(queue.clone(), inboxes.clone(), farm, metrics.clone()),
            queue,
            api,
            waiters,
            inboxes,
            metrics,
        }
    }

    /// How many answers have found nobody.
    pub(crate) fn unclaimed(&self) -> u64 {
        self.waiters.unclaimed()
    }

    /// Runs a job where its contract is hosted. An error is the caller's to see; a reply may
    /// still hold a failure of the contract.
    pub(crate) async fn run(
        &self,
        address: &ContractAddress,
        ticket: Ticket,
    ) -> Result<Reply, ApiError> {
        let mut envelope = envelope(ticket);
        let stored = self.store_large_argument(&mut envelope).await?;
        let reply = self.try_until_deadline(address, &mut envelope).await;
        if let Some(name) = stored
            && let Err(error) = self.queue.remove_body(&name).await
        {
            tracing::debug!(%error, "a stored argument is left to expire");
        }
        reply
    }

    /// Where a job goes: a call to any of the contract's replicas, whatever else to the contract.
    async fn find(
        &self,
        contract: &ContractAddress,
        job: &mut Job,
    ) -> Result<(ContractAddress, Host), ApiError> {
        let Job::Execute(execute) = job else {
            return Ok((contract.clone(), self.routes.host(contract).await?));
        };
        let (address, host) = self.routes.pick(contract).await?;
        execute.address = address.clone();
        Ok((address, host))
    }

    async fn try_until_deadline(
        &self,
        contract: &ContractAddress,
        envelope: &mut Envelope,
    ) -> Result<Reply, ApiError> {
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(250));
        let mut deaths = 0;
        let mut trouble = ApiError::NoCapacity(NO_HOST.to_owned());
        loop {
            match self.find(contract, &mut envelope.job).await {
                Ok((_, Host::Nobody)) => return Err(ApiError::ContractNotLoaded),
                Ok((_, Host::NotNow { .. })) => {}
                Ok((_, Host::Quarantined { left, .. })) => {
                    return Err(ApiError::ContractQuarantined(left));
                }
                Ok((address, Host::Worker(hosting))) => {
                    match self.try_worker(hosting.worker, envelope).await? {
                        Attempt::Settled(reply) => return Ok(reply),
                        Attempt::NotStarted => {}
                        Attempt::MaybeStarted => {
                            deaths += 1;
                            if deaths == MAX_DEATHS || !may_repeat(&envelope.job, hosting) {
                                return Err(ApiError::OutcomeUnknown);
                            }
                            trouble = ApiError::OutcomeUnknown;
                        }
                    }
                    self.routes.invalidate(&address);
                }
                // Whoever was let in waits until the queue is there again.
                Err(error @ ApiError::QueueUnavailable(_)) => {
                    if deaths == 0 {
                        trouble = error;
                    }
                }
                Err(error) => return Err(error),
            }
            let pause = backoff.delay();
            if self.queue.clock().until(envelope.deadline) < pause {
                return Err(trouble);
            }
            tokio::time::sleep(pause).await;
            self.metrics.retries.increment(1);
            envelope.attempt += 1;
        }
    }

    /// Gives the job to `worker`.
    async fn try_worker(
        &self,
        worker: WorkerId,
        envelope: &mut Envelope,
    ) -> Result<Attempt, ApiError> {
        match self.ask(worker, envelope).await? {
            Answer::Refused(Refusal::NoInbox) => {
                self.inboxes.forget(worker);
                Ok(Attempt::NotStarted)
            }
            Answer::Refused(Refusal::Unavailable) => Err(ApiError::Ambiguous),
            Answer::Lost => Ok(Attempt::MaybeStarted),
            Answer::Reply(reply) => Ok(attempt(reply)),
        }
    }

    /// Hands the job to the worker's inbox and awaits what comes of it. A caller that leaves
    /// meanwhile takes the job back.
    async fn ask(&self, worker: WorkerId, envelope: &mut Envelope) -> Result<Answer, ApiError> {
        let waiter = self.waiters.register();
        envelope.id = waiter.id;
        let item = encode_item(envelope);
        let _under_way = self.inboxes.send(
            worker,
            Outgoing {
                id: waiter.id,
                item,
            },
        )?;
        let withdrawal = self
            .inboxes
            .withdrawal(worker, waiter.id, self.waiters.fresh_id());
        let patience = self.queue.clock().until(envelope.deadline) + SLACK;
        let answer = waiter.wait(patience).await.ok_or_else(|| {
            ApiError::ExecutionTimeout("No answer came before the deadline".to_owned())
        })?;
        withdrawal.disarm();
        Ok(answer)
    }

    /// Moves an argument that would overfill a frame into the store; returns its name there.
    async fn store_large_argument(
        &self,
        envelope: &mut Envelope,
    ) -> Result<Option<String>, QueueError> {
        let Job::Execute(execute) = &mut envelope.job else {
            return Ok(None);
        };
        let Argument::Json(json) = &execute.argument else {
            return Ok(None);
        };
        if json.get().len() <= INLINE_LIMIT {
            return Ok(None);
        }
        let (id, body) = (self.waiters.fresh_id(), json.get().as_bytes());
        let name = self
            .queue
            .store_body(self.api, id, body, envelope.deadline)
            .await?;
        execute.argument = Argument::Stored(name.clone());
        Ok(Some(name))
    }
}

/// A job on its way; it is named when it is sent.
fn envelope(ticket: Ticket) -> Envelope {
    let Ticket {
        job,
        deadline,
        trace,
    } = ticket;
    Envelope {
        id: JobId(0),
        deadline,
        attempt: 1,
        trace,
        job,
    }
}

fn may_repeat(job: &Job, hosting: Hosting) -> bool {
    hosting.repeatable || !matches!(job, Job::Execute(_))
}

fn attempt(reply: Reply) -> Attempt {
    match reply.outcome.as_ref().map_err(|failure| failure.code) {
        Err(FailureCode::NotHosted | FailureCode::Draining) => Attempt::NotStarted,
        Err(FailureCode::WorkerLost) => Attempt::MaybeStarted,
        _ => Attempt::Settled(reply),
    }
}
