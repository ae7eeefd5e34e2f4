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

use futures::FutureExt;
use shared::protocol::frame::{Envelope, Reply, encode_item};
use shared::protocol::id::{ApiId, ContractAddress, JobId, WorkerId};
use shared::protocol::job::{Argument, Job};
use shared::protocol::reply::FailureCode;
use shared::queue::farm::Farm;
use shared::queue::inbox::{Outgoing, Undelivered};
use shared::queue::timing::{REQUEST_OVERTIME, TIDY_WITHIN};
use shared::queue::{Queue, QueueError};
use shared::service::backoff::Backoff;

use self::routes::{Host, Hosting, Routes};
use crate::error::ApiError;
use crate::inboxes::Inboxes;
use crate::metrics::DispatchMetrics;
use crate::reply_router::{Answer, Waiters};

/// An argument over this many bytes does not travel in a frame but lies in Redis meanwhile.
const INLINE_LIMIT: usize = 48 * 1024;

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

/// The workers that a job was lost with.
#[derive(Debug, Default)]
struct Losses {
    count: u32,
    last: Option<WorkerId>,
}

/// What came of giving a job to a worker.
enum Attempt {
    /// It was answered.
    Settled(Reply),
    /// It certainly was not started, and another worker may be the right one.
    NotStarted,
    /// The worker died with it, or its answer is lost.
    MaybeStarted,
}

impl Dispatcher {
    pub(crate) fn new(
        queue: Queue,
        api: ApiId,
        waiters: Arc<Waiters>,
        inboxes: Arc<Inboxes>,
        farm: Farm,
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

    /// How many replies have found nobody.
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
        let (deadline, mut envelope) = (ticket.deadline, envelope(ticket));
        if has_large_argument(&envelope.job) {
            // What is rare is boxed, here and in `routes`: every call would carry room for it.
            return self.run_stored(address, envelope).boxed().await;
        }
        let running = self.try_until_deadline(address, &mut envelope);
        self.in_time(deadline, running).await
    }

    /// The same for a call whose argument would overfill a frame: it lies in the store meanwhile.
    async fn run_stored(
        &self,
        address: &ContractAddress,
        mut envelope: Envelope,
    ) -> Result<Reply, ApiError> {
        let (deadline, mut stored) = (envelope.deadline, None);
        let running = async {
            stored = self.store_argument(&mut envelope).await?;
            self.try_until_deadline(address, &mut envelope).await
        };
        let reply = self.in_time(deadline, running).await;
        if let Some(name) = stored {
            let removing = self.queue.remove_body(&name);
            if !matches!(
                tokio::time::timeout(TIDY_WITHIN, removing).await,
                Ok(Ok(()))
            ) {
                tracing::debug!(name, "a stored argument is left to expire");
            }
        }
        reply
    }

    /// Ends what takes too long: commands to Redis have limits of their own, and may add up.
    async fn in_time<T>(
        &self,
        deadline: u64,
        work: impl Future<Output = Result<T, ApiError>>,
    ) -> Result<T, ApiError> {
        let patience = self.queue.clock().until(deadline) + REQUEST_OVERTIME;
        let ended = tokio::time::timeout(patience, work).await;
        ended.unwrap_or_else(|_| Err(too_late()))
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
        let mut losses = Losses::default();
        let ended = self.try_again(contract, envelope, &mut losses).await;
        let is_call = matches!(envelope.job, Job::Execute(_));
        // The last try was not started, but an earlier one may have been.
        if is_call && losses.count > 0 && never_started(&ended) {
            return Err(ApiError::OutcomeUnknown);
        }
        ended
    }

    /// Until there is an answer, or no time for another try.
    async fn try_again(
        &self,
        contract: &ContractAddress,
        envelope: &mut Envelope,
        losses: &mut Losses,
    ) -> Result<Reply, ApiError> {
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(250));
        let mut trouble = ApiError::NoCapacity(NO_HOST.to_owned());
        loop {
            match self.find(contract, &mut envelope.job).await {
                Ok((_, Host::Nobody)) => return Err(ApiError::ContractNotLoaded),
                Ok((_, Host::NotNow { .. })) => {}
                Ok((_, Host::Quarantined { left, .. })) => {
                    return Err(ApiError::ContractQuarantined(left));
                }
                Ok((address, Host::Worker(hosting))) => {
                    if !losses.allow(&envelope.job, hosting) {
                        return Err(ApiError::OutcomeUnknown);
                    }
                    match self.try_worker(hosting.worker, envelope).await? {
                        Attempt::Settled(reply) => return Ok(reply),
                        Attempt::NotStarted => {}
                        Attempt::MaybeStarted => {
                            losses.note(hosting.worker);
                            if losses.count == MAX_DEATHS || !may_repeat(&envelope.job, hosting) {
                                return Err(ApiError::OutcomeUnknown);
                            }
                        }
                    }
                    self.routes.invalidate(&address);
                }
                // Whoever was let in waits until the queue is there again.
                Err(error @ ApiError::QueueUnavailable(_)) => trouble = error,
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
            Answer::Refused(Undelivered::NoInbox) => {
                self.inboxes.forget(worker);
                Ok(Attempt::NotStarted)
            }
            Answer::Refused(Undelivered::Unavailable) => Err(ApiError::Ambiguous),
            Answer::Refused(Undelivered::Unknown) => {
                self.inboxes.forget(worker);
                Ok(Attempt::MaybeStarted)
            }
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
        // For how long is its caller's matter: see `in_time`.
        let answer = waiter.answer().await.ok_or_else(too_late)?;
        withdrawal.disarm();
        Ok(answer)
    }

    /// Moves an argument into the store; returns its name there.
    async fn store_argument(&self, envelope: &mut Envelope) -> Result<Option<String>, QueueError> {
        let Job::Execute(execute) = &mut envelope.job else {
            return Ok(None);
        };
        let Argument::Json(json) = &execute.argument else {
            return Ok(None);
        };
        let (id, body) = (self.waiters.fresh_id(), json.get().as_bytes());
        let name = self
            .queue
            .store_body(self.api, id, body, envelope.deadline)
            .await?;
        execute.argument = Argument::Stored(name.clone());
        Ok(Some(name))
    }
}

fn too_late() -> ApiError {
    ApiError::ExecutionTimeout("No answer came before the deadline".to_owned())
}

fn has_large_argument(job: &Job) -> bool {
    let Job::Execute(execute) = job else {
        return false;
    };
    matches!(&execute.argument, Argument::Json(json) if json.get().len() > INLINE_LIMIT)
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

impl Losses {
    fn note(&mut self, worker: WorkerId) {
        self.count += 1;
        self.last = Some(worker);
    }

    /// Whether a call that may have been started may be given to this host. It is run again only
    /// because the page's state died with it; where the same worker still hosts the contract, that
    /// may have lived on.
    fn allow(&self, job: &Job, hosting: Hosting) -> bool {
        let is_call = matches!(job, Job::Execute(_));
        !is_call || hosting.idempotent || self.last != Some(hosting.worker)
    }
}

/// Whether an end says that the job was not started.
fn never_started(ended: &Result<Reply, ApiError>) -> bool {
    match ended {
        Ok(reply) => matches!(&reply.outcome, Err(failure) if !failure.started),
        Err(error) => error.never_started(),
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
