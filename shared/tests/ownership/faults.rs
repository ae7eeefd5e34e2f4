//! Faults: processes that fall silent or are killed, and a Redis that loses its last writes.

use crate::farm::{Action, Farm};
use crate::rules::Rule;
use crate::script::{Contract, Id};
use crate::state::{EPOCHS, Keys, REGISTERED, Saved, State, Work};

impl Farm {
    pub(crate) fn fault(&self, state: &mut State, action: Action) {
        match action {
            Action::Silence(index) => {
                state.budget.silences -= 1;
                state.processes[index].trusted = false;
            }
            Action::Renew(index) => self.renew(state, index),
            Action::Lapse(id) => {
                let process = &state.processes[usize::from(id.process)];
                if process.alive && process.id == id && process.trusted {
                    state.budget.silences -= 1;
                }
                state.keys(id).lease = false;
            }
            Action::Kill(index) => {
                state.budget.kills -= 1;
                let process = &mut state.processes[index];
                let claims = matches!(process.work, Work::Claim { .. });
                let work = std::mem::replace(&mut process.work, Work::Idle);
                process.alive = false;
                (process.host, process.replaced) = (None, None);
                state.late_claim = claims.then_some(work);
            }
            Action::LateClaim => {
                if let Some(Work::Claim {
                    asked,
                    owner,
                    generation,
                    id,
                }) = state.late_claim.take()
                {
                    state
                        .contract
                        .claim(self.rules, (owner, generation), id, asked);
                }
            }
            Action::Unlist(id) => {
                state.budget.unlistings -= 1;
                state.keys(id).listed = false;
            }
            Action::Save => {
                state.budget.losses -= 1;
                state.saved = Some(Saved {
                    contract: state.contract,
                    references: state.references.clone(),
                    keys: state.keys,
                    ids: state.processes.map(|process| process.id),
                });
            }
            Action::LoseWrites => lose_writes(state),
            _ => {}
        }
    }

    fn renew(&self, state: &mut State, index: usize) {
        let id = state.processes[index].id;
        let keys = state.keys(id);
        if keys.inbox {
            keys.lease = true;
            state.processes[index].trusted = true;
            return;
        }
        let new = if self.rules.has(Rule::NewIdAfterFence) {
            Id {
                epoch: id.epoch + 1,
                ..id
            }
        } else {
            id
        };
        assert!(usize::from(new.epoch) < EPOCHS, "the model has too few ids");
        let own = state.keys(new).own;
        *state.keys(new) = Keys { own, ..REGISTERED };
        let process = &mut state.processes[index];
        (process.id, process.trusted) = (new, true);
        if let Some(host) = &mut process.host {
            host.confirmed = false;
        }
    }
}

/// Redis returns to what it last saved. Its clock does not.
fn lose_writes(state: &mut State) {
    let saved = state.saved.take().expect("something was saved");
    let time = state.contract.time;
    state.contract = Contract {
        time,
        ..saved.contract
    };
    state.references = saved.references;
    state.keys = saved.keys;
    state.lost = true;
}
