//! The state of one call: at its api, in the inboxes, and at the workers.

use super::Action;

/// Worker ids: two of each process.
pub(super) const IDS: usize = 4;

pub(super) const fn process(id: usize) -> usize {
    id / 2
}

/// How often the api tries at most.
pub(super) const ATTEMPTS: Attempt = 3;

/// How far a call has come at its api.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Api {
    Route,
    Send { id: usize, unanswered: bool },
    Wait { id: usize },
    Answered(Outcome),
}

/// What the caller is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Outcome {
    Result,
    /// With `started: false`.
    NotStarted,
    /// It may have been started.
    Unknown,
}

/// Names a try: replies to an earlier one find no waiter.
pub(super) type Attempt = u8;

/// An entry of an inbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Entry {
    Waiting,
    GivenOut,
}

/// What a worker has of the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Hand {
    Received,
    Running,
    Ran,
}

/// One worker id.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each of them is a key in Redis"
)]
pub(super) struct Worker {
    pub(super) registered: bool,
    pub(super) lease: bool,
    pub(super) inbox: bool,
    pub(super) dead: bool,
    /// Two, where the same frame was sent twice.
    pub(super) entries: Vec<(Entry, Attempt)>,
    pub(super) hand: Option<(Hand, Attempt)>,
    /// The last try that was read: a second copy of it is dropped.
    pub(super) seen: Attempt,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Reply {
    Result,
    NotStarted,
    MayHaveStarted,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct State {
    pub(super) api: Api,
    pub(super) attempt: Attempt,
    /// The process that may have started it.
    pub(super) lost_with: Option<usize>,
    pub(super) workers: [Worker; IDS],
    pub(super) trusted: [bool; 2],
    pub(super) alive: [bool; 2],
    pub(super) owner: Option<usize>,
    pub(super) replies: Vec<(Reply, Attempt)>,
    /// How often it ran at all, and in the present page of each process.
    pub(super) total: u8,
    pub(super) runs: [u8; 2],
    /// The process that owned the contract last: it keeps its page unless another one takes over.
    pub(super) last_owner: usize,
    pub(super) cuts: u8,
    pub(super) silences: u8,
    pub(super) kills: u8,
    /// Redis is at maxmemory for one reply.
    pub(super) refusals: u8,
}

impl State {
    /// The id that a process uses now.
    pub(super) fn current(&self, process: usize) -> usize {
        let second = 2 * process + 1;
        if self.workers[second].registered {
            second
        } else {
            2 * process
        }
    }

    pub(super) fn answer(&mut self, outcome: Outcome) {
        self.api = Api::Answered(outcome);
    }

    pub(super) fn process_step(&mut self, action: Action) {
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

/// Whether an entry was not given out yet.
#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "it is a predicate of iterators"
)]
pub(super) fn is_waiting((entry, _): &(Entry, Attempt)) -> bool {
    *entry == Entry::Waiting
}

impl Worker {
    pub(super) fn is_at(&self, stage: Hand) -> bool {
        self.hand.is_some_and(|(hand, _)| hand == stage)
    }

    pub(super) fn advance(&mut self, stage: Hand) {
        if let Some((hand, _)) = &mut self.hand {
            *hand = stage;
        }
    }
}

impl State {
    /// Appends the reply and acknowledges the entry.
    pub(super) fn settle(&mut self, id: usize, reply: Reply) {
        if let Some((_, attempt)) = self.workers[id].hand.take() {
            self.replies.push((reply, attempt));
        }
        self.acknowledge(id);
    }

    pub(super) fn acknowledge(&mut self, id: usize) {
        let worker = &mut self.workers[id];
        // After the fence the inbox has another name: nothing is there to acknowledge.
        if worker.inbox {
            worker.entries.retain(is_waiting);
        }
    }
}
