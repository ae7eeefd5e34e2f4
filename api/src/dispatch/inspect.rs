//! What workers tell about themselves.

use std::time::Duration;

use shared::protocol::id::{ContractAddress, WorkerId};
use shared::protocol::job::{Inspect, Job};
use shared::protocol::reply::{ContractStatus, Output};

use super::{Dispatcher, Ticket, envelope};
use crate::error::ApiError;
use crate::reply_router::Answer;

/// How long the living workers have to tell what they host.
const INSPECT_PATIENCE: Duration = Duration::from_secs(2);

impl Dispatcher {
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
}
