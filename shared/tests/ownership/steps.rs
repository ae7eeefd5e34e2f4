//! What each step changes.

use crate::comparison::{Comparison, compare};
use crate::farm::{Action, Farm};
use crate::loads::{fail_start, give_back, list, place, serve, take};
use crate::rules::Rule;
use crate::script::{Answer, Contract, Generation, Id, Load, Name};
use crate::state::{Fate, Host, Process, State, Work};

impl Farm {
    pub(crate) fn apply(&self, state: &mut State, action: Action) {
        match action {
            Action::SendLoad(load) => {
                state.budget.loads -= 1;
                place(state, load);
            }
            Action::SendAgain(load) => place(state, load),
            Action::TakeLoad(index, load) => take(state, index, load),
            Action::Adopt(index) => state.processes[index].work = Work::Look { asked: None },
            Action::Step(index) => self.step(state, index),
            Action::FailStart(index) => fail_start(state, index),
            Action::Raise(_)
            | Action::Quarantine(_)
            | Action::RaiseReplaced(_)
            | Action::QuarantineReplaced(_)
            | Action::EndReplaced(_)
            | Action::Resume(_) => self.host_step(state, action),
            Action::Compare(index) => {
                state.processes[index].work = Work::Compare {
                    found: state.contract,
                };
            }
            Action::LiftByTime => {
                state.budget.lifts -= 1;
                let record = state.contract.record.as_mut().expect("it is quarantined");
                record.quarantined = false;
            }
            Action::UnloadAtHost(_) | Action::UnloadRead | Action::UnloadRun => {
                self.unload(state, action);
            }
            Action::Fence(..)
            | Action::Reap(_)
            | Action::SweepRead
            | Action::SweepDrop
            | Action::SweepReference
            | Action::ReferAgain
            | Action::ListAgain => self.clean_up(state, action),
            _ => self.fault(state, action),
        }
    }

    /// What a host does by itself.
    fn host_step(&self, state: &mut State, action: Action) {
        let rules = self.rules;
        match action {
            Action::Raise(index) => {
                state.budget.raises -= 1;
                let host = state.processes[index].host.as_mut().expect("it has a host");
                match state.contract.raise(rules, host.id, host.generation) {
                    Answer::Done(generation) => host.generation = generation,
                    Answer::No => state.processes[index].host = None,
                }
            }
            Action::Quarantine(index) => {
                state.budget.quarantines -= 1;
                let host = state.processes[index].host.take().expect("it has a host");
                state.contract.quarantine(rules, host.id, host.generation);
            }
            Action::RaiseReplaced(index) => {
                state.budget.raises -= 1;
                let host = state.processes[index].replaced.take().expect("it has one");
                if state.contract.raise(rules, host.id, host.generation) != Answer::No
                    && !state.lost
                {
                    state.violation = Some("a replaced host raised the generation");
                }
            }
            Action::QuarantineReplaced(index) => {
                state.budget.quarantines -= 1;
                let host = state.processes[index].replaced.take().expect("it has one");
                if state.contract.quarantine(rules, host.id, host.generation) != Answer::No
                    && !state.lost
                {
                    state.violation = Some("a replaced host quarantined its successor");
                }
            }
            Action::EndReplaced(index) => state.processes[index].replaced = None,
            Action::Resume(index) => {
                let process = &mut state.processes[index];
                let host = process.host.as_mut().expect("it has a host");
                let (old, new) = (host.id, process.id);
                let answer = state.contract.resume(old, new, host.generation, host.load);
                if answer == Answer::No {
                    process.host = None;
                } else {
                    (host.id, host.confirmed) = (new, true);
                    state.keys(new).own = true;
                }
            }
            _ => {}
        }
    }

    /// The next step of a process' work.
    fn step(&self, state: &mut State, index: usize) {
        let Process { id, work, .. } = state.processes[index];
        let next = match work {
            Work::Idle => Work::Idle,
            Work::Look { asked } => self.look(state, index, asked),
            Work::Check {
                asked,
                owner,
                generation,
            } => self.check(state, id, asked, (owner, generation)),
            Work::Claim {
                asked,
                owner,
                generation,
                id,
            } => self.claim(state, asked, (owner, generation), id),
            Work::Start {
                load: Some(name),
                id,
                generation,
            } => {
                let begun = generation;
                let load = Load { name, begun };
                Work::Keep {
                    load,
                    id,
                    generation,
                }
            }
            Work::Start {
                load: None,
                id,
                generation,
            } => Self::adopt(state, index, id, generation),
            Work::Ready {
                load,
                id,
                generation,
            } => self.ready(state, index, (id, generation), load),
            Work::Reload { name } => self.reload(state, index, name),
            Work::Switch { load } => self.switch(state, index, load),
            Work::Compare { found } => self.compare(state, index, &found),
            Work::Keep { .. } | Work::Drop { .. } | Work::Release { .. } => self.write(state, work),
        };
        state.processes[index].work = next;
    }

    fn claim(
        &self,
        state: &mut State,
        asked: Option<Name>,
        expected: (Option<Id>, Generation),
        id: Id,
    ) -> Work {
        match state.contract.claim(self.rules, expected, id, asked) {
            Answer::Done(generation) => Work::Start {
                load: asked,
                id,
                generation,
            },
            Answer::No => give_back(state, asked),
        }
    }

