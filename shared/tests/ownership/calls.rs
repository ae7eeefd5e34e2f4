//! One call, from its api to a worker and back, while workers fall silent and are fenced.
//!
//! Two processes may run the contract, each in a page or container of its own. Each may be fenced
//! once, and then takes a second worker id.

use stateright::{Model, Property};

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

/// Worker ids: two of each process.
const IDS: usize = 4;

const fn process(id: usize) -> usize {
    id / 2
}

/// How often the api tries at most.
const ATTEMPTS: Attempt = 3;

/// How far a call has come at its api.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Api {
    Route,
    Send { id: usize, unanswered: bool },
    Wait { id: usize },
    Answered(Outcome),
}

/// What the caller is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Outcome {
    Result,
    /// With `started: false`.
    NotStarted,
    /// It may have been started.
    Unknown,
}

/// Names a try: replies to an earlier one find no waiter.
type Attempt = u8;

/// An entry of an inbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Entry {
    Waiting,
    GivenOut,
}

/// What a worker has of the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Hand {
    Received,
    Running,
    Ran,
}

/// One worker id.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct Worker {
    registered: bool,
    lease: bool,
    inbox: bool,
    dead: bool,
    /// Two, where the same frame was sent twice.
    entries: Vec<(Entry, Attempt)>,
    hand: Option<(Hand, Attempt)>,
    /// The last try that was read: a second copy of it is dropped.
    seen: Attempt,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Reply {
    Result,
    NotStarted,
    MayHaveStarted,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct State {
    api: Api,
    attempt: Attempt,
    /// The process that may have started it.
    lost_with: Option<usize>,
    workers: [Worker; IDS],
    trusted: [bool; 2],
    alive: [bool; 2],
    owner: Option<usize>,
    replies: Vec<(Reply, Attempt)>,
    /// How often it ran at all, and in the present page of each process.
    total: u8,
    runs: [u8; 2],
    /// The process that owned the contract last: it keeps its page unless another one takes over.
    last_owner: usize,
    cuts: u8,
    silences: u8,
    kills: u8,
    /// Redis is at maxmemory for one reply.
    refusals: u8,
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
            self.worker_actions(state, id, actions);
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

impl State {
    /// The id that a process uses now.
    fn current(&self, process: usize) -> usize {
        let second = 2 * process + 1;
        if self.workers[second].registered {
            second
        } else {
            2 * process
        }
    }

    fn answer(&mut self, outcome: Outcome) {
        self.api = Api::Answered(outcome);
    }

    fn process_step(&mut self, action: Action) {
        match action {
            Action::Silence(index) => {
                self.silences -= 1;
                self.trusted[index] = false;
            }
            Action::Renew(index) => {
                let id = self.current(index);
                if self.workers[id].inbox {
                    self.workers[id].lease = true;
                    self.trusted[index] = true;
                } else if id == 2 * index {
                    let worker = &mut self.workers[id + 1];
                    (worker.registered, worker.lease, worker.inbox) = (true, true, true);
                    self.trusted[index] = true;
                } else {
                    self.alive[index] = false;
                }
            }
            Action::Kill(index) => {
                self.kills -= 1;
                self.alive[index] = false;
            }
            Action::Claim(id) => {
                self.owner = Some(id);
                if self.last_owner != process(id) {
                    self.last_owner = process(id);
                    self.runs[process(id)] = 0;
                }
            }
            _ => {}
        }
    }
}

impl Calls {
    fn has(self, rule: CallRule) -> bool {
        self.without != Some(rule)
    }

    fn worker_actions(self, state: &State, id: usize, actions: &mut Vec<Action>) {
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

    fn api_step(self, state: &mut State, action: Action) {
        match (action, state.api) {
            (Action::Route, _) => {
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

    fn may_have_started(self, state: &mut State, id: usize) {
        state.lost_with = Some(process(id));
        if self.docker {
            state.answer(Outcome::Unknown);
        } else {
            state.api = Api::Route;
        }
    }

    fn worker_step(self, state: &mut State, action: Action) {
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

fn is_waiting((entry, _): &(Entry, Attempt)) -> bool {
    *entry == Entry::Waiting
}

impl Worker {
    fn is_at(&self, stage: Hand) -> bool {
        self.hand.is_some_and(|(hand, _)| hand == stage)
    }

    fn advance(&mut self, stage: Hand) {
        if let Some((hand, _)) = &mut self.hand {
            *hand = stage;
        }
    }
}

impl State {
    /// Appends the reply and acknowledges the entry.
    fn settle(&mut self, id: usize, reply: Reply) {
        if let Some((_, attempt)) = self.workers[id].hand.take() {
            self.replies.push((reply, attempt));
        }
        self.acknowledge(id);
    }

    fn acknowledge(&mut self, id: usize) {
        let worker = &mut self.workers[id];
        // After the fence the inbox has another name: nothing is there to acknowledge.
        if worker.inbox {
            worker.entries.retain(is_waiting);
        }
    }
}
