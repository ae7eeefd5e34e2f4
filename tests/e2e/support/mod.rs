//! Shared helpers of the tests: a farm, a client, traffic and waiting for a condition. Tests of
//! faults also find fault injection, a load and the invariants of its calls here.

pub(crate) mod browser;
pub(crate) mod call_log;
pub(crate) mod chaos;
pub(crate) mod client;
pub(crate) mod collector;
pub(crate) mod daemon;
pub(crate) mod farm;
pub(crate) mod leftovers;
pub(crate) mod load;
pub(crate) mod process;
pub(crate) mod processes;
pub(crate) mod programs;
pub(crate) mod proxy;
pub(crate) mod recovered;
pub(crate) mod redis_server;
pub(crate) mod scrape;
pub(crate) mod traffic;
pub(crate) mod wait;
