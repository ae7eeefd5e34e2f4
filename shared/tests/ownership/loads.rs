//! A load on its way: from its api to a worker, and into that worker's table.

use crate::rules::Rules;
use crate::script::Name;
use crate::state::{Host, Process, Request, State, Work};

/// An api sends a load to the worker that owns the contract, or places it.
pub(crate) fn place(state: &mut State, load: usize) {
    let (owner, seen) = state.contract.at();
    let is_owner = |process: &Process| process.acts() && owner == Some(process.id);
    state.requests[load] = match state.processes.iter().position(is_owner) {
        Some(process) => Request::Sent { process },
        None => Request::Placed {
            seen,
            copies: 1,
            acknowledged: false,
        },
    };
}

/// A worker takes a load.
pub(crate) fn take(state: &mut State, index: usize, load: usize) {
    let name = name(load);
    let host = state.processes[index].host;
    match state.requests[load] {
        Request::Sent { .. } => {
            state.requests[load] = Request::Ended {
                acknowledged: false,
            };
            state.processes[index].work = match host {
                Some(host) if host.load.name == name => {
                    acknowledge(state, name);
                    Work::Idle
                }
                Some(_) => Work::Reload { name },
                None => give_back(state, Some(name)),
            };
        }
        Request::Placed {
            seen,
            copies,
            acknowledged,
        } => {
            // Where duplicates may happen, the entry stays for another worker.
            let stays = u8::from(state.budget.duplicates > 0);
            state.budget.duplicates -= stays;
            let copies = copies - 1 + stays;
            state.requests[load] = match copies {
                0 => Request::Ended { acknowledged },
                _ => Request::Placed {
                    seen,
                    copies,
                    acknowledged,
                },
            };
            state.processes[index].work = match host {
                // It is in the wrong stream: its api finds the owner.
                Some(_) => give_back(state, Some(name)),
                None => Work::Look {
                    asked: Some((name, seen)),
                },
            };
        }
        Request::Unsent | Request::Ended { .. } => {}
    }
}

/// What a load is called in records.
fn name(load: usize) -> Name {
    Name::try_from(load + 1).expect("there are few loads")
}

/// The worker's index names the contract before the record names the worker.
pub(crate) fn list(state: &mut State, rules: Rules, claim: Work) -> Work {
    match claim {
        Work::Claim { id, asked, .. } if !state.may_list(rules, id) => give_back(state, asked),
        Work::Claim { id, .. } => {
            state.keys(id).own = true;
            claim
        }
        _ => claim,
    }
}

/// A load that was refused is placed again by its api, unless it was answered before.
pub(crate) fn give_back(state: &mut State, asked: Option<Name>) -> Work {
    if let Some(load) = asked {
        let load = usize::from(load) - 1;
        if state.requests[load]
            == (Request::Ended {
                acknowledged: false,
            })
        {
            place(state, load);
        }
    }
    Work::Idle
}

/// The sandbox does not live.
pub(crate) fn fail_start(state: &mut State, index: usize) {
    state.budget.failures -= 1;
    state.processes[index].work = match state.processes[index].work {
        Work::Start { id, generation, .. } => Work::Drop { id, generation },
        _ => Work::Idle,
    };
}

/// The caller of a load has its response.
fn acknowledge(state: &mut State, load: Name) {
    match &mut state.requests[usize::from(load) - 1] {
        Request::Placed { acknowledged, .. } | Request::Ended { acknowledged } => {
            *acknowledged = true;
        }
        Request::Unsent | Request::Sent { .. } => {}
    }
}

/// The host enters the table, and its load is acknowledged.
pub(crate) fn serve(state: &mut State, index: usize, host: Host) -> Work {
    // A loss of writes may undo an unload that has just happened.
    let was_unloaded = state.unload.has_run() && state.unloaded[usize::from(host.load.name) - 1];
    if !state.lost && was_unloaded {
        state.violation = Some("an unloaded contract is served again");
    }
    state.processes[index].host = Some(host);
    acknowledge(state, host.load.name);
    Work::Idle
}
