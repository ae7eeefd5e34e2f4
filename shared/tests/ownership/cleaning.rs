//! The ends of a contract's ownership: unloads, reapers and the sweep.

use crate::farm::{Action, Farm};
use crate::rules::Rule;
use crate::script::Answer;
use crate::state::{Reaper, Request, State, Unload, Work};

impl Farm {
    pub(crate) fn unload(&self, state: &mut State, action: Action) {
        if state.unload == Unload::Unsent {
            state.budget.unloads -= 1;
            state.unloaded = state.requests.map(Request::is_acknowledged);
            state.unload = Unload::Again;
        }
        match (action, state.unload) {
            (Action::UnloadAtHost(index), _) => {
                let host = state.processes[index].host.take().expect("it acts");
                let answer = state
                    .contract
                    .unload(self.rules, Some(host.id), host.generation);
                if answer != Answer::No {
                    state.unload = Unload::Done;
                    state.processes[index].work = Work::Release { load: host.load };
                }
            }
            (Action::UnloadRead, _) => {
                let (owner, generation) = state.contract.at();
                let load = state.contract.record.and_then(|record| record.load);
                state.unload = Unload::Run {
                    owner,
                    generation,
                    load,
                };
            }
            (
                _,
                Unload::Run {
                    owner,
                    generation,
                    load,
                },
            ) => {
                let answer = state.contract.unload(self.rules, owner, generation);
                state.unload = match (answer, load) {
                    (Answer::Done(_), Some(load)) => Unload::Release { load },
                    (Answer::Done(_), None) => Unload::Done,
                    (Answer::No, _) => Unload::Again,
                };
            }
            (_, Unload::Release { load }) => {
                state.references.release(self.rules, load);
                state.unload = Unload::Done;
            }
            _ => {}
        }
    }

    pub(crate) fn clean_up(&self, state: &mut State, action: Action) {
        match action {
            Action::Fence(reaper, id) => {
                let keys = state.keys(id);
                if keys.inbox {
                    (keys.inbox, keys.dead) = (false, true);
                }
                state.reapers[reaper] = Reaper::Read(id);
            }
            Action::Reap(reaper) => state.reapers[reaper] = self.reap(state, reaper),
            Action::SweepRead => {
                let (owner, generation) = state.contract.at();
                state.sweeper = owner.map(|owner| (owner, generation));
            }
            Action::SweepDrop => {
                let (owner, generation) = state.sweeper.take().expect("it has read");
                state.contract.drop(self.rules, owner, generation);
            }
            Action::SweepReference => {
                let unused = state.references.stale(self.rules, &state.contract);
                state
                    .references
                    .release(self.rules, unused.expect("there is one"));
            }
            Action::ReferAgain => {
                let load = state.contract.record.and_then(|record| record.load);
                state
                    .references
                    .keep(self.rules, load.expect("it is loaded"));
            }
            _ => {
                let (owner, _) = state.contract.at();
                state.keys(owner.expect("it has an owner")).listed = true;
            }
        }
    }

    fn reap(&self, state: &mut State, reaper: usize) -> Reaper {
        match state.reapers[reaper] {
            Reaper::Idle => Reaper::Idle,
            Reaper::Read(id) => match state.contract.at() {
                (Some(owner), generation) if owner == id && state.keys(id).own => {
                    Reaper::Orphan(id, generation)
                }
                _ => Reaper::Clean(id),
            },
            Reaper::Orphan(id, generation) => {
                state.contract.orphan(self.rules, id, generation);
                Reaper::Clean(id)
            }
            Reaper::Clean(id) => {
                let keys = state.keys(id);
                if keys.inbox && self.rules.has(Rule::NewIdAfterFence) {
                    return Reaper::Idle;
                }
                (keys.dead, keys.own) = (false, false);
                Reaper::Unlist(id)
            }
            Reaper::Unlist(id) => {
                state.keys(id).listed = false;
                Reaper::Idle
            }
        }
    }
}
