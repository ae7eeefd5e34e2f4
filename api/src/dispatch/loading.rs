//! Loads and unloads all replicas of a contract: at the owning workers, or wherever there is room.

use std::time::Duration;

use shared::protocol::frame::Envelope;
use shared::protocol::id::{ContractAddress, WorkerId};
use shared::protocol::job::{Job, Load, Unload};
use shared::queue::leases::Fate;
use shared::queue::ownership::Standing;
use shared::queue::references::Reference;
use shared::queue::timing::{REPLY_SLACK, TIDY_WITHIN};
use shared::service::backoff::Backoff;
use tokio::time::Instant;

use super::attempt::AttemptOutcome;
use super::{Dispatcher, Sent, Ticket};
use crate::error::ApiError;
use crate::reply_router::WaitOutcome;

/// How long the replicas of a load that failed may take to close.
const ROLL_BACK_WITHIN: Duration = Duration::from_secs(5);

/// Builds the ticket of one job of a request, which may need several jobs.
pub(crate) trait Tickets: Fn(Job) -> Ticket {}

impl<T: Fn(Job) -> Ticket> Tickets for T {}

impl Dispatcher {
    /// Loads all replicas of a contract in parallel. If one fails and the contract was not loaded
    /// before, the others are unloaded again.
    ///
    /// The executable is dropped once Redis has it: it may be large, and a load may wait for long.
    pub(crate) async fn load(
        &self,
        load: &Load,
        executable: impl AsRef<[u8]>,
        tickets: impl Tickets,
    ) -> Result<(), ApiError> {
        let (contract, replicas) = (&load.address, load.spec.replicas);
        self.check_load(load)?;
        self.check_limits(load).await?;
        self.check_room(load).await?;
        let before = self.queue.contract(contract).await?;
        let staged_at = self.stage(load, executable, &tickets).await?;
        let loads = (1..=replicas).map(|number| {
            let (address, spec) = (contract.replica(number), load.spec.clone());
            let load = Load {
                address,
                spec,
                seen: None,
            };
            self.load_replica(load, &tickets)
        });
        let loaded = joint_end(futures::future::join_all(loads).await);
        if let Err(error) = &loaded {
            self.discard_executable(load, staged_at, error).await;
        }
        match (&loaded, before) {
            (Ok(()), Some(before)) => {
                if before.spec.keep_logs && !load.spec.keep_logs {
                    self.remove_logs(contract).await;
                }
                for number in replicas + 1..=before.spec.replicas {
                    let surplus = contract.replica(number);
                    let unloaded = Box::pin(self.unload_replica(&surplus, &tickets)).await;
                    // The load itself has been carried out.
                    unloaded.map_err(|error| error.if_started(true))?;
                }
            }
            (Err(_), None) if replicas > 1 => {
                Box::pin(self.roll_back(contract, replicas, &tickets)).await;
            }
            _ => {}
        }
        loaded
    }

    /// Puts the executable into Redis for as long as the load may take; returns when it was loaded
    /// by the clock of Redis.
    async fn stage(
        &self,
        load: &Load,
        executable: impl AsRef<[u8]>,
        tickets: &impl Tickets,
    ) -> Result<Option<u64>, ApiError> {
        let deadline = tickets(Job::Load(load.clone())).deadline;
        let ttl = self.queue.clock().until(deadline) + REPLY_SLACK;
        let (digest, executable) = (&load.spec.digest, executable.as_ref());
        let staging = async {
            let (queue, limit) = (&self.queue, self.executables_limit);
            if !queue
                .reserve_executable(digest, executable.len(), limit)
                .await?
            {
                return Err(ApiError::no_room_for_executable(limit));
            }
            queue.stage_blob(digest, executable, ttl).await?;
            Ok(queue.executable_loaded_at(digest).await?)
        };
        self.with_deadline(deadline, &Sent::default(), staging)
            .await
    }

    /// Removes the executable of a load that has certainly failed, so that it does not occupy the
    /// quota. If that fails, it expires.
    async fn discard_executable(&self, load: &Load, staged_at: Option<u64>, error: &ApiError) {
        let is_final = error.never_started() || matches!(error, ApiError::InvalidExecutable(_));
        let (Some(staged_at), true) = (staged_at, is_final) else {
            return;
        };
        let discarding = self.queue.discard_executable(&load.spec.digest, staged_at);
        let discarded = tokio::time::timeout(TIDY_WITHIN, discarding).await;
        if !matches!(discarded, Ok(Ok(()))) {
            tracing::debug!(contract = %load.address, "executable of a failed load not removed yet");
        }
    }

    /// Removes what the contract has written so far: the load asks not to keep it.
    async fn remove_logs(&self, contract: &ContractAddress) {
        let removed = tokio::time::timeout(TIDY_WITHIN, self.queue.remove_logs(contract)).await;
        if !matches!(removed, Ok(Ok(()))) {
            tracing::debug!(%contract, "output not removed, it will expire");
        }
    }

