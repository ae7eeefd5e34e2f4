//! The protections between contracts and between a contract and the network.

pub(super) mod interceptor;
pub(super) mod layers;
pub(super) mod watchdog;
