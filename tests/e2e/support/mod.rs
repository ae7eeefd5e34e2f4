//! What every behaviour needs: a farm, a client, traffic, and a way to wait for a condition; and
//! what the faults need: ways to break things, a load, and books that must balance.

pub(crate) mod books;
pub(crate) mod browser;
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
pub(crate) mod quiet;
pub(crate) mod redis_server;
pub(crate) mod scrape;
pub(crate) mod traffic;
pub(crate) mod wait;
