//! The scripts of a contract's record as pure functions: what each of them reads, compares and
//! writes, and nothing else.
//!
//! The model runs them as atomic steps. The tests in `real.rs` run the same calls against the Lua
//! scripts on a real Redis and compare answers and records.

use crate::rules::{Rule, Rules};

/// A worker id: the process, and how often it has taken a new id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Id {
    pub(crate) process: u8,
    pub(crate) epoch: u8,
}

/// Orders what happened to a contract; made from Redis' time.
pub(crate) type Generation = u8;

/// What a caller asked to be loaded.
pub(crate) type Name = u8;

/// Names one load, and with it what is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub(crate) struct Load {
    pub(crate) name: Name,
    /// The generation in which it began.
    pub(crate) begun: Generation,
}

/// A contract's record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Record {
    pub(crate) owner: Option<Id>,
    pub(crate) generation: Generation,
    /// What is loaded; none while the first load runs.
    pub(crate) load: Option<Load>,
    /// A load that was asked for is running.
    pub(crate) loading: bool,
    pub(crate) quarantined: bool,
    /// The worker from which a reaper took the contract last.
    pub(crate) dead: Option<Id>,
}

/// What Redis holds of a contract: its record, or the generation at which it was unloaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Contract {
    pub(crate) record: Option<Record>,
    pub(crate) past: Generation,
    /// The time of the last generation. It is Redis' clock, so it survives a loss of data.
    pub(crate) time: Generation,
}

/// The answer of a script.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Answer {
    /// It was carried out; the contract now has this generation.
    Done(Generation),
    /// The record differs from what was expected; nothing was changed.
    No,
}

use Answer::{Done, No};

impl Contract {
    /// Owner and generation as every script reads them.
    pub(crate) fn at(&self) -> (Option<Id>, Generation) {
        self.record.map_or((None, self.past), |record| {
            (record.owner, record.generation)
        })
    }

    fn is(&self, rules: Rules, owner: Option<Id>, generation: Generation) -> bool {
        let (found, at) = self.at();
        found == owner && (at == generation || !rules.has(Rule::CompareGeneration))
    }

    fn next(&mut self, rules: Rules) -> Generation {
        self.time += 1;
        let (_, generation) = self.at();
        if rules.has(Rule::GenerationFromTime) {
            self.time = self.time.max(generation + 1);
            return self.time;
        }
        generation + 1
    }

    /// Makes `worker` the owner. `asked` names the load that somebody asked for; without it, the
    /// contract must be loaded and not quarantined.
    pub(crate) fn claim(
        &mut self,
        rules: Rules,
        expected: (Option<Id>, Generation),
        worker: Id,
        asked: Option<Name>,
    ) -> Answer {
        if !self.is(rules, expected.0, expected.1) {
            return No;
        }
        let loaded = self.record.and_then(|record| record.load);
        let quarantined = self.record.is_some_and(|record| record.quarantined);
        if asked.is_none() && (loaded.is_none() || quarantined) {
            return No;
        }
        let generation = self.next(rules);
        self.record = Some(Record {
            owner: Some(worker),
            generation,
            load: loaded,
            loading: asked.is_some(),
            quarantined: quarantined && rules.has(Rule::OnlyReadyLiftsQuarantine),
            dead: None,
        });
        self.past = 0;
        Done(generation)
    }

    /// A load that was asked for has succeeded. The only script that lifts a quarantine.
    pub(crate) fn ready(
        &mut self,
        rules: Rules,
        worker: Id,
        generation: Generation,
        load: Load,
    ) -> Answer {
        if !self.is(rules, Some(worker), generation) {
            return No;
        }
        self.replace(|record| Record {
            load: Some(load),
            loading: false,
            quarantined: false,
            ..record
        })
    }

    /// A reload: as [`Self::ready`], in a new generation.
    pub(crate) fn switch(
        &mut self,
        rules: Rules,
        worker: Id,
        generation: Generation,
        load: Load,
    ) -> Answer {
        if !self.is(rules, Some(worker), generation) {
            return No;
        }
        let generation = self.next(rules);
        self.replace(|record| Record {
            generation,
            load: Some(load),
            loading: false,
            quarantined: false,
            ..record
        })
    }

