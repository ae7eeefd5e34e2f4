//! Faults that the farm must survive: real processes are killed and frozen, real connections cut,
//! a real Redis taken away.
//!
//! Each function is named after the fault; after each one the farm is whole again, and the
//! callers' books balance ([`crate::support::books`] has the invariants). Times are printed; only
//! those that are promised are asserted.

mod apis;
mod contracts;
mod drain;
mod executables;
mod frames;
mod pressure;
mod quarantine;
mod redis_down;
mod redis_sick;
mod sandboxes;
mod workers;

use std::time::Duration;

use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::support::books::CONTRACT;
use crate::support::client::Client;
use crate::support::farm::{Builder, Farm};

/// From the death of a worker until its contracts answer: a lease of 5 s, and what it takes to
/// notice and to load.
const FAILOVER: Duration = Duration::from_secs(7);

/// What measures how long answers take wants the machine for itself; the others share it.
static MACHINE: RwLock<()> = RwLock::const_new(());

async fn shared() -> RwLockReadGuard<'static, ()> {
    MACHINE.read().await
}

async fn alone() -> RwLockWriteGuard<'static, ()> {
    MACHINE.write().await
}

/// A farm in which the dead are reaped although its Redis has only just been started.
fn builder() -> Builder {
    Farm::builder().env("REAP_GRACE_MS", "0")
}

/// Loads the contracts `c0`.., all of them book-keepers.
async fn load_books(client: &Client, count: usize) -> Vec<String> {
    let addresses: Vec<String> = (0..count).map(|number| format!("c{number}")).collect();
    let loads = addresses
        .iter()
        .map(|address| client.must_load(address, CONTRACT));
    futures::future::join_all(loads).await;
    addresses
}

/// A farm whose first worker hosts `count` contracts, while a second one stands by.
async fn standby(builder: Builder, count: usize) -> (Farm, Vec<String>) {
    let mut farm = builder.start().await;
    let addresses = load_books(farm.client(), count).await;
    farm.join().await;
    (farm, addresses)
}

/// The generations of contracts, in their order.
async fn generations(client: &Client, addresses: &[String]) -> Vec<u64> {
    let generations = addresses.iter().map(|address| client.generation(address));
    futures::future::join_all(generations).await
}
