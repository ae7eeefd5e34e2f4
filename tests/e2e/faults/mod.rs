//! Faults that the farm must survive: processes are killed and frozen, connections are cut, Redis
//! is taken away.
//!
//! Each function is named after its fault. After each fault the farm recovers, and the recorded
//! calls satisfy the invariants of [`crate::support::call_log`]. All times are printed. Only
//! promised times are asserted.

mod apis;
mod contracts;
mod deliveries;
mod drain;
mod executables;
mod frames;
mod machine;
mod pressure;
mod quarantine;
mod redis_cluster;
mod redis_down;
mod redis_sentinel;
mod redis_sick;
mod redis_tls;
mod sandboxes;
mod workers;

use std::time::Duration;

use redis_servers::Kind;
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::support::call_log::CONTRACT;
use crate::support::client::Client;
use crate::support::farm::{Builder, Farm};
use crate::support::load::{Load, Pace};

/// From the death of a worker until its contracts answer: a lease of 5 s, plus the time to notice
/// and to load.
const FAILOVER: Duration = Duration::from_secs(7);

/// Tests that measure latency need the machine exclusively. All other tests share it.
static MACHINE: RwLock<()> = RwLock::const_new(());

async fn shared() -> RwLockReadGuard<'static, ()> {
    MACHINE.read().await
}

async fn alone() -> RwLockWriteGuard<'static, ()> {
    MACHINE.write().await
}

/// A farm that fails over dead workers although its Redis has only just been started.
fn builder() -> Builder {
    Farm::builder().env("REAP_GRACE_MS", "0")
}

/// Loads the contracts `c0`, `c1`, .., each of which records the calls that it ran.
async fn load_recorders(client: &Client, count: usize) -> Vec<String> {
    let addresses: Vec<String> = (0..count).map(|number| format!("c{number}")).collect();
    let loads = addresses
        .iter()
        .map(|address| client.must_load(address, CONTRACT));
    futures::future::join_all(loads).await;
    addresses
}

/// A farm of two apis and two workers on this kind of Redis, whose contracts are called at a steady
/// pace.
async fn under_load(kind: Kind) -> (Farm, Vec<String>, Load) {
    let farm = builder().redis(kind).apis(2).workers(2).start().await;
    let addresses = load_recorders(farm.client(), 6).await;
    let load = Load::start(&farm.clients, &addresses, Pace::STEADY);
    load.full_pace().await;
    (farm, addresses, load)
}

/// A farm whose first worker owns `count` contracts. A second worker owns none.
async fn standby(builder: Builder, count: usize) -> (Farm, Vec<String>) {
    let mut farm = builder.start().await;
    let addresses = load_recorders(farm.client(), count).await;
    farm.join().await;
    (farm, addresses)
}

/// The generations of contracts, in the order of `addresses`.
async fn generations(client: &Client, addresses: &[String]) -> Vec<u64> {
    let generations = addresses.iter().map(|address| client.generation(address));
    futures::future::join_all(generations).await
}
