//! Brings a job to the worker that hosts its contract and waits for the answer.
//!
//! Register the waiter, route, enqueue, await; and again, within the deadline, when the answer is
//! that the job was not started, or that it may be run again. What a reply means to a caller is
//! decided elsewhere.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use moka::sync::Cache;
use shared::backoff::Backoff;
use shared::frame::{Envelope, Reply, encode_item};
use shared::id::{ApiId, ContractAddress, JobId, WorkerId};
use shared::job::{Argument, ContractSpec, Engine, Inspect, Job, Load};
use shared::queue::contracts::Route;
use shared::queue::inbox::{Outgoing, Refusal};
use shared::queue::{Queue, QueueError};
use shared::reply::{ContractStatus, FailureCode, Output};

use crate::error::ApiError;
use crate::inboxes::Inboxes;
use crate::metrics::DispatchMetrics;
use crate::reply_router::{Answer, Waiters};

/// How long a route is believed. A wrong one costs a second try, so this only bounds memory of
/// contracts that nobody calls.
const ROUTE_AGE: Duration = Duration::from_secs(30);

/// How many routes are remembered.
const ROUTES: u64 = 100_000;

/// An argument over this many bytes does not travel in a frame but lies in Redis meanwhile.
const INLINE_LIMIT: usize = 48 * 1024;

/// How much longer than a job's deadline its answer is awaited, since the worker, too, answers
/// that a job has expired.
const SLACK: Duration = Duration::from_millis(500);

/// How long the living workers have to tell what they host.
const INSPECT_PATIENCE: Duration = Duration::from_secs(2);

/// How long it takes the workers, at most, to restore what Redis has lost: they notice it at their
/// next heartbeat.
const RESTORED_WITHIN: Duration = Duration::from_secs(5);

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
    routes: Cache<ContractAddress, Hosting>,
    inboxes: Arc<Inboxes>,
    farm: Mutex<Farm>,
    metrics: DispatchMetrics,
}

/// The farm's name, which Redis keeps with the rest of its data.
#[derive(Debug)]
struct Farm {
    name: String,
    /// When the data was found lost.
    lost: Option<Instant>,
}

/// A contract's host.
#[derive(Debug, Clone, Copy)]
struct Hosting {
    worker: WorkerId,
    /// Whether its calls may be run again when it is unknown if they were run.
    repeatable: bool,
}

