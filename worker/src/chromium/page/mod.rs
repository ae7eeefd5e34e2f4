//! One page: blank, then dedicated to one contract.

pub(super) mod blank;
pub(super) mod harness;
