//! How throughput grows with workers for contracts that wait. Each worker has capacity for one
//! contract, which runs a fixed number of calls at a time. The machine's cores are not the limit
//! here.

use std::collections::BTreeSet;

use super::{Bench, address_of};
use crate::contracts::{WAITING, path};
use crate::names;
use crate::support::client::Client;
use crate::support::farm::Farm;
use crate::support::wait::{self, DEFAULT_LIMIT};

/// More than all contracts together run at a time.
const CONNECTIONS: u32 = 128;

pub(super) async fn run(bench: &mut Bench) {
    let all = bench.plan.workers.iter().max().copied().unwrap_or_default();
    let farm = Farm::builder().workers(all).env("WORKER_CAPACITY", "1");
    let farm = farm.start().await;
    let mut owners = BTreeSet::new();
    for number in 0..all {
        let address = address(number);
        farm.client().must_load(&address, WAITING).await;
        owners.insert(farm.client().owner(&address).await);
    }
    assert_eq!(owners.len(), all, "each worker has one: {owners:?}");
    let at = address_of(&farm);
    let paths: Vec<String> = (0..all).map(|n| path(&address(n), "wait")).collect();
    for round in 1..=bench.plan.rounds {
        eprintln!("workers, round {round}:");
        for count in bench.plan.workers {
            let load = bench.load(&at, &paths[..*count], "null", CONNECTIONS);
            bench.measure(&names::workers(*count), &load).await;
            rest(farm.client()).await;
        }
    }
    farm.stop().await;
}

/// Waits until no call is in flight or queued, because wrk disconnects with calls in flight.
async fn rest(client: &Client) {
    wait::until_true("the last calls to end", DEFAULT_LIMIT, async || {
        let contracts = client.contracts().await;
        let addresses = contracts
            .iter()
            .map(|contract| &contract["contractAddress"]);
        let asked = addresses.map(async |address| {
            let address = address.as_str().expect("an address is text");
            client.contract(address).await["queueDepth"] == 0
        });
        let idle = futures::future::join_all(asked).await;
        idle.into_iter().all(|idle| idle)
    })
    .await;
}

fn address(number: usize) -> String {
    format!("waiting-{number}")
}
