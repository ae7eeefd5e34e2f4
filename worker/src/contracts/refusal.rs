//! Calls that do not run, or do not run again: which ones, and the failure that each one gets.
//!
//! Only a call that was never submitted to a sandbox is reported as not started.

use shared::protocol::job::EngineKind;
use shared::protocol::reply::{Failure, FailureCode};
use shared::protocol::schemas::SchemaText;

use super::handle::Call;
use super::task::{Calls, ContractTask};
use crate::sandbox::Engine;

/// The number of losses after which a call is not run again. It ran alone the second time, so it
/// caused the loss.
const MAX_LOSSES: u32 = 2;

/// How many bytes of endpoints' names a message has at most. Each name has 768 at most.
const NAMED_BYTES: usize = 1000;

impl<E: Engine> ContractTask<E> {
    /// After a loss: puts the calls that may run again back to the front of the queue, in their
    /// order, and fails the others.
    pub(super) fn requeue_or_fail(&self, calls: &mut Calls) {
        let mut caught: Vec<_> = calls.running.drain().collect();
        caught.sort_unstable_by_key(|(id, _)| std::cmp::Reverse(*id));
        for (_, mut call) in caught {
            call.losses += 1;
            if call.losses < MAX_LOSSES && self.may_run_again() {
                calls.waiting.push_front(call);
            } else {
                self.answer(call, Err(self.crashed()), None);
            }
        }
    }

    /// A page has no effect outside itself, and its state is gone after a loss. So its calls can
    /// run again; those of a container only if the contract is idempotent.
    fn may_run_again(&self) -> bool {
        self.spec.engine == EngineKind::Javascript || self.spec.idempotent
    }

    /// Fails the calls that wait for another run after a loss. The other calls keep waiting.
    pub(super) fn fail_rerun_calls(&self, calls: &mut Calls) {
        let waiting = std::mem::take(&mut calls.waiting).into_iter();
        let (caught, waiting): (Vec<_>, _) = waiting.partition(|call| call.losses > 0);
        calls.waiting = waiting.into();
        for call in caught {
            self.answer(call, Err(self.crashed()), None);
        }
    }

    /// Closes the contract's queue and refuses every waiting call.
    pub(super) async fn close_queue(&mut self, mut calls: Calls, code: FailureCode) {
        self.ends.calls.close();
        // Unlike `try_recv`, this also waits for calls that are just being queued.
        while let Some(call) = self.ends.calls.recv().await {
            calls.waiting.push_back(call);
        }
        let why = "The contract was closed on this worker; try again";
        self.refuse_waiting(&mut calls, code, why);
    }

    /// Refuses every call that waits now. The queue stays open.
    pub(super) fn refuse_waiting(&mut self, calls: &mut Calls, code: FailureCode, why: &str) {
        while let Ok(call) = self.ends.calls.try_recv() {
            calls.waiting.push_back(call);
        }
        for call in calls.waiting.drain(..) {
            self.refuse_call(call, code, why);
        }
    }

    pub(super) fn refuse_call(&self, call: Call, code: FailureCode, why: &str) {
        if call.losses > 0 {
            return self.answer(call, Err(self.failure_after_loss(code)), None);
        }
        self.ends.status.call_refused();
        call.delivery.refuse(Failure::not_started(code, why));
    }

    /// The reason why a call cannot run, if there is one.
    pub(super) fn check_call(&self, call: &Call, now: u64) -> Option<Failure> {
        let failure = self.check_first_run(call, now)?;
        Some(if call.losses > 0 {
            self.failure_after_loss(failure.code)
        } else {
            failure
        })
    }

    /// As [`Self::check_call`], for a call that has never run.
    fn check_first_run(&self, call: &Call, now: u64) -> Option<Failure> {
        if call.delivery.deadline <= now {
            let message = "The call reached its deadline before it could start";
            return Some(Failure::not_started(FailureCode::Expired, message));
        }
        if !is_checked(call.schemas.as_deref(), self.schemas.as_ref()) {
            let message = "The contract has other schemas than the call was checked by; try again";
            return Some(Failure::not_started(FailureCode::NotHosted, message));
        }
        let endpoints = self
            .endpoints
            .as_ref()
            .filter(|names| !names.contains(&call.method))?;
        let mut names: Vec<_> = endpoints.iter().map(String::as_str).collect();
        names.sort_unstable();
        let message = format!(
            "The contract has no endpoint {:?}; it has {}",
            excerpt(&call.method),
            list(&names)
        );
        Some(Failure::not_started(FailureCode::EndpointNotFound, message))
    }

    /// The failure of a call during which a sandbox was lost.
    fn crashed(&self) -> Failure {
        let message = format!(
            "The contract's sandbox died while the call ran: {}",
            self.last_loss
        );
        Failure::started(FailureCode::ContractCrashed, message)
    }

    /// The failure of a call that lost a sandbox and cannot run again here because of `code`.
    fn failure_after_loss(&self, code: FailureCode) -> Failure {
        match code {
            // Another worker may run it.
            FailureCode::NotHosted | FailureCode::Draining => {
                let message = "The contract's sandbox died while the call ran, and the contract \
                               left its worker";
                Failure::started(FailureCode::WorkerLost, message)
            }
            _ => self.crashed(),
        }
    }
}

/// As many of the names as a message has room for.
fn list(names: &[&str]) -> String {
    let mut bytes = 0;
    let fit = names.iter().take_while(|name| {
        bytes += name.len() + 2;
        bytes <= NAMED_BYTES
    });
    let count = fit.count();
    let list = names[..count].join(", ");
    match names.len() - count {
        0 => list,
        rest => format!("{list} and {rest} more"),
    }
}

/// Whether the schemas that a call was checked by are the contract's own. An api of an earlier
/// version checks nothing, and does not say so.
fn is_checked(by: Option<&str>, own: Option<&SchemaText>) -> bool {
    by.is_none_or(|digest| digest == own.map_or("", SchemaText::digest))
}

/// A method name short enough for a message.
fn excerpt(method: &str) -> &str {
    &method[..method.floor_char_boundary(100)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_must_be_checked_by_the_schemas_of_the_contract() {
        let (own, other) = (SchemaText::new("{}"), SchemaText::new("{ }"));
        assert!(is_checked(Some(own.digest()), Some(&own)));
        assert!(is_checked(Some(""), None));
        for (by, own) in [
            (other.digest(), Some(&own)),
            ("", Some(&own)),
            (own.digest(), None),
        ] {
            assert!(!is_checked(Some(by), own), "{by}");
        }
        assert!(is_checked(None, Some(&own)) && is_checked(None, None));
    }

    #[test]
    fn a_list_of_names_is_cut_between_names() {
        assert_eq!(list(&["a", "b"]), "a, b");
        let name = "n".repeat(400);
        let names = vec![name.as_str(); 1000];
        assert_eq!(list(&names), format!("{name}, {name} and 998 more"));
        assert_eq!(list(&["é".repeat(256).as_str()]), "é".repeat(256));
    }
}
