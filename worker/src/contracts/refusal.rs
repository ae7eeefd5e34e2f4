//! Calls that are not run (any more): what became of them when a sandbox was lost, and what they are
//! answered. "Never started" is said only to those that no sandbox was given.

use shared::protocol::job::EngineKind;
use shared::protocol::reply::{Failure, FailureCode};

use super::Call;
use super::host::{Calls, HostTask};
use crate::sandbox::Engine;

/// How often a call may lose its sandbox: the second time it ran alone, so it is to blame.
const MAX_LOSSES: u32 = 2;

/// How many endpoints a message names.
const NAMED_ENDPOINTS: usize = 50;

impl<E: Engine> HostTask<E> {
    /// After a loss: calls that may be run again go back to the front, in their order.
    pub(super) fn sort_out(&self, calls: &mut Calls) {
        let mut caught: Vec<_> = calls.running.drain().collect();
        caught.sort_unstable_by_key(|(id, _)| std::cmp::Reverse(*id));
        for (_, mut call) in caught {
            call.losses += 1;
            if call.losses < MAX_LOSSES && self.may_run_again() {
                calls.waiting.push_front(call);
            } else {
                self.answer(call, Err(crashed()), None);
            }
        }
    }

    /// A page reaches nothing outside itself, and its state died with it.
    fn may_run_again(&self) -> bool {
        self.spec.engine == EngineKind::Javascript || self.spec.idempotent
    }

    /// Answers the calls that wait to be run again after a loss, and will not be.
    pub(super) fn answer_caught(&self, calls: &mut Calls) {
        let waiting = std::mem::take(&mut calls.waiting).into_iter();
        let (caught, waiting): (Vec<_>, _) = waiting.partition(|call| call.losses > 0);
        calls.waiting = waiting.into();
        for call in caught {
            self.answer(call, Err(crashed()), None);
        }
    }

    /// Refuses everything that was not started.
    pub(super) fn refuse_waiting(&mut self, mut calls: Calls, code: FailureCode) {
        self.ends.calls.close();
        self.turn_away(&mut calls, code, "The contract was closed");
    }

    /// Refuses everything that was not started so far.
    pub(super) fn turn_away(&mut self, calls: &mut Calls, code: FailureCode, why: &str) {
        while let Ok(call) = self.ends.calls.try_recv() {
            calls.waiting.push_back(call);
        }
        for call in calls.waiting.drain(..) {
            self.turn_one_away(call, code, why);
        }
    }

    pub(super) fn turn_one_away(&self, call: Call, code: FailureCode, why: &str) {
        if call.losses > 0 {
            return self.answer(call, Err(after_a_loss(code)), None);
        }
        self.ends.status.call_refused();
        call.delivery.refuse(Failure::not_started(code, why));
    }

    /// Why a call cannot be run, if so.
    pub(super) fn refusal(&self, call: &Call, now: u64) -> Option<Failure> {
        let failure = self.first_refusal(call, now)?;
        Some(if call.losses > 0 {
            after_a_loss(failure.code)
        } else {
            failure
        })
    }

    /// Why a call cannot be run that was never run before, if so.
    fn first_refusal(&self, call: &Call, now: u64) -> Option<Failure> {
        if call.delivery.deadline <= now {
            let message = "The call's turn did not come before its deadline";
            return Some(Failure::not_started(FailureCode::Expired, message));
        }
        let endpoints = self
            .endpoints
            .as_ref()
            .filter(|names| !names.contains(&call.method))?;
        let mut names: Vec<_> = endpoints.iter().map(String::as_str).collect();
        names.sort_unstable();
        names.truncate(NAMED_ENDPOINTS);
        let message = format!(
            "The contract has no endpoint {:?}; it has {}",
            excerpt(&call.method),
            names.join(", ")
        );
        Some(Failure::not_started(FailureCode::EndpointNotFound, message))
    }
}

fn crashed() -> Failure {
    let message = "The contract's sandbox died while the call ran";
    Failure::started(FailureCode::ContractCrashed, message)
}

/// What a call is answered that has lost a sandbox and cannot be run again here, because of `code`.
fn after_a_loss(code: FailureCode) -> Failure {
    match code {
        // Another host may do so.
        FailureCode::NotHosted | FailureCode::Draining => {
            let message = "The contract's sandbox died while the call ran, and its host has left";
            Failure::started(FailureCode::WorkerLost, message)
        }
        _ => crashed(),
    }
}

/// A method name short enough for a message.
fn excerpt(method: &str) -> &str {
    &method[..method.floor_char_boundary(100)]
}
