//! The steps of the farm. Each is atomic, as a script of Redis is; faults happen between any two.

use stateright::{Model, Property};

use crate::comparison::{Comparison, compare};
use crate::rules::{Rule, Rules};
use crate::script::{Contract, Id};
use crate::state::{
    Budget, Fate, IDS, LOADS, PROCESSES, Process, Reaper, Request, State, Unload, Work,
};

/// The protocol under these rules, with so much that may happen.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Farm {
    pub(crate) rules: Rules,
    pub(crate) budget: Budget,
}

/// One step. Numbers are indices of processes, reapers and loads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// An api reads the record and places a load.
    SendLoad(usize),
    /// An api sends a load again whose worker is gone.
    SendAgain(usize),
    /// A worker takes an entry of the load.
    TakeLoad(usize, usize),
    /// A worker takes an offer of the free contract.
    Adopt(usize),
    /// The next step of what a process is doing.
    Step(usize),
    /// The sandbox that is being started does not live.
    FailStart(usize),
    Raise(usize),
    Quarantine(usize),
    /// The host before a reload loses its sandbox as well.
    RaiseReplaced(usize),
    QuarantineReplaced(usize),
    EndReplaced(usize),
    Compare(usize),
    Resume(usize),
    UnloadAtHost(usize),
    UnloadRead,
    UnloadRun,
    LiftByTime,
    Silence(usize),
    Renew(usize),
    Lapse(Id),
    Kill(usize),
    LateClaim,
    Fence(usize, Id),
    Reap(usize),
    SweepRead,
    SweepDrop,
    SweepReference,
    ReferAgain,
    ListAgain,
    Unlist(Id),
    Save,
    LoseWrites,
}

impl Model for Farm {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State::new(self.budget)]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.violation.is_some() {
            return;
        }
        for load in 0..LOADS {
            Self::request_actions(state, load, actions);
        }
        for index in 0..PROCESSES {
            self.process_actions(state, index, actions);
        }
        self.reaper_actions(state, actions);
        Self::unload_actions(state, actions);
        self.redis_actions(state, actions);
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        self.apply(&mut state, action);
        watch_generation(last, &mut state);
        watch_quarantine(last, &mut state, action);
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("one acting host", |_, state: &State| {
                state.lost || state.acting() <= 1
            }),
            Property::always("the executable is there", |model: &Self, state: &State| {
                state.lost || state.has_executable(model.rules)
            }),
            Property::always("nothing forbidden happens", |_, state: &State| {
                state.violation.is_none()
            }),
            Property::always("a quiet farm is settled", |model: &Self, state: &State| {
                let mut actions = Vec::new();
                model.actions(state, &mut actions);
                !actions.is_empty()
                    || state.violation.is_some()
                    || (state.is_settled() && state.has_executable(model.rules))
            }),
            Property::always(
                "nothing is left of a worker",
                |model: &Self, state: &State| {
                    // Redis may bring the keys back before a reaper removes the id from the list.
                    let may_be_left = state.lost || model.budget.unlistings > 0;
                    may_be_left || !state.keys.iter().any(|keys| keys.is_forgotten())
                },
            ),
            Property::sometimes("a load is acknowledged", |_, state: &State| {
                state.requests[0].is_acknowledged()
            }),
        ]
    }
}

/// What may happen.
impl Farm {
    fn request_actions(state: &State, load: usize, actions: &mut Vec<Action>) {
        match state.requests[load] {
            Request::Unsent if state.budget.loads > 0 && in_order(state, load) => {
                actions.push(Action::SendLoad(load));
            }
            // The reaper answers for a process that is gone; its api sends the load again.
            Request::Sent { process } if !state.processes[process].alive => {
                actions.push(Action::SendAgain(load));
            }
            Request::Sent { process } => {
                let process_state = &state.processes[process];
                if process_state.trusted && process_state.work == Work::Idle {
                    actions.push(Action::TakeLoad(process, load));
                }
            }
            Request::Placed { copies: 1.., .. } => {
                let idle = |p: &Process| {
                    let is_aware = !state.lost || state.fate(p.id) == Fate::Lives;
                    p.alive && p.trusted && p.work == Work::Idle && is_aware
                };
                let able = (0..PROCESSES).filter(|index| idle(&state.processes[*index]));
                actions.extend(able.map(|index| Action::TakeLoad(index, load)));
            }
            _ => {}
        }
    }

