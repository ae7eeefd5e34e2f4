//! One call, from its api to a worker and back, while workers fall silent and are fenced.
//!
//! Two processes may run the contract, each in a page or container of its own. Each may be fenced
//! once, and then takes a second worker id.

mod state;
mod steps;

use stateright::{Model, Property};

use self::state::{Api, Hand, IDS, Outcome, State, Worker, is_waiting, process};

/// What the promises about a call rest on; each can be taken out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CallRule {
    /// Replies and acknowledgements are one transaction.
    OneTransaction,
    /// A call that may have been started is run again by another process only.
    OtherProcess,
    /// No inbox after a send without an answer means: it may have been started.
    UnansweredMayHaveStarted,
    /// Only what was never given out was not started.
    GivenOutMayHaveStarted,
    /// Verdicts are appended in the order of the inbox, and read in that order: of a frame that was
    /// sent twice, the copy that was given out comes first.
    VerdictsInOrder,
}

impl CallRule {
    pub(crate) const ALL: [Self; 5] = [
        Self::OneTransaction,
        Self::OtherProcess,
        Self::UnansweredMayHaveStarted,
        Self::GivenOutMayHaveStarted,
        Self::VerdictsInOrder,
    ];
}

/// The calls of one contract.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Calls {
    pub(crate) without: Option<CallRule>,
    /// Whether what the contract did outlives its sandbox, as with a Docker contract.
    pub(crate) docker: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Route,
    /// Redis takes the frame or says that there is no inbox; the answer arrives.
    Send,
    /// Redis takes the frame; the answer is lost.
    SendUnanswered,
    /// The frame is lost.
    SendLost,
    Receive(usize),
    Read(usize),
    Start(usize),
    Finish(usize),
    Settle(usize),
    SettleRefused(usize),
    Silence(usize),
    Renew(usize),
    Kill(usize),
    Lapse(usize),
    Fence(usize),
    Verdict(usize),
    Clean(usize),
    Claim(usize),
}

impl Model for Calls {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let registered = || Worker {
            registered: true,
            lease: true,
            inbox: true,
            ..Worker::default()
        };
        vec![State {
            api: Api::Route,
            attempt: 0,
            lost_with: None,
            workers: [
                registered(),
                Worker::default(),
                registered(),
                Worker::default(),
            ],
            trusted: [true; 2],
            alive: [true; 2],
            owner: Some(0),
            replies: Vec::new(),
            total: 0,
            runs: [0; 2],
            last_owner: 0,
            cuts: 1,
            silences: 1,
            kills: 1,
            refusals: 1,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        match state.api {
            Api::Route if state.owner.is_some_and(|id| state.workers[id].inbox) => {
                actions.push(Action::Route);
            }
            Api::Send { .. } => {
                actions.push(Action::Send);
                if state.cuts > 0 {
                    actions.extend([Action::SendUnanswered, Action::SendLost]);
                }
            }
            Api::Wait { .. } => {
                let in_order = self.has(CallRule::VerdictsInOrder);
                let readable = if in_order { 1 } else { state.replies.len() };
                let replies = 0..readable.min(state.replies.len());
                actions.extend(replies.map(Action::Receive));
            }
            _ => {}
        }
        for id in 0..IDS {
            Self::worker_actions(state, id, actions);
        }
        for index in 0..2 {
            if !state.alive[index] {
                continue;
            }
            if state.silences > 0 && state.trusted[index] {
                actions.push(Action::Silence(index));
            }
            if !state.trusted[index] || !state.workers[state.current(index)].inbox {
                actions.push(Action::Renew(index));
            }
            if state.kills > 0 && state.alive == [true; 2] {
                actions.push(Action::Kill(index));
            }
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Route
            | Action::Send
            | Action::SendUnanswered
            | Action::SendLost
            | Action::Receive(_) => self.api_step(&mut state, action),
            Action::Silence(_) | Action::Renew(_) | Action::Kill(_) | Action::Claim(_) => {
                state.process_step(action);
            }
            _ => self.worker_step(&mut state, action),
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(
                "a Docker call runs at most once",
                |model: &Self, state: &State| !model.docker || state.total <= 1,
            ),
            Property::always("never twice in one page", |_, state: &State| {
                state.runs.iter().all(|runs| *runs <= 1)
            }),
            Property::always("what was never started does not run", |_, state: &State| {
                state.api != Api::Answered(Outcome::NotStarted) || state.total == 0
            }),
            Property::always("a result comes from a run", |_, state: &State| {
                state.api != Api::Answered(Outcome::Result) || state.total > 0
            }),
            Property::always("no call is forgotten", |model: &Self, state: &State| {
                let mut actions = Vec::new();
                model.actions(state, &mut actions);
                !actions.is_empty() || matches!(state.api, Api::Answered(_))
            }),
        ]
    }
}

impl Calls {
    fn has(self, rule: CallRule) -> bool {
        self.without != Some(rule)
    }

    fn worker_actions(state: &State, id: usize, actions: &mut Vec<Action>) {
        let (worker, index) = (&state.workers[id], process(id));
        if !worker.registered {
            return;
        }
        let is_current = state.alive[index] && state.current(index) == id;
        let trusted = state.trusted[index];
        if is_current && worker.inbox && worker.entries.iter().any(is_waiting) {
            actions.push(Action::Read(id));
        }
        if is_current && trusted && worker.is_at(Hand::Received) {
            actions.push(Action::Start(id));
        }
        // What runs may finish, and be answered, under a new id.
        if state.alive[index] && worker.is_at(Hand::Running) {
            actions.push(Action::Finish(id));
        }
        if state.alive[index] && trusted && worker.is_at(Hand::Ran) {
            actions.push(Action::Settle(id));
            actions.extend((state.refusals > 0).then_some(Action::SettleRefused(id)));
        }
        if worker.lease && !(is_current && state.trusted[index]) {
            actions.push(Action::Lapse(id));
        }
        if !worker.lease && worker.inbox {
            actions.push(Action::Fence(id));
        }
        if worker.dead {
            let next = if worker.entries.is_empty() {
                Action::Clean(id)
            } else {
                Action::Verdict(id)
            };
            actions.push(next);
        }
        let is_gone = |owner: usize| !state.workers[owner].inbox;
        if is_current && worker.inbox && state.trusted[index] && state.owner.is_none_or(is_gone) {
            actions.push(Action::Claim(id));
        }
    }
}
