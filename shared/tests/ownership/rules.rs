//! The rules of the protocol, each of which can be taken out: a model that holds without one of
//! them proves nothing about it.

/// A rule of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rule {
    /// Scripts compare the generation, not the owner alone.
    CompareGeneration,
    /// A contract is taken from an owner only after its inbox was seen to be gone.
    TakeOnlyFromFenced,
    /// An inbox is created once for each worker id.
    NewIdAfterFence,
    /// A worker stops acting before its lease can lapse.
    StopBeforeLapse,
    /// Only a successful load lifts a quarantine.
    OnlyReadyLiftsQuarantine,
    /// A load is refused when the contract is not as its api saw it.
    CompareSeen,
    /// Generations grow with Redis' time.
    GenerationFromTime,
    /// An unload leaves the generation at which it happened.
    RememberUnloads,
    /// Every worker compares its table with the registry.
    Compare,
    /// The sweeper frees contracts of owners that are gone.
    Sweep,
    /// A look-up lists an owner that no reaper watches.
    ListAgain,
    /// A worker adds a contract to its list only while its inbox exists.
    ListWhileRegistered,
    /// The executable is kept for loads, not for the contract.
    ReferByLoad,
    /// A reference is stale only when its load can never be recorded any more.
    SweepComparesGeneration,
    /// The comparison and the sweep add references that are missing.
    ReferAgain,
}

impl Rule {
    pub(crate) const ALL: [Self; 15] = [
        Self::CompareGeneration,
        Self::TakeOnlyFromFenced,
        Self::NewIdAfterFence,
        Self::StopBeforeLapse,
        Self::OnlyReadyLiftsQuarantine,
        Self::CompareSeen,
        Self::GenerationFromTime,
        Self::RememberUnloads,
        Self::Compare,
        Self::Sweep,
        Self::ListAgain,
        Self::ListWhileRegistered,
        Self::ReferByLoad,
        Self::SweepComparesGeneration,
        Self::ReferAgain,
    ];
}

/// The rules that hold: all of them, but for one at most.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    without: Option<Rule>,
}

impl Rules {
    /// The protocol as it is.
    pub(crate) const ALL: Self = Self { without: None };

    /// The protocol without one of its rules.
    pub(crate) fn without(rule: Rule) -> Self {
        Self {
            without: Some(rule),
        }
    }

    pub(crate) fn has(self, rule: Rule) -> bool {
        self.without != Some(rule)
    }
}