    fn process_actions(&self, state: &State, index: usize, actions: &mut Vec<Action>) {
        let process = &state.processes[index];
        if !process.alive {
            return;
        }
        if process.work != Work::Idle {
            actions.push(Action::Step(index));
        }
        if matches!(process.work, Work::Start { .. } | Work::Reload { .. })
            && state.budget.failures > 0
        {
            actions.push(Action::FailStart(index));
        }
        self.host_actions(state, index, actions);
        let id = process.id;
        if process.trusted && state.budget.silences > 0 {
            actions.push(Action::Silence(index));
        }
        if !process.trusted || state.fate(id) != Fate::Lives {
            actions.push(Action::Renew(index));
        }
        let others = state.processes.iter().filter(|p| p.alive).count() > 1;
        if others && state.budget.kills > 0 {
            actions.push(Action::Kill(index));
        }
        // A loss of writes can end a lease that the worker trusts. Its next heartbeat comes before
        // anything that can repeat without end.
        let is_aware = !state.lost || state.fate(id) == Fate::Lives;
        if process.trusted && process.work == Work::Idle && is_aware {
            if process.host.is_none() && is_free(&state.contract) {
                actions.push(Action::Adopt(index));
            }
            let comparison = compare(process, &state.contract);
            if self.rules.has(Rule::Compare) && comparison != Comparison::Equal {
                actions.push(Action::Compare(index));
            }
        }
    }

    fn host_actions(&self, state: &State, index: usize, actions: &mut Vec<Action>) {
        let process = &state.processes[index];
        // The generation stays as it is while a switch is under way.
        let is_free = !matches!(process.work, Work::Switch { .. });
        let raises = is_free && state.budget.raises > 0;
        let quarantines = is_free && state.budget.quarantines > 0;
        if let Some(host) = process.host {
            let resumes = !host.confirmed && state.may_list(self.rules, process.id);
            let more = [
                (raises && host.confirmed, Action::Raise(index)),
                (quarantines && host.confirmed, Action::Quarantine(index)),
                (resumes, Action::Resume(index)),
            ];
            actions.extend(
                more.iter()
                    .filter(|(may, _)| *may)
                    .map(|(_, action)| *action),
            );
        }
        if process.replaced.is_some() {
            actions.push(Action::EndReplaced(index));
            actions.extend(raises.then_some(Action::RaiseReplaced(index)));
            actions.extend(quarantines.then_some(Action::QuarantineReplaced(index)));
        }
    }

    fn reaper_actions(&self, state: &State, actions: &mut Vec<Action>) {
        for reaper in 0..usize::from(state.budget.reapers) {
            if state.reapers[reaper] != Reaper::Idle {
                actions.push(Action::Reap(reaper));
                continue;
            }
            // Two idle reapers are the same.
            if reaper > 0 && state.reapers[reaper - 1] == Reaper::Idle {
                continue;
            }
            for id in IDS {
                let keys = state.keys[id.index()];
                if keys.listed && !keys.lease {
                    actions.push(Action::Fence(reaper, id));
                }
            }
        }
        match (state.sweeper, state.contract.record) {
            (Some(_), _) => actions.push(Action::SweepDrop),
            (None, Some(record)) if self.rules.has(Rule::Sweep) => {
                let cleared = |owner: Id| state.fate(owner) == Fate::Cleared;
                actions.extend(
                    record
                        .owner
                        .filter(|o| cleared(*o))
                        .map(|_| Action::SweepRead),
                );
            }
            _ => {}
        }
        if state
            .references
            .stale(self.rules, &state.contract)
            .is_some()
        {
            actions.push(Action::SweepReference);
        }
        if self.rules.has(Rule::ReferAgain) && !state.has_executable(self.rules) {
            actions.push(Action::ReferAgain);
        }
        if let Some(owner) = state.contract.record.and_then(|record| record.owner)
            && self.rules.has(Rule::ListAgain)
            && matches!(state.fate(owner), Fate::Lapsed | Fate::Fenced)
            && !state.keys[owner.index()].listed
        {
            actions.push(Action::ListAgain);
        }
    }