    /// Unloads the replicas of a load that failed.
    async fn roll_back(&self, contract: &ContractAddress, replicas: u32, tickets: &impl Tickets) {
        let deadline = self.queue.clock().after(ROLL_BACK_WITHIN);
        let tickets = |job| Ticket {
            deadline,
            ..tickets(job)
        };
        for number in (1..=replicas).rev() {
            let address = contract.replica(number);
            if let Err(error) = self.unload_replica(&address, &tickets).await {
                tracing::warn!(contract = %address, %error, "cannot roll back a failed load");
            }
        }
    }

    /// Unloads a contract and its replicas. A no-op if it is not loaded.
    pub(crate) async fn unload(
        &self,
        contract: &ContractAddress,
        tickets: impl Tickets,
    ) -> Result<(), ApiError> {
        self.check_unload(contract)?;
        let record = self.queue.contract(contract).await?;
        let replicas = record.map_or(1, |record| record.spec.replicas);
        // The first replica comes last: its record holds their number, in case this is repeated.
        for number in (1..=replicas).rev() {
            let unloaded = self
                .unload_replica(&contract.replica(number), &tickets)
                .await;
            let is_first = number == replicas;
            unloaded.map_err(|error| error.if_started(!is_first))?;
        }
        Ok(())
    }

    /// Loads one replica: at its owner if it has one, otherwise at any worker with room.
    async fn load_replica(&self, load: Load, tickets: &impl Tickets) -> Result<(), ApiError> {
        let ticket = tickets(Job::Load(load.clone()));
        let deadline = ticket.deadline;
        let loading = Box::pin(self.retry_load(&load, &ticket));
        // A load that hangs may have been placed.
        let sent = Sent::default();
        sent.set(true);
        self.with_deadline(deadline, &sent, loading).await
    }

    /// Loads one replica. Whatever ends the last attempt, an earlier one may be loading.
    async fn retry_load(&self, load: &Load, ticket: &Ticket) -> Result<(), ApiError> {
        let mut may_be_loading = false;
        let loaded = self.attempt_loads(load, ticket, &mut may_be_loading).await;
        loaded.map_err(|error| error.if_started(may_be_loading))
    }

