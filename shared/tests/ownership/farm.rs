//! The steps of the farm. Each is atomic, as a script of Redis is; faults happen between any two.

use stateright::{Model, Property};

use crate::rules::{Rule, Rules};
use crate::script::{Answer, Contract, Generation, Id, Load};
use crate::state::{
    Budget, EPOCHS, Fate, Host, LOADS, PROCESSES, Process, REGISTERED, Reaper, Request, Saved,
    State, Unload, Work,
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
            self.request_actions(state, load, actions);
        }
        for index in 0..PROCESSES {
            self.process_actions(state, index, actions);
        }
        self.reaper_actions(state, actions);
        self.unload_actions(state, actions);
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
            Property::always("nothing forbidden happens", |_, state: &State| {
                state.violation.is_none()
            }),
            Property::always("a quiet farm is settled", |model: &Self, state: &State| {
                let mut actions = Vec::new();
                model.actions(state, &mut actions);
                !actions.is_empty() || state.violation.is_some() || state.is_settled()
            }),
            Property::sometimes("a load is acknowledged", |_, state: &State| {
                state.requests[0].is_acknowledged()
            }),
        ]
    }
}

/// What may happen.
impl Farm {
    fn request_actions(&self, state: &State, load: usize, actions: &mut Vec<Action>) {
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
        if matches!(process.work, Work::Start { .. } | Work::Switch { .. })
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
        let (raises, quarantines) = (state.budget.raises > 0, state.budget.quarantines > 0);
        if let Some(host) = process.host {
            let more = [
                (raises && host.confirmed, Action::Raise(index)),
                (quarantines && host.confirmed, Action::Quarantine(index)),
                (!host.confirmed, Action::Resume(index)),
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
            for id in ids() {
                let keys = state.keys[usize::from(id.process) * EPOCHS + usize::from(id.epoch)];
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
        if let Some(owner) = state.contract.record.and_then(|record| record.owner)
            && self.rules.has(Rule::ListAgain)
            && matches!(state.fate(owner), Fate::Lapsed | Fate::Fenced)
            && !state.keys[usize::from(owner.process) * EPOCHS + usize::from(owner.epoch)].listed
        {
            actions.push(Action::ListAgain);
        }
    }

    fn unload_actions(&self, state: &State, actions: &mut Vec<Action>) {
        match state.unload {
            Unload::Done => {}
            Unload::Run { .. } => actions.push(Action::UnloadRun),
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
        for id in ids() {
            let keys = state.keys[usize::from(id.process) * EPOCHS + usize::from(id.epoch)];
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
        match state.saved {
            None if state.budget.losses > 0 => actions.push(Action::Save),
            // An id is used only when its registration cannot be lost any more.
            Some(saved) if saved.ids == ids => actions.push(Action::LoseWrites),
            _ => {}
        }
    }
}

/// What happens then.
impl Farm {
    fn apply(&self, state: &mut State, action: Action) {
        let rules = self.rules;
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
            Action::Compare(index) => {
                state.processes[index].work = Work::Compare {
                    found: state.contract,
                };
            }
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
            | Action::ListAgain => self.clean_up(state, action),
            _ => self.fault(state, action),
        }
    }

    /// The next step of a process' work.
    fn step(&self, state: &mut State, index: usize) {
        let rules = self.rules;
        let Process { id, work, .. } = state.processes[index];
        let next = match work {
            Work::Idle => Work::Idle,
            Work::Look { asked } => self.look(state, index, asked),
            Work::Check {
                asked,
                owner,
                generation,
            } => {
                let fate = state.fate(owner);
                let may_take = match fate {
                    Fate::Fenced | Fate::Cleared => true,
                    Fate::Lapsed => !rules.has(Rule::TakeOnlyFromFenced),
                    Fate::Lives => false,
                };
                if may_take {
                    let owner = Some(owner);
                    list(
                        state,
                        Work::Claim {
                            asked,
                            owner,
                            generation,
                            id,
                        },
                    )
                } else {
                    give_back(state, asked)
                }
            }
            Work::Claim {
                asked,
                owner,
                generation,
                id,
            } => match state.contract.claim(rules, (owner, generation), id, asked) {
                Answer::Done(generation) => Work::Start {
                    load: asked,
                    id,
                    generation,
                },
                Answer::No => give_back(state, asked),
            },
            Work::Start {
                load: Some(load),
                id,
                generation,
            } => Work::Ready {
                load,
                id,
                generation,
            },
            Work::Start {
                load: None,
                id,
                generation,
            } => self.adopt(state, index, id, generation),
            Work::Ready {
                load,
                id,
                generation,
            } => match state.contract.ready(rules, id, generation, load) {
                Answer::Done(generation) => serve(
                    state,
                    index,
                    Host {
                        id,
                        generation,
                        load,
                        confirmed: id == state.processes[index].id,
                    },
                ),
                Answer::No => give_back(state, Some(load)),
            },
            Work::Drop { id, generation } => {
                state.contract.drop(rules, id, generation);
                Work::Idle
            }
            Work::Switch { load } => self.switch(state, index, load),
            Work::Compare { found } => self.compare(state, index, &found),
        };
        state.processes[index].work = next;
    }

    fn look(&self, state: &mut State, index: usize, asked: Option<(Load, Generation)>) -> Work {
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
                Work::Claim {
                    asked: load,
                    owner: None,
                    generation,
                    id,
                },
            ),
        }
    }

    fn adopt(&self, state: &mut State, index: usize, id: Id, generation: Generation) -> Work {
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

    fn switch(&self, state: &mut State, index: usize, load: Load) -> Work {
        let Some(old) = state.processes[index].host.filter(|host| host.confirmed) else {
            return give_back(state, Some(load));
        };
        match state
            .contract
            .switch(self.rules, old.id, old.generation, load)
        {
            Answer::Done(generation) => {
                state.processes[index].replaced = Some(old);
                serve(
                    state,
                    index,
                    Host {
                        generation,
                        load,
                        ..old
                    },
                )
            }
            Answer::No => {
                state.processes[index].host = None;
                give_back(state, Some(load))
            }
        }
    }

    fn compare(&self, state: &mut State, index: usize, found: &Contract) -> Work {
        let process = state.processes[index];
        match (compare(&process, found), process.host) {
            (Comparison::Restore, Some(host)) => {
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

    fn unload(&self, state: &mut State, action: Action) {
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
                }
            }
            (Action::UnloadRead, _) => {
                let (owner, generation) = state.contract.at();
                state.unload = Unload::Run { owner, generation };
            }
            (_, Unload::Run { owner, generation }) => {
                state.unload = match state.contract.unload(self.rules, owner, generation) {
                    Answer::Done(_) => Unload::Done,
                    Answer::No => Unload::Again,
                };
            }
            _ => {}
        }
    }

    fn clean_up(&self, state: &mut State, action: Action) {
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

    fn fault(&self, state: &mut State, action: Action) {
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
                    keys: state.keys,
                    ids: state.processes.map(|process| process.id),
                });
            }
            Action::LoseWrites => {
                let saved = state.saved.take().expect("something was saved");
                let time = state.contract.time;
                state.contract = Contract {
                    time,
                    ..saved.contract
                };
                state.keys = saved.keys;
                state.lost = true;
            }
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
        *state.keys(new) = crate::state::Keys { own, ..REGISTERED };
        let process = &mut state.processes[index];
        (process.id, process.trusted) = (new, true);
        if let Some(host) = &mut process.host {
            host.confirmed = false;
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

fn ids() -> impl Iterator<Item = Id> {
    let (processes, epochs) = (0..PROCESSES as u8, 0..EPOCHS as u8);
    processes.flat_map(move |process| epochs.clone().map(move |epoch| Id { process, epoch }))
}

/// What a process finds when it compares its table with the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Equal,
    /// The record is older than the host.
    Restore,
    /// The contract is another's.
    Close,
    /// The record names the process, which does not know the contract.
    Drop,
}

fn compare(process: &Process, found: &Contract) -> Comparison {
    let (owner, generation) = found.at();
    let Some(host) = process.host else {
        let is_own = owner == Some(process.id);
        return if is_own {
            Comparison::Drop
        } else {
            Comparison::Equal
        };
    };
    if !host.confirmed {
        return Comparison::Equal;
    }
    let is_own = owner == Some(host.id) && generation == host.generation;
    let load = found.record.and_then(|record| record.load);
    let quarantined = found.record.is_some_and(|record| record.quarantined);
    let is_free = found.record.is_some() && owner.is_none() && generation == host.generation;
    if is_own && load == Some(host.load) {
        Comparison::Equal
    } else if is_own || generation < host.generation || (is_free && !quarantined) {
        Comparison::Restore
    } else {
        Comparison::Close
    }
}

/// An api sends a load to the worker that owns the contract, or places it.
fn place(state: &mut State, load: usize) {
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

fn take(state: &mut State, index: usize, load: usize) {
    let name = name(load);
    let host = state.processes[index].host;
    match state.requests[load] {
        Request::Sent { .. } => {
            state.requests[load] = Request::Ended {
                acknowledged: false,
            };
            state.processes[index].work = match host {
                Some(host) if host.load == name => {
                    acknowledge(state, name);
                    Work::Idle
                }
                Some(_) => Work::Switch { load: name },
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
fn name(load: usize) -> Load {
    load as Load + 1
}

/// The worker's index names the contract before the record names the worker.
fn list(state: &mut State, claim: Work) -> Work {
    if let Work::Claim { id, .. } = claim {
        state.keys(id).own = true;
    }
    claim
}

/// A load that was refused is placed again by its api, unless it was answered before.
fn give_back(state: &mut State, asked: Option<Load>) -> Work {
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

fn fail_start(state: &mut State, index: usize) {
    state.budget.failures -= 1;
    state.processes[index].work = match state.processes[index].work {
        Work::Start { id, generation, .. } => Work::Drop { id, generation },
        _ => Work::Idle,
    };
}

fn acknowledge(state: &mut State, load: Load) {
    match &mut state.requests[usize::from(load) - 1] {
        Request::Placed { acknowledged, .. } | Request::Ended { acknowledged } => {
            *acknowledged = true;
        }
        Request::Unsent | Request::Sent { .. } => {}
    }
}

/// The host enters the table, and its load is acknowledged.
fn serve(state: &mut State, index: usize, host: Host) -> Work {
    if state.unload == Unload::Done && state.unloaded[usize::from(host.load) - 1] {
        state.violation = Some("an unloaded contract is served again");
    }
    state.processes[index].host = Some(host);
    acknowledge(state, host.load);
    Work::Idle
}