    fn unload_actions(state: &State, actions: &mut Vec<Action>) {
        match state.unload {
            Unload::Done => {}
            Unload::Run { .. } | Unload::Release { .. } => actions.push(Action::UnloadRun),
            Unload::Unsent if state.budget.unloads == 0 => {}
            Unload::Unsent | Unload::Again => {
                let hosts = |index: &usize| {
                    let process = &state.processes[*index];
                    process.acts() && process.work == Work::Idle
                };
                let at_host = (0..PROCESSES).filter(hosts).map(Action::UnloadAtHost);
                actions.extend(at_host);
                let owner = state.contract.record.and_then(|record| record.owner);
                if owner.is_none_or(|owner| state.fate(owner) == Fate::Cleared) {
                    actions.push(Action::UnloadRead);
                }
            }
        }
    }

    fn redis_actions(&self, state: &State, actions: &mut Vec<Action>) {
        for id in IDS {
            let keys = state.keys[id.index()];
            let process = &state.processes[usize::from(id.process)];
            let is_renewed = process.alive && process.id == id && process.trusted;
            if keys.lease && (!is_renewed || !self.rules.has(Rule::StopBeforeLapse)) {
                // Without the rule a worker that does not renew acts on; one that renews keeps it.
                if !is_renewed || state.budget.silences > 0 {
                    actions.push(Action::Lapse(id));
                }
            }
            if keys.listed && state.budget.unlistings > 0 {
                actions.push(Action::Unlist(id));
            }
        }
        if state
            .contract
            .record
            .is_some_and(|record| record.quarantined)
            && state.budget.lifts > 0
        {
            actions.push(Action::LiftByTime);
        }
        actions.extend(state.late_claim.map(|_| Action::LateClaim));
        let ids = state.processes.map(|process| process.id);
        match &state.saved {
            None if state.budget.losses > 0 => actions.push(Action::Save),
            // An id is used only when its registration cannot be lost any more.
            Some(saved) if saved.ids == ids => actions.push(Action::LoseWrites),
            _ => {}
        }
    }
}

/// The higher of two generations is always the later one.
fn watch_generation(last: &State, state: &mut State) {
    if state.contract.time == last.contract.time {
        return;
    }
    let (_, generation) = state.contract.at();
    // An unload that is not remembered leaves none.
    if generation > 0 && generation <= state.latest {
        state.violation = Some("a generation was given twice");
    }
    state.latest = state.latest.max(generation);
}

/// Only time and a successful load lift a quarantine, unless Redis has lost it.
fn watch_quarantine(last: &State, state: &mut State, action: Action) {
    let is_quarantined = |state: &State| state.contract.record.map(|record| record.quarantined);
    if (is_quarantined(last), is_quarantined(state)) != (Some(true), Some(false)) || state.lost {
        return;
    }
    let lifts = match action {
        Action::LiftByTime => true,
        Action::Step(index) => {
            matches!(
                last.processes[index].work,
                Work::Ready { .. } | Work::Switch { .. }
            )
        }
        _ => false,
    };
    if !lifts {
        state.violation = Some("a quarantine was lifted");
    }
}

/// Whether an earlier load is under way, so that loads that are alike come in one order.
fn in_order(state: &State, load: usize) -> bool {
    load == 0 || state.requests[load - 1] != Request::Unsent
}

fn is_free(contract: &Contract) -> bool {
    contract.record.is_some_and(|record| {
        record.owner.is_none() && record.load.is_some() && !record.quarantined
    })
}