    /// The steps that only write.
    fn write(&self, state: &mut State, work: Work) -> Work {
        let rules = self.rules;
        match work {
            Work::Keep {
                load,
                id,
                generation,
            } => {
                state.references.keep(rules, load);
                Work::Ready {
                    load,
                    id,
                    generation,
                }
            }
            Work::Drop { id, generation } => {
                state.contract.drop(rules, id, generation);
                Work::Idle
            }
            Work::Release { load } => {
                state.references.release(rules, load);
                Work::Idle
            }
            other => other,
        }
    }

    /// Whether the contract may be taken from its owner.
    fn check(
        &self,
        state: &mut State,
        id: Id,
        asked: Option<Name>,
        (owner, generation): (Id, Generation),
    ) -> Work {
        let may_take = match state.fate(owner) {
            Fate::Fenced | Fate::Cleared => true,
            Fate::Lapsed => !self.rules.has(Rule::TakeOnlyFromFenced),
            Fate::Lives => false,
        };
        if !may_take {
            return give_back(state, asked);
        }
        let claim = Work::Claim {
            asked,
            owner: Some(owner),
            generation,
            id,
        };
        list(state, self.rules, claim)
    }

    fn ready(
        &self,
        state: &mut State,
        index: usize,
        (id, generation): (Id, Generation),
        load: Load,
    ) -> Work {
        let before = state.contract.record.and_then(|record| record.load);
        match state.contract.ready(self.rules, id, generation, load) {
            Answer::Done(generation) => {
                let confirmed = id == state.processes[index].id;
                let host = Host {
                    id,
                    generation,
                    load,
                    confirmed,
                };
                serve(state, index, host);
                self.release(before)
            }
            Answer::No => give_back(state, Some(load.name)),
        }
    }

    fn look(&self, state: &mut State, index: usize, asked: Option<(Name, Generation)>) -> Work {
        let (owner, generation) = state.contract.at();
        let load = asked.map(|(load, _)| load);
        let id = state.processes[index].id;
        if let Some((load, seen)) = asked
            && seen != generation
            && self.rules.has(Rule::CompareSeen)
        {
            return give_back(state, Some(load));
        }
        match owner {
            // An adoption takes a free contract only.
            Some(_) if load.is_none() => Work::Idle,
            Some(owner) => Work::Check {
                asked: load,
                owner,
                generation,
            },
            None => list(
                state,
                self.rules,
                Work::Claim {
                    asked: load,
                    owner: None,
                    generation,
                    id,
                },
            ),
        }
    }

    fn adopt(state: &mut State, index: usize, id: Id, generation: Generation) -> Work {
        let record = state.contract.record;
        let is_own = |record: &crate::script::Record| {
            record.owner == Some(id) && record.generation == generation
        };
        // What it runs is what it read; whether it is still its own, comparison finds out.
        let Some(load) = record.filter(is_own).and_then(|record| record.load) else {
            return Work::Drop { id, generation };
        };
        if state.processes[index].id != id {
            return Work::Drop { id, generation };
        }
        serve(
            state,
            index,
            Host {
                id,
                generation,
                load,
                confirmed: true,
            },
        )
    }

    /// A load that was replaced keeps its reference if the contract's is the same.
    fn release(&self, before: Option<Load>) -> Work {
        match before {
            Some(load) if self.rules.has(Rule::ReferByLoad) => Work::Release { load },
            _ => Work::Idle,
        }
    }

    fn reload(&self, state: &mut State, index: usize, name: Name) -> Work {
        let Some(old) = state.processes[index].host.filter(|host| host.confirmed) else {
            return give_back(state, Some(name));
        };
        let begun = old.generation;
        let load = Load { name, begun };
        state.references.keep(self.rules, load);
        Work::Switch { load }
    }

    fn switch(&self, state: &mut State, index: usize, load: Load) -> Work {
        let Some(old) = state.processes[index].host.filter(|host| host.confirmed) else {
            return give_back(state, Some(load.name));
        };
        let answer = state
            .contract
            .switch(self.rules, old.id, old.generation, load);
        let Answer::Done(generation) = answer else {
            state.processes[index].host = None;
            return give_back(state, Some(load.name));
        };
        state.processes[index].replaced = Some(old);
        let host = Host {
            generation,
            load,
            ..old
        };
        serve(state, index, host);
        self.release(Some(old.load))
    }

    fn compare(&self, state: &mut State, index: usize, found: &Contract) -> Work {
        let process = state.processes[index];
        match (compare(&process, found), process.host) {
            (Comparison::Restore, Some(host)) if state.may_list(self.rules, host.id) => {
                let answer = state.contract.restore(host.id, host.generation, host.load);
                if answer == Answer::No {
                    state.processes[index].host = None;
                } else {
                    state.keys(host.id).own = true;
                }
                Work::Idle
            }
            (Comparison::Close, _) => {
                state.processes[index].host = None;
                Work::Idle
            }
            (Comparison::Drop, _) => Work::Drop {
                id: process.id,
                generation: found.at().1,
            },
            _ => Work::Idle,
        }
    }
}
