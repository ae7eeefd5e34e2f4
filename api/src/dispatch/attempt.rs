//! One attempt: send a job to one worker, await what comes of it, and classify that.

use shared::protocol::frame::{Envelope, Reply, encode_item};
use shared::protocol::id::WorkerId;
use shared::protocol::reply::FailureCode;
use shared::queue::inbox::{Outgoing, Undelivered};

use super::{Dispatcher, Ticket};
use crate::error::ApiError;
use crate::reply_router::WaitOutcome;

/// What an attempt means for the job.
pub(super) enum AttemptOutcome {
    /// The worker answered.
    Answered(Reply),
    /// The job certainly was not started. Another worker may own the contract.
    NotStarted,
    /// The worker died with the job, or its reply is lost.
    MaybeStarted,
}

impl Dispatcher {
    /// Sends the job to the worker's inbox and awaits the outcome, for as long as the caller
    /// polls: see [`Dispatcher::with_deadline`]. If the client disconnects meanwhile, the job is
    /// cancelled.
    pub(super) async fn attempt(
        &self,
        worker: WorkerId,
        ticket: &Ticket,
        number: u32,
    ) -> Result<WaitOutcome, ApiError> {
        let inbox = self.inboxes.writer(worker);
        let waiter = self.waiters.register(inbox.stream);
        let item = encode_item(&Envelope {
            id: waiter.id,
            deadline: ticket.deadline,
            attempt: number,
            trace: ticket.trace.as_deref(),
            request: ticket.request.as_deref(),
            job: &ticket.job,
        });
        let outgoing = Outgoing {
            id: waiter.id,
            item,
        };
        let _in_flight = self.inboxes.send(inbox, outgoing)?;
        let cancel_id = self.waiters.next_id();
        let cancellation = self.inboxes.cancel_on_drop(worker, waiter.id, cancel_id);
        let outcome = waiter.outcome().await.ok_or_else(ApiError::no_reply)?;
        cancellation.disarm();
        Ok(outcome)
    }

    /// Decides what the outcome of an attempt at `worker` means. Closes the inbox of a worker
    /// that is gone.
    pub(super) fn classify(
        &self,
        worker: WorkerId,
        outcome: WaitOutcome,
    ) -> Result<AttemptOutcome, ApiError> {
        match outcome {
            WaitOutcome::Refused(Undelivered::NoInbox) => {
                self.inboxes.close(worker);
                Ok(AttemptOutcome::NotStarted)
            }
            WaitOutcome::Refused(Undelivered::Unavailable) => Err(ApiError::Ambiguous),
            WaitOutcome::Refused(Undelivered::Unknown) => {
                self.inboxes.close(worker);
                Ok(AttemptOutcome::MaybeStarted)
            }
            WaitOutcome::Lost => Ok(AttemptOutcome::MaybeStarted),
            WaitOutcome::Reply(reply) => Ok(AttemptOutcome::of(reply)),
        }
    }
}

impl AttemptOutcome {
    pub(super) fn of(reply: Reply) -> Self {
        let Err(failure) = &reply.outcome else {
            return Self::Answered(reply);
        };
        match failure.code {
            FailureCode::NotHosted | FailureCode::Draining if failure.started => Self::MaybeStarted,
            FailureCode::NotHosted | FailureCode::Draining => Self::NotStarted,
            FailureCode::WorkerLost => Self::MaybeStarted,
            _ => Self::Answered(reply),
        }
    }
}

#[cfg(test)]
mod tests {
    use shared::protocol::id::JobId;
    use shared::protocol::reply::Failure;

    use super::*;

    #[test]
    fn only_a_refusal_that_says_so_was_not_started() {
        let outcome = |failure| {
            AttemptOutcome::of(Reply {
                id: JobId(1),
                generation: None,
                ran_us: None,
                cpu_us: None,
                outcome: Err(failure),
            })
        };
        for code in [FailureCode::NotHosted, FailureCode::Draining] {
            let refused = outcome(Failure::not_started(code, "no"));
            assert!(matches!(refused, AttemptOutcome::NotStarted));
            let unclear = outcome(Failure::started(code, "no"));
            assert!(matches!(unclear, AttemptOutcome::MaybeStarted));
        }
    }
}
