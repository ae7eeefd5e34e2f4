//! Loads and unloads: of every replica of a contract, at its host or wherever there is room.

use std::time::Duration;

use shared::protocol::frame::{Envelope, Reply};
use shared::protocol::id::ContractAddress;
use shared::protocol::job::{EngineKind, Job, Load, Unload};
use shared::protocol::reply::FailureCode;
use shared::queue::contracts::Route;
use shared::queue::timing::REPLY_SLACK;
use shared::service::backoff::Backoff;

use super::{Attempt, Dispatcher, Ticket, attempt, envelope};
use crate::error::ApiError;
use crate::reply_router::Answer;

/// How long the replicas of a contract that could not be loaded as a whole may take to close.
const WITHDRAWN_WITHIN: Duration = Duration::from_secs(5);

/// Makes the ticket of one job of a request.
pub(crate) trait Tickets: Fn(Job) -> Ticket {}

impl<T: Fn(Job) -> Ticket> Tickets for T {}

impl Dispatcher {
    /// Loads a contract, all its replicas at once. One that was not loaded before and cannot be
    /// loaded as a whole is not loaded afterwards either.
    pub(crate) async fn load(
        &self,
        load: &Load,
        executable: &[u8],
        tickets: impl Tickets,
    ) -> Result<(), ApiError> {
        let (contract, replicas) = (&load.address, load.spec.replicas);
        self.check_room(load).await?;
        let before = self.queue.contract(contract).await?;
        let loads = (1..=replicas).map(|number| {
            let (address, spec) = (contract.replica(number), load.spec.clone());
            self.load_one(Load { address, spec }, executable, &tickets)
        });
        let loaded = futures::future::join_all(loads).await;
        let loaded: Result<(), ApiError> = loaded.into_iter().collect();
        match (&loaded, before) {
            (Ok(()), Some(before)) => {
                for number in replicas + 1..=before.spec.replicas {
                    Box::pin(self.unload_one(&contract.replica(number), &tickets)).await?;
                }
            }
            (Err(_), None) if replicas > 1 => {
                Box::pin(self.withdraw(contract, replicas, &tickets)).await;
            }
            _ => {}
        }
        loaded
    }

    /// Closes what came to be of a contract.
    async fn withdraw(&self, contract: &ContractAddress, replicas: u32, tickets: &impl Tickets) {
        let deadline = self.queue.clock().after(WITHDRAWN_WITHIN);
        let tickets = |job| Ticket {
            deadline,
            ..tickets(job)
        };
        for number in (1..=replicas).rev() {
            let address = contract.replica(number);
            if let Err(error) = self.unload_one(&address, &tickets).await {
                tracing::warn!(contract = %address, %error, "cannot withdraw a failed load");
            }
        }
    }

    /// Closes a contract and its replicas; done also when it was not loaded.
    pub(crate) async fn unload(
        &self,
        contract: &ContractAddress,
        tickets: impl Tickets,
    ) -> Result<(), ApiError> {
        let record = self.queue.contract(contract).await?;
        let replicas = record.map_or(1, |record| record.spec.replicas);
        // The contract itself last: it tells how many there are, should this have to be repeated.
        for number in (1..=replicas).rev() {
            self.unload_one(&contract.replica(number), &tickets).await?;
        }
        Ok(())
    }

    /// No worker hosts two replicas of one contract.
    async fn check_room(&self, load: &Load) -> Result<(), ApiError> {
        let (engine, replicas) = (load.spec.engine, load.spec.replicas);
        if replicas == 1 {
            return Ok(());
        }
        let workers = self.queue.workers().await?;
        let able = workers
            .iter()
            .filter(|(_, info)| info.engines.contains(&engine));
        let able = able.count();
        if u32::try_from(able).is_ok_and(|able| able < replicas) {
            return Err(ApiError::NoCapacity(format!(
                "{replicas} replicas need as many workers for {engine} contracts; there are {able}"
            )));
        }
        Ok(())
    }

    /// Loads one replica: at its host when it has one, else at any worker with room.
    async fn load_one(
        &self,
        load: Load,
        executable: &[u8],
        tickets: &impl Tickets,
    ) -> Result<(), ApiError> {
        let envelope = envelope(tickets(Job::Load(load.clone())));
        let deadline = envelope.deadline;
        let loading = Box::pin(self.try_load(&load, executable, envelope));
        self.in_time(deadline, loading).await
    }

    async fn try_load(
        &self,
        load: &Load,
        executable: &[u8],
        mut envelope: Envelope,
    ) -> Result<(), ApiError> {
        let mut may_be_loading = false;
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_millis(500));
        loop {
            let time_left = self.queue.clock().until(envelope.deadline);
            if time_left.is_zero() {
                return Err(not_taken().if_started(may_be_loading));
            }
            let ttl = time_left + REPLY_SLACK;
            self.queue
                .stage_blob(&load.spec.digest, executable, ttl)
                .await?;
            self.routes.invalidate(&load.address);
            let attempt = match self.queue.route(&load.address).await? {
                Route::Assigned(worker, _) => self.try_worker(worker, &mut envelope).await?,
                _ => self.place(load.spec.engine, &mut envelope).await?,
            };
            match attempt {
                Attempt::Settled(reply) if !lacks_executable(&reply) => {
                    return Ok(reply.outcome.map(drop)?);
                }
                // Loading twice is loading once.
                Attempt::MaybeStarted => may_be_loading = true,
                _ => {}
            }
            backoff.wait().await;
            envelope.attempt += 1;
        }
    }

    async fn unload_one(
        &self,
        address: &ContractAddress,
        tickets: &impl Tickets,
    ) -> Result<(), ApiError> {
        if let Route::Unassigned(record) | Route::Quarantined(record) =
            self.queue.route(address).await?
            && self.queue.remove_contract(address, record.owner).await?
        {
            self.queue
                .release_blob(&record.spec.digest, address)
                .await?;
            return Ok(());
        }
        let job = Job::Unload(Unload {
            address: address.clone(),
        });
        match self.run(address, tickets(job)).await {
            Ok(reply) => Ok(reply.outcome.map(drop)?),
            Err(ApiError::ContractNotLoaded) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Offers a load to all workers with room.
    async fn place(
        &self,
        engine: EngineKind,
        envelope: &mut Envelope,
    ) -> Result<Attempt, ApiError> {
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
        let patience = self.queue.clock().until(envelope.deadline) + REPLY_SLACK;
        match waiter.wait(patience).await {
            Some(Answer::Reply(reply)) => Ok(attempt(reply)),
            Some(Answer::Lost) => Ok(Attempt::MaybeStarted),
            // One may be at it, and may come to an end yet.
            Some(Answer::Refused(_)) | None => Err(not_taken().if_started(true)),
        }
    }
}

fn not_taken() -> ApiError {
    ApiError::NoCapacity("No worker took the contract in time".to_owned())
}

fn lacks_executable(reply: &Reply) -> bool {
    matches!(&reply.outcome, Err(failure) if failure.code == FailureCode::ExecutableMissing)
}
