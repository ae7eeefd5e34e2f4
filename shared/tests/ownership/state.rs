//! The state of a small farm with one contract: what Redis holds, what each process believes, and
//! what is under way between two of their steps.

use crate::references::References;
use crate::rules::{Rule, Rules};
use crate::script::{Contract, Generation, Id, Load, Name};

/// Worker processes.
pub(crate) const PROCESSES: usize = 2;
/// Ids that one process can take.
pub(crate) const EPOCHS: usize = 3;
/// All worker ids.
pub(crate) const IDS: [Id; PROCESSES * EPOCHS] = {
    const fn id(process: u8, epoch: u8) -> Id {
        Id { process, epoch }
    }
    [id(0, 0), id(0, 1), id(0, 2), id(1, 0), id(1, 1), id(1, 2)]
};

/// Loads that callers may ask for.
pub(crate) const LOADS: usize = 2;
/// Processes that clean up after fenced workers.
pub(crate) const REAPERS: usize = 2;

/// The keys of one worker id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each of them is a key in Redis"
)]
pub(crate) struct Keys {
    pub(crate) lease: bool,
    /// It exists: the worker is not fenced.
    pub(crate) inbox: bool,
    /// The renamed inbox.
    pub(crate) dead: bool,
    /// Whether its index names the contract.
    pub(crate) own: bool,
    /// Whether reapers watch it.
    pub(crate) listed: bool,
}

/// What a look at a worker's keys says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Lives,
    Lapsed,
    Fenced,
    Cleared,
}

impl Keys {
    pub(crate) fn fate(self) -> Fate {
        match self {
            Self { lease: true, .. } => Fate::Lives,
            Self { inbox: true, .. } => Fate::Lapsed,
            Self { dead: true, .. } => Fate::Fenced,
            _ => Fate::Cleared,
        }
    }

    /// Whether its index is left, and no reaper will ever remove it.
    pub(crate) fn is_forgotten(self) -> bool {
        self.own && !self.inbox && !self.listed
    }
}

/// A sandbox that a process runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Host {
    pub(crate) id: Id,
    pub(crate) generation: Generation,
    pub(crate) load: Load,
    /// Known to be the process' own since it took its last id.
    pub(crate) confirmed: bool,
}

/// What a process is about to do to the contract: one operation at a time, step by step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Work {
    Idle,
    /// To read the record; with the load that somebody asked for, if any, and what its api saw.
    Look {
        asked: Option<(Name, Generation)>,
    },
    /// To read the fate of the owner.
    Check {
        asked: Option<Name>,
        owner: Id,
        generation: Generation,
    },
    /// To claim.
    Claim {
        asked: Option<Name>,
        owner: Option<Id>,
        generation: Generation,
        id: Id,
    },
    /// To start a sandbox.
    Start {
        load: Option<Name>,
        id: Id,
        generation: Generation,
    },
    /// To add the reference of a load that has succeeded.
    Keep {
        load: Load,
        id: Id,
        generation: Generation,
    },
    /// To record it.
    Ready {
        load: Load,
        id: Id,
        generation: Generation,
    },
    /// To give a claimed contract up.
    Drop {
        id: Id,
        generation: Generation,
    },
    /// To start another load and add its reference.
    Reload {
        name: Name,
    },
    /// To switch to it.
    Switch {
        load: Load,
    },
    /// To remove the reference of a load that is not recorded any more.
    Release {
        load: Load,
    },
    /// To act on a comparison with this record.
    Compare {
        found: Contract,
    },
}

/// A worker process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Process {
    pub(crate) alive: bool,
    pub(crate) id: Id,
    /// Whether its last renewal is recent enough to act.
    pub(crate) trusted: bool,
    pub(crate) host: Option<Host>,
    /// The host before a reload, as long as it finishes its calls.
    pub(crate) replaced: Option<Host>,
    pub(crate) work: Work,
}

impl Process {
    /// Whether it starts calls of the contract.
    pub(crate) fn acts(&self) -> bool {
        self.alive && self.trusted && self.host.is_some_and(|host| host.confirmed)
    }
}

/// How far a reaper has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Reaper {
    Idle,
    /// The worker is fenced; to read the record.
    Read(Id),
    Orphan(Id, Generation),
    Clean(Id),
    Unlist(Id),
}

/// A caller's load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Request {
    Unsent,
    /// In the inbox of the process that owns the contract.
    Sent {
        process: usize,
    },
    /// In the placement stream: so many copies of its entry wait; its api saw this generation.
    Placed {
        seen: Generation,
        copies: u8,
        acknowledged: bool,
    },
    /// Nothing of it waits.
    Ended {
        acknowledged: bool,
    },
}

impl Request {
    pub(crate) fn is_acknowledged(self) -> bool {
        matches!(
            self,
            Self::Placed {
                acknowledged: true,
                ..
            } | Self::Ended { acknowledged: true }
        )
    }
}

/// A caller's unload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Unload {
    Unsent,
    /// To run the script.
    Run {
        owner: Option<Id>,
        generation: Generation,
        load: Option<Load>,
    },
    /// To remove the reference of what was unloaded.
    Release {
        load: Load,
    },
    /// To read the record again.
    Again,
    Done,
}