    /// Repeats attempts to load one replica until one is answered or the deadline passes. Notes
    /// attempts that may still be loading it.
    async fn attempt_loads(
        &self,
        load: &Load,
        ticket: &Ticket,
        may_be_loading: &mut bool,
    ) -> Result<(), ApiError> {
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_millis(500));
        let mut number = 1;
        let began = Instant::now();
        loop {
            if self.queue.clock().until(ticket.deadline).is_zero() {
                return Err(self.out_of_time(not_accepted(), began));
            }
            self.queue.enlist_contract(&load.address).await?;
            self.routes.invalidate(&load.address);
            let standing = self.queue.ownership(&load.address).await?.standing;
            let outcome = if let Some(worker) = self.living_owner(standing).await? {
                let outcome = self.attempt(worker, ticket, number).await?;
                self.classify(worker, outcome)?
            } else {
                let load = Load {
                    seen: Some(standing.generation),
                    ..load.clone()
                };
                self.offer(load, ticket, number).await?
            };
            match outcome {
                AttemptOutcome::Answered(reply) => return Ok(reply.outcome.map(drop)?),
                // Loading is idempotent, so the next attempt is safe.
                AttemptOutcome::MaybeStarted => *may_be_loading = true,
                AttemptOutcome::NotStarted => {}
            }
            backoff.wait().await;
            number += 1;
        }
    }

    /// The owner of a contract, even of one that is being loaded, if it lives.
    async fn living_owner(&self, standing: Standing) -> Result<Option<WorkerId>, ApiError> {
        let Some(owner) = standing.owner else {
            return Ok(None);
        };
        let lives = self.queue.fate(owner).await? == Fate::Lives;
        Ok(lives.then_some(owner))
    }

    /// Unloads one replica: at its owner, or in the registry if it has none.
    async fn unload_replica(
        &self,
        address: &ContractAddress,
        tickets: &impl Tickets,
    ) -> Result<(), ApiError> {
        let ticket = tickets(Job::Unload(Unload {
            address: address.clone(),
        }));
        let deadline = ticket.deadline;
        let mut may_be_unloaded = false;
        let unloading = Box::pin(async {
            let ended = self
                .attempt_unloads(address, &ticket, &mut may_be_unloaded)
                .await;
            ended.map_err(|error| error.if_started(may_be_unloaded))
        });
        // An unload that hangs may have been sent.
        let sent = Sent::default();
        sent.set(true);
        self.with_deadline(deadline, &sent, unloading).await
    }

    /// Repeats attempts to unload one replica until one is answered or the deadline passes. Notes
    /// attempts that may have unloaded it.
    async fn attempt_unloads(
        &self,
        address: &ContractAddress,
        ticket: &Ticket,
        may_be_unloaded: &mut bool,
    ) -> Result<(), ApiError> {
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(250));
        let mut number = 1;
        let began = Instant::now();
        loop {
            self.routes.invalidate(address);
            let standing = self.queue.ownership(address).await?.standing;
            let fate = match standing.owner {
                Some(owner) => self.queue.fate(owner).await?,
                None => Fate::Cleared,
            };
            match (standing.owner, fate) {
                (Some(worker), Fate::Lives) => {
                    let outcome = self.attempt(worker, ticket, number).await?;
                    match self.classify(worker, outcome)? {
                        AttemptOutcome::Answered(reply) => return Ok(reply.outcome.map(drop)?),
                        AttemptOutcome::MaybeStarted => *may_be_unloaded = true,
                        AttemptOutcome::NotStarted => {}
                    }
                }
                // Redis has just lost its data. The owner is about to write the record again.
                (None, _) if self.routes.may_be_restored(address, standing).await? => {}
                (_, Fate::Cleared) if self.unload_unassigned(address, standing).await? => {
                    return Ok(());
                }
                // A reaper is about to clean up after the owner, or the contract has changed.
                _ => {}
            }
            let pause = backoff.delay();
            if self.queue.clock().until(ticket.deadline) < pause {
                return Err(self.out_of_time(ApiError::no_owner(), began));
            }
            tokio::time::sleep(pause).await;
            number += 1;
        }
    }

    /// Unloads a contract that no worker has. False if it has changed meanwhile.
    async fn unload_unassigned(
        &self,
        address: &ContractAddress,
        standing: Standing,
    ) -> Result<bool, ApiError> {
        let record = self.queue.contract(address).await?;
        let unloaded = self.queue.unload(address, standing).await;
        if unloaded.map_err(ApiError::write_failed)?.done().is_none() {
            return Ok(false);
        }
        if let Some(record) = record {
            let reference = Reference::new(address, &record.load);
            self.release_executable(&record.spec.digest, &reference)
                .await;
        }
        Ok(true)
    }

    /// Removes the reference of a load that is not recorded any more. If that fails, the sweep does
    /// it: the contract is unloaded all the same.
    async fn release_executable(&self, digest: &str, reference: &Reference) {
        if let Err(error) = self.queue.release_blob(digest, reference).await {
            tracing::warn!(%reference, %error, "reference to an executable not removed yet");
        }
    }

    /// Offers a load to all workers and awaits the reply of the one that takes it.
    async fn offer(
        &self,
        load: Load,
        ticket: &Ticket,
        number: u32,
    ) -> Result<AttemptOutcome, ApiError> {
        let engine = load.spec.engine;
        let workers = self.queue.workers().await?;
        if workers.iter().all(|(_, info)| info.free(engine) == 0) {
            return Err(ApiError::no_room(workers.len(), engine));
        }
        let stream = self.replies.for_loads(engine);
        let waiter = self.waiters.register(stream);
        let envelope = Envelope {
            id: waiter.id,
            deadline: ticket.deadline,
            attempt: number,
            trace: ticket.trace.clone(),
            request: ticket.request.clone(),
            job: Job::Load(load),
        };
        let began = Instant::now();
        let placed = self.queue.place(engine, Some(stream), &envelope).await;
        placed.map_err(ApiError::write_failed)?;
        let patience = self.queue.clock().until(ticket.deadline) + REPLY_SLACK;
        match waiter.outcome_within(patience).await {
            Some(WaitOutcome::Reply(reply)) => Ok(AttemptOutcome::of(reply)),
            Some(WaitOutcome::Lost) => Ok(AttemptOutcome::MaybeStarted),
            // A worker may have taken the load and may still complete it.
            Some(WaitOutcome::Refused(_)) | None => {
                Err(self.out_of_time(not_accepted().if_started(true), began))
            }
        }
    }
}

/// How the load of all replicas ends. If one of them was carried out, or may have been, the failure
/// of another one does not say "never started".
fn joint_end(replicas: Vec<Result<(), ApiError>>) -> Result<(), ApiError> {
    let may_be_loaded = |end: &Result<(), ApiError>| match end {
        Ok(()) => true,
        Err(error) => !error.never_started(),
    };
    let any = replicas.iter().any(may_be_loaded);
    let end: Result<(), ApiError> = replicas.into_iter().collect();
    end.map_err(|error| error.if_started(any))
}

fn not_accepted() -> ApiError {
    ApiError::NoCapacity("No worker accepted the contract in time. Try again later".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_is_only_unstarted_if_no_replica_was_loaded() {
        let full = || Err(not_accepted());
        assert!(joint_end(vec![Ok(()), Ok(())]).is_ok());
        assert!(joint_end(vec![full(), full()]).unwrap_err().never_started());
        for other in [Ok(()), Err(ApiError::no_reply()), Err(ApiError::Ambiguous)] {
            let error = joint_end(vec![full(), other]).unwrap_err();
            assert!(!error.never_started());
            assert_eq!(error.code(), "no_capacity");
        }
    }
}
