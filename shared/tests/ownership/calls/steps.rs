//! What each step of a call changes.

use super::state::{ATTEMPTS, Api, Entry, Hand, Outcome, Reply, State, is_waiting, process};
use super::{Action, CallRule, Calls};

impl Calls {
    pub(super) fn api_step(self, state: &mut State, action: Action) {
        match (action, state.api) {
            (Action::Route, _) => self.route(state),
            (Action::Send, Api::Send { id, unanswered }) => {
                if state.workers[id].inbox {
                    state.workers[id]
                        .entries
                        .push((Entry::Waiting, state.attempt));
                    state.api = Api::Wait { id };
                } else if unanswered && self.has(CallRule::UnansweredMayHaveStarted) {
                    self.may_have_started(state, id);
                } else {
                    state.api = Api::Route;
                }
            }
            (Action::SendUnanswered, Api::Send { id, .. }) => {
                state.cuts -= 1;
                if state.workers[id].inbox {
                    state.workers[id]
                        .entries
                        .push((Entry::Waiting, state.attempt));
                }
                state.api = Api::Send {
                    id,
                    unanswered: true,
                };
            }
            (Action::SendLost, Api::Send { id, .. }) => {
                state.cuts -= 1;
                state.api = Api::Send {
                    id,
                    unanswered: true,
                };
            }
            (Action::Receive(reply), Api::Wait { id }) => match state.replies.remove(reply) {
                (_, attempt) if attempt != state.attempt => {}
                (Reply::Result, _) => state.answer(Outcome::Result),
                (Reply::NotStarted, _) => state.api = Api::Route,
                (Reply::MayHaveStarted, _) => self.may_have_started(state, id),
            },
            _ => {}
        }
    }

    /// Chooses the worker of the next try, if there is to be one.
    fn route(self, state: &mut State) {
        let id = state.owner.expect("there is an owner");
        let is_same = state.lost_with == Some(process(id));
        if is_same && self.has(CallRule::OtherProcess) {
            return state.answer(Outcome::Unknown);
        }
        if state.attempt == ATTEMPTS {
            let never = state.lost_with.is_none();
            return state.answer(if never {
                Outcome::NotStarted
            } else {
                Outcome::Unknown
            });
        }
        state.attempt += 1;
        state.replies.clear();
        state.api = Api::Send {
            id,
            unanswered: false,
        };
    }

    fn may_have_started(self, state: &mut State, id: usize) {
        state.lost_with = Some(process(id));
        if self.docker {
            state.answer(Outcome::Unknown);
        } else {
            state.api = Api::Route;
        }
    }

    pub(super) fn worker_step(self, state: &mut State, action: Action) {
        match action {
            Action::Read(id) => {
                let worker = &mut state.workers[id];
                let waiting = worker.entries.iter().position(is_waiting);
                let waiting = waiting.expect("an entry waits");
                let (_, attempt) = worker.entries[waiting];
                if worker.seen == attempt {
                    worker.entries.remove(waiting);
                } else {
                    worker.entries[waiting] = (Entry::GivenOut, attempt);
                    (worker.seen, worker.hand) = (attempt, Some((Hand::Received, attempt)));
                }
            }
            Action::Start(id) => {
                if state.owner == Some(id) {
                    state.workers[id].advance(Hand::Running);
                    state.runs[process(id)] += 1;
                    state.total += 1;
                } else {
                    // Not its contract any more.
                    state.settle(id, Reply::NotStarted);
                }
            }
            Action::Finish(id) => state.workers[id].advance(Hand::Ran),
            Action::Settle(id) => state.settle(id, Reply::Result),
            Action::SettleRefused(id) => {
                state.refusals -= 1;
                if !self.has(CallRule::OneTransaction) {
                    // The reply is refused, the acknowledgement is not.
                    state.acknowledge(id);
                    state.workers[id].hand = None;
                }
            }
            Action::Lapse(id) => state.workers[id].lease = false,
            Action::Fence(id) => {
                (state.workers[id].inbox, state.workers[id].dead) = (false, true);
                if state.owner == Some(id) {
                    state.owner = None;
                }
            }
            Action::Verdict(id) => {
                let (entry, attempt) = state.workers[id].entries.remove(0);
                let may = entry == Entry::GivenOut && self.has(CallRule::GivenOutMayHaveStarted);
                let reply = if may {
                    Reply::MayHaveStarted
                } else {
                    Reply::NotStarted
                };
                state.replies.push((reply, attempt));
            }
            Action::Clean(id) => state.workers[id].dead = false,
            _ => {}
        }
    }
}
