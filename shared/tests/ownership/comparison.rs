//! What a process finds when it compares its table with the registry.

use crate::script::Contract;
use crate::state::Process;

/// The result of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Comparison {
    Equal,
    /// The record is older than the host.
    Restore,
    /// The contract is another's.
    Close,
    /// The record names the process, which does not know the contract.
    Drop,
}

/// Compares the table of a process with what it has read.
pub(crate) fn compare(process: &Process, found: &Contract) -> Comparison {
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
