//! The references to the contract's executable. All loads of the model have the same executable:
//! it is the one that a wrong reference could lose.

use crate::rules::{Rule, Rules};
use crate::script::{Contract, Load};

/// The set of references, sorted.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct References(Vec<Load>);

/// What refers to the executable: a load, or without the rule the contract.
fn member(rules: Rules, load: Load) -> Load {
    if rules.has(Rule::ReferByLoad) {
        load
    } else {
        Load::default()
    }
}

impl References {
    /// A load is about to be recorded.
    pub(crate) fn keep(&mut self, rules: Rules, load: Load) {
        let member = member(rules, load);
        if let Err(place) = self.0.binary_search(&member) {
            self.0.insert(place, member);
        }
    }

    /// A load is not recorded any more.
    pub(crate) fn release(&mut self, rules: Rules, load: Load) {
        let member = member(rules, load);
        self.0.retain(|each| *each != member);
    }

    pub(crate) fn has(&self, rules: Rules, load: Load) -> bool {
        self.0.contains(&member(rules, load))
    }

    /// The first reference that the sweep removes.
    pub(crate) fn stale(&self, rules: Rules, contract: &Contract) -> Option<Load> {
        let mut references = self.0.iter().copied();
        references.find(|load| is_stale(rules, *load, contract))
    }
}

/// Whether the record names another load, and this one can never be recorded any more.
fn is_stale(rules: Rules, load: Load, contract: &Contract) -> bool {
    let (_, generation) = contract.at();
    match contract.record {
        None if rules.has(Rule::ReferByLoad) => generation == 0 || generation >= load.begun,
        None => true,
        Some(_) if !rules.has(Rule::ReferByLoad) => false,
        Some(record) if record.load == Some(load) => false,
        Some(_) => generation > load.begun || !rules.has(Rule::SweepComparesGeneration),
    }
}
