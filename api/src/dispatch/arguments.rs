//! Large arguments: they are stored in Redis while their calls wait.

use shared::protocol::id::ContractAddress;
use shared::protocol::job::{Argument, Job};
use shared::queue::QueueError;
use shared::queue::timing::TIDY_WITHIN;

use super::checks::CallChecks;
use super::{Answer, Dispatcher, Progress, Sent, Ticket};
use crate::error::ApiError;

/// A larger argument, in bytes, is stored in Redis beside the frame instead of in it.
const INLINE_LIMIT: usize = 48 * 1024;

pub(super) fn has_large_argument(job: &Job) -> bool {
    let Job::Execute(execute) = job else {
        return false;
    };
    matches!(&execute.argument, Argument::Json(json) if json.get().len() > INLINE_LIMIT)
}

impl Dispatcher {
    /// As [`Self::call`], with the argument stored in Redis meanwhile.
    pub(super) async fn call_with_stored_argument(
        &self,
        contract: &ContractAddress,
        mut ticket: Ticket,
    ) -> Result<Answer, ApiError> {
        let (deadline, sent, mut stored) = (ticket.deadline, Sent::default(), None);
        let running = async {
            let mut progress = Progress::default();
            self.check_record(contract)?;
            stored = self
                .store_argument(contract, &mut ticket, &mut progress.checks)
                .await?;
            self.retry_loop(contract, &mut ticket, &sent, progress)
                .await
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

    /// Moves a call's argument into Redis; returns its name there.
    async fn store_argument(
        &self,
        contract: &ContractAddress,
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
        // On a server that the call needs anyway.
        let stream = match self.routes.known_owner(contract) {
            Some(owner) => self.inboxes.writer(owner).stream,
            None => self.replies.for_contract(contract),
        };
        let storing = self.queue.store_body(stream, id, body, ticket.deadline);
        let name = storing.await?;
        let argument = Argument::Stored(name.clone());
        if let Argument::Json(json) = std::mem::replace(&mut execute.argument, argument) {
            checks.moved(json);
        }
        Ok(Some(name))
    }
}