impl Unload {
    /// Whether the contract is unloaded.
    pub(crate) fn has_run(self) -> bool {
        matches!(self, Self::Release { .. } | Self::Done)
    }
}

/// What may still happen: bounds the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Budget {
    /// Reapers at work at once.
    pub(crate) reapers: u8,
    pub(crate) loads: u8,
    pub(crate) unloads: u8,
    /// A process that does not renew in time.
    pub(crate) silences: u8,
    pub(crate) kills: u8,
    /// Sandboxes that are lost and restarted.
    pub(crate) raises: u8,
    pub(crate) quarantines: u8,
    /// Quarantines that end by time.
    pub(crate) lifts: u8,
    /// Sandboxes that do not start.
    pub(crate) failures: u8,
    /// Entries that are handed out twice.
    pub(crate) duplicates: u8,
    /// Redis loses its last writes.
    pub(crate) losses: u8,
    /// The list of workers loses an entry.
    pub(crate) unlistings: u8,
}

/// What Redis falls back to when it loses its last writes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Saved {
    pub(crate) contract: Contract,
    pub(crate) references: References,
    pub(crate) keys: [Keys; PROCESSES * EPOCHS],
    pub(crate) ids: [Id; PROCESSES],
}

/// Everything.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct State {
    pub(crate) contract: Contract,
    pub(crate) references: References,
    pub(crate) keys: [Keys; PROCESSES * EPOCHS],
    pub(crate) processes: [Process; PROCESSES],
    /// A claim that a killed process had sent.
    pub(crate) late_claim: Option<Work>,
    pub(crate) reapers: [Reaper; REAPERS],
    pub(crate) sweeper: Option<(Id, Generation)>,
    pub(crate) requests: [Request; LOADS],
    pub(crate) unload: Unload,
    /// The loads that were acknowledged before the unload began.
    pub(crate) unloaded: [bool; LOADS],
    pub(crate) budget: Budget,
    pub(crate) saved: Option<Saved>,
    /// Redis has lost writes: for a time two hosts may act.
    pub(crate) lost: bool,
    /// The highest generation that was ever given.
    pub(crate) latest: Generation,
    /// What must never happen, and has.
    pub(crate) violation: Option<&'static str>,
}

impl State {
    /// Processes that have registered, and a contract that nobody has loaded.
    pub(crate) fn new(budget: Budget) -> Self {
        let mut keys = [Keys::default(); PROCESSES * EPOCHS];
        let processes = [0, 1].map(|process| Process {
            alive: true,
            id: Id { process, epoch: 0 },
            trusted: true,
            host: None,
            replaced: None,
            work: Work::Idle,
        });
        for process in &processes {
            keys[process.id.index()] = REGISTERED;
        }
        Self {
            contract: Contract::default(),
            references: References::default(),
            keys,
            processes,
            late_claim: None,
            reapers: [Reaper::Idle; REAPERS],
            sweeper: None,
            requests: [Request::Unsent; LOADS],
            unload: Unload::Unsent,
            unloaded: [false; LOADS],
            budget,
            saved: None,
            lost: false,
            latest: 0,
            violation: None,
        }
    }

    pub(crate) fn keys(&mut self, id: Id) -> &mut Keys {
        &mut self.keys[id.index()]
    }

    pub(crate) fn fate(&self, id: Id) -> Fate {
        self.keys[id.index()].fate()
    }

    /// Whether a contract may be added to the index of a worker.
    pub(crate) fn may_list(&self, rules: Rules, id: Id) -> bool {
        self.keys[id.index()].inbox || !rules.has(Rule::ListWhileRegistered)
    }

    /// How many hosts act at once.
    pub(crate) fn acting(&self) -> usize {
        self.processes
            .iter()
            .filter(|process| process.acts())
            .count()
    }

    /// Whether the executable of what is loaded is kept.
    pub(crate) fn has_executable(&self, rules: Rules) -> bool {
        let load = self.contract.record.and_then(|record| record.load);
        load.is_none_or(|load| self.references.has(rules, load))
    }

    /// Whether a farm in which nothing happens any more is as it must be: the contract has one
    /// host, which the record names, or it is quarantined or unloaded and has none.
    pub(crate) fn is_settled(&self) -> bool {
        let hosts: Vec<_> = self
            .processes
            .iter()
            .filter(|process| process.alive)
            .filter_map(|process| process.host)
            .collect();
        match self.contract.record {
            None => hosts.is_empty(),
            Some(record) if record.quarantined && record.owner.is_none() => hosts.is_empty(),
            Some(record) => {
                self.acting() == 1
                    && hosts.len() == 1
                    && record.owner == Some(hosts[0].id)
                    && record.generation == hosts[0].generation
                    && record.load == Some(hosts[0].load)
            }
        }
    }
}

/// The keys of a worker that has just registered.
pub(crate) const REGISTERED: Keys = Keys {
    lease: true,
    inbox: true,
    dead: false,
    own: false,
    listed: true,
};

impl Id {
    /// Where its keys are.
    pub(crate) fn index(self) -> usize {
        usize::from(self.process) * EPOCHS + usize::from(self.epoch)
    }
}