    /// A fresh sandbox.
    pub(crate) fn raise(&mut self, rules: Rules, worker: Id, generation: Generation) -> Answer {
        if !self.is(rules, Some(worker), generation) {
            return No;
        }
        let generation = self.next(rules);
        self.replace(|record| Record {
            generation,
            ..record
        })
    }

    /// The owner gives the contract up: a failed load, a hand-over, an owner that is gone.
    pub(crate) fn drop(&mut self, rules: Rules, worker: Id, generation: Generation) -> Answer {
        if !self.is(rules, Some(worker), generation) {
            return No;
        }
        self.free()
    }

    /// The contract crashed repeatedly. A record whose load Redis has lost is forgotten: without an
    /// owner nothing would ever complete it.
    pub(crate) fn quarantine(
        &mut self,
        rules: Rules,
        worker: Id,
        generation: Generation,
    ) -> Answer {
        if !self.is(rules, Some(worker), generation) {
            return No;
        }
        if self.record.is_some_and(|record| record.load.is_none()) {
            return self.free();
        }
        self.replace(|record| Record {
            owner: None,
            quarantined: true,
            ..record
        })
    }

    /// A reaper takes the contract from a fenced worker. The answer is the same when it is asked
    /// again.
    pub(crate) fn orphan(&mut self, rules: Rules, dead: Id, generation: Generation) -> Answer {
        if let Some(record) = self.record
            && record.owner.is_none()
            && record.dead == Some(dead)
        {
            return Done(record.generation);
        }
        if !self.is(rules, Some(dead), generation) {
            return No;
        }
        let answer = self.free();
        if let Some(record) = &mut self.record {
            record.dead = Some(dead);
        }
        answer
    }

    /// The contract is unloaded. An absent one is unloaded already.
    pub(crate) fn unload(
        &mut self,
        rules: Rules,
        owner: Option<Id>,
        generation: Generation,
    ) -> Answer {
        if self.record.is_none() {
            return Done(self.past);
        }
        if !self.is(rules, owner, generation) {
            return No;
        }
        let generation = self.next(rules);
        self.record = None;
        self.past = if rules.has(Rule::RememberUnloads) {
            generation
        } else {
            0
        };
        Done(generation)
    }

    /// The same process under a new id keeps what nobody took meanwhile.
    pub(crate) fn resume(
        &mut self,
        old: Id,
        new: Id,
        generation: Generation,
        load: Load,
    ) -> Answer {
        let Some(record) = self.record else { return No };
        // The new id is there already where the answer was lost and the script is sent again.
        let is_free = record
            .owner
            .is_none_or(|owner| owner == old || owner == new);
        if !is_free
            || record.generation != generation
            || record.load != Some(load)
            || record.quarantined
        {
            return No;
        }
        self.replace(|record| Record {
            owner: Some(new),
            ..record
        })
    }

    /// Writes a record back that Redis has lost, or lost an update of.
    pub(crate) fn restore(&mut self, worker: Id, generation: Generation, load: Load) -> Answer {
        let (owner, found) = self.at();
        let quarantined = self.record.is_some_and(|record| record.quarantined);
        let is_own = owner.is_none_or(|owner| owner == worker);
        let is_same = self.record.is_some() && is_own && found == generation && !quarantined;
        if found >= generation && !is_same {
            return No;
        }
        self.record = Some(Record {
            owner: Some(worker),
            generation,
            load: Some(load),
            loading: false,
            quarantined: false,
            dead: None,
        });
        self.past = 0;
        Done(generation)
    }

    /// Frees the contract; one that was never loaded is forgotten.
    fn free(&mut self) -> Answer {
        let Some(record) = self.record else { return No };
        if record.load.is_none() {
            self.record = None;
            self.past = record.generation;
            return Done(record.generation);
        }
        self.replace(|record| Record {
            owner: None,
            loading: false,
            ..record
        })
    }

    fn replace(&mut self, change: impl FnOnce(Record) -> Record) -> Answer {
        let Some(record) = self.record else { return No };
        let record = change(record);
        self.record = Some(record);
        Done(record.generation)
    }
}
