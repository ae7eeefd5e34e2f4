//! Jobs about a worker itself: inspect its contracts, or drain it.

use std::time::Duration;

use shared::protocol::id::{ContractAddress, WorkerId};
use shared::protocol::job::{Inspect, Job};
use shared::protocol::rank::Top;
use shared::protocol::reply::{ContractStatus, Output};

use super::attempt::AttemptOutcome;
use super::{Dispatcher, Sent, Ticket};
use crate::error::ApiError;

/// The deadline of a job about a worker itself: 2 s. A worker answers it without waiting for
/// anything else. The caller gets an answer [`REQUEST_OVERTIME`] later at the latest.
///
/// [`REQUEST_OVERTIME`]: shared::queue::timing::REQUEST_OVERTIME
const DEADLINE: Duration = Duration::from_secs(2);

impl Dispatcher {
    /// Asks workers for the status of their contracts. A worker that does not reply is left out.
    pub(crate) async fn inspect(
        &self,
        workers: impl IntoIterator<Item = WorkerId>,
        address: Option<&ContractAddress>,
    ) -> Vec<ContractStatus> {
        let inspect = Inspect {
            address: address.cloned(),
            top: None,
            follow_ms: None,
        };
        self.ask(workers, &inspect).await
    }

    /// Asks the owners of a contract and its replicas to store what it writes, for so long. False
    /// if it is not loaded.
    pub(crate) async fn follow(
        &self,
        contract: &ContractAddress,
        follow_ms: u32,
    ) -> Result<bool, ApiError> {
        let Some(record) = self.queue.contract(contract).await? else {
            return Ok(false);
        };
        for number in 1..=record.spec.replicas {
            let replica = contract.replica(number);
            let owner = match self.queue.contract(&replica).await? {
                Some(record) => record.owner,
                None => None,
            };
            let inspect = Inspect {
                address: Some(replica),
                top: None,
                follow_ms: Some(follow_ms),
            };
            drop(self.ask(owner, &inspect).await);
        }
        Ok(true)
    }

    /// Asks workers for the first of their contracts in a ranking. A worker that does not reply is
    /// left out.
    pub(crate) async fn top(
        &self,
        workers: impl IntoIterator<Item = WorkerId>,
        top: Top,
    ) -> Vec<ContractStatus> {
        let inspect = Inspect {
            address: None,
            top: Some(top),
            follow_ms: None,
        };
        self.ask(workers, &inspect).await
    }

    async fn ask(
        &self,
        workers: impl IntoIterator<Item = WorkerId>,
        inspect: &Inspect,
    ) -> Vec<ContractStatus> {
        let replies = workers.into_iter().map(|worker| async move {
            match self
                .send_to_worker(worker, Job::Inspect(inspect.clone()))
                .await
            {
                Ok(Some(Output::Contracts(contracts))) => contracts,
                _ => Vec::new(),
            }
        });
        futures::future::join_all(replies).await.concat()
    }

    /// Sends a worker a job about itself; `None` if it is gone, or refuses the job. Fails if no
    /// reply arrives in time: the job may still be carried out.
    pub(crate) async fn send_to_worker(
        &self,
        worker: WorkerId,
        job: Job,
    ) -> Result<Option<Output>, ApiError> {
        let ticket = Ticket {
            job,
            deadline: self.queue.clock().after(DEADLINE),
            trace: None,
            request: None,
        };
        let sent = Sent::default();
        sent.set(true);
        let attempt = self.attempt(worker, &ticket, 1);
        let outcome = self.with_deadline(ticket.deadline, &sent, attempt).await?;
        match self.classify(worker, outcome)? {
            AttemptOutcome::Answered(reply) => Ok(reply.outcome.ok()),
            AttemptOutcome::NotStarted => Ok(None),
            AttemptOutcome::MaybeStarted => Err(ApiError::OutcomeUnknown),
        }
    }
}