/// Who hosts a contract.
enum Host {
    /// It is not loaded.
    Nobody,
    /// It is loaded, and waits for a worker.
    NotNow,
    /// This worker.
    Worker(Hosting),
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
        let routes = Cache::builder()
            .max_capacity(ROUTES)
            .time_to_live(ROUTE_AGE)
            .build();
        Self {
            queue,
            api,
            waiters,
            routes,
            inboxes,
            farm: Mutex::new(Farm {
                name: farm,
                lost: None,
            }),
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

    async fn try_until_deadline(
        &self,
        address: &ContractAddress,
        envelope: &mut Envelope,
    ) -> Result<Reply, ApiError> {
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(250));
        let mut deaths = 0;
        let mut trouble = ApiError::NoCapacity(NO_HOST.to_owned());
        loop {
            match self.host(address).await {
                Ok(Host::Nobody) => return Err(ApiError::ContractNotLoaded),
                Ok(Host::NotNow) => {}
                Ok(Host::Worker(hosting)) => {
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
                    self.routes.invalidate(address);
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
        self.inboxes.send(
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

    /// Who hosts the contract. A free contract is offered to the workers again, should that have
    /// been lost.
    async fn host(&self, address: &ContractAddress) -> Result<Host, ApiError> {
        if let Some(hosting) = self.routes.get(address) {
            if !self.inboxes.is_suspect(hosting.worker) {
                self.metrics.cache_hits.increment(1);
                return Ok(Host::Worker(hosting));
            }
            // It may be another worker's by now.
            self.routes.invalidate(address);
        }
        self.metrics.cache_misses.increment(1);
        match self.queue.route(address).await? {
            Route::NotLoaded if self.has_lost_data().await? => Ok(Host::NotNow),
            Route::NotLoaded => Ok(Host::Nobody),
            Route::Quarantined(record) => {
                let left = self.queue.clock().until(record.quarantined_until);
                Err(ApiError::ContractQuarantined(left))
            }
            Route::Unplaced(record) => {
                if record.owner.is_none() && self.queue.is_offer_due(address).await? {
                    let (address, spec) = (address.clone(), record.spec);
                    self.queue.offer(Load { address, spec }).await?;
                }
                Ok(Host::NotNow)
            }
            // A worker that seems to be gone is sent nothing until that is certain.
            Route::Hosted(worker, _) if self.inboxes.is_suspect(worker) => Ok(Host::NotNow),
            Route::Hosted(worker, record) => {
                let hosting = Hosting {
                    worker,
                    repeatable: is_repeatable(&record.spec),
                };
                self.routes.insert(address.clone(), hosting);
                Ok(Host::Worker(hosting))
            }
        }
    }

    /// Whether Redis lost its data a moment ago: workers are about to say again what is loaded.
    async fn has_lost_data(&self) -> Result<bool, QueueError> {
        let name = self.queue.farm().await?;
        let mut farm = self.farm.lock().unwrap_or_else(PoisonError::into_inner);
        if farm.name != name {
            *farm = Farm {
                name,
                lost: Some(Instant::now()),
            };
        }
        Ok(farm
            .lost
            .is_some_and(|moment| moment.elapsed() < RESTORED_WITHIN))
    }

    /// Loads a contract: at its host when it has one, else at any worker with room.
    pub(crate) async fn load(
        &self,
        load: Load,
        executable: &[u8],
        ticket: impl Fn(Job) -> Ticket,
    ) -> Result<Reply, ApiError> {
        let mut envelope = envelope(ticket(Job::Load(load.clone())));
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_millis(500));
        loop {
            let time_left = self.queue.clock().until(envelope.deadline);
            if time_left.is_zero() {
                let message = "No worker took the contract in time".to_owned();
                return Err(ApiError::NoCapacity(message));
            }
            let ttl = time_left + SLACK;
            self.queue
                .stage_blob(&load.spec.digest, executable, ttl)
                .await?;
            self.routes.invalidate(&load.address);
            let attempt = match self.queue.route(&load.address).await? {
                Route::Hosted(worker, _) => self.try_worker(worker, &mut envelope).await?,
                _ => self.place(load.spec.engine, &mut envelope).await?,
            };
            match attempt {
                Attempt::Settled(reply) if !lacks_executable(&reply) => return Ok(reply),
                // Loading twice is loading once.
                _ => {}
            }
            backoff.wait().await;
            envelope.attempt += 1;
        }
    }

    /// Offers a load to all workers with room.
    async fn place(&self, engine: Engine, envelope: &mut Envelope) -> Result<Attempt, ApiError> {
        let workers = self.queue.workers().await?;
        if workers.iter().all(|(_, info)| info.free(engine) == 0) {
            return Err(ApiError::NoCapacity(format!(
                "None of {} workers has room for another {engine} contract",
                workers.len()
            )));
        }
        let waiter = self.waiters.register();
        envelope.id = waiter.id;
        self.queue.place(engine, Some(self.api), envelope).await?;
        let patience = self.queue.clock().until(envelope.deadline) + SLACK;
        match waiter.wait(patience).await {
            Some(Answer::Reply(reply)) => Ok(attempt(reply)),
            Some(Answer::Lost) => Ok(Attempt::MaybeStarted),
            Some(Answer::Refused(_)) | None => {
                let message = "No worker took the contract in time".to_owned();
                Err(ApiError::NoCapacity(message))
            }
        }
    }

    /// Asks workers what they host; one that does not answer tells nothing.
    pub(crate) async fn inspect(
        &self,
        workers: impl IntoIterator<Item = WorkerId>,
        address: Option<&ContractAddress>,
    ) -> Vec<ContractStatus> {
        let inspect = || Inspect {
            address: address.cloned(),
        };
        let answers = workers.into_iter().map(|worker| async move {
            match self.tell(worker, Job::Inspect(inspect())).await {
                Ok(Some(Output::Contracts(contracts))) => contracts,
                _ => Vec::new(),
            }
        });
        futures::future::join_all(answers).await.concat()
    }

    /// Gives a worker a job about itself; none if it does not answer.
    pub(crate) async fn tell(
        &self,
        worker: WorkerId,
        job: Job,
    ) -> Result<Option<Output>, ApiError> {
        let deadline = self.queue.clock().after(INSPECT_PATIENCE);
        let mut envelope = envelope(Ticket {
            job,
            deadline,
            trace: None,
        });
        match self.ask(worker, &mut envelope).await? {
            Answer::Reply(reply) => Ok(reply.outcome.ok()),
            _ => Ok(None),
        }
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

/// A page reaches nothing outside itself, and its state died with it; what a container did stays
/// done.
fn is_repeatable(spec: &ContractSpec) -> bool {
    spec.engine == Engine::Javascript || spec.idempotent
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

fn lacks_executable(reply: &Reply) -> bool {
    matches!(&reply.outcome, Err(failure) if failure.code == FailureCode::ExecutableMissing)
}
