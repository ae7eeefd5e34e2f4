//! The farm beside what one would pick instead: the same contract, the same callers, the same
//! browser. Each system is started, loaded, measured and ended before the next one starts.

use std::time::Instant;

use super::{Bench, address_of};
use crate::contracts::{ADD_BODY, add, path};
use crate::figures::Metric;
use crate::latencies::Latencies;
use crate::memory::tree_pss_mib;
use crate::names;
use crate::peer::{self, Kind, Peer};
use crate::processor::Times;
use crate::raw_cdp;
use crate::support::client::Client;
use crate::support::farm::Farm;

/// How many contracts a system has.
pub(crate) const CONTRACTS: [usize; 2] = [1, 100];
/// How many callers call them, in turn.
pub(crate) const CONNECTIONS: [u32; 3] = [1, 64, 256];

pub(super) async fn run(bench: &mut Bench) {
    if !peer::are_installed() {
        bench
            .figures
            .skip("peers: `make target/peers/node_modules` installs their packages");
        return;
    }
    let farm = Farm::start().await;
    let browser = raw_cdp::arguments(&farm);
    farm.stop().await;
    for round in 1..=bench.plan.rounds {
        for contracts in CONTRACTS {
            eprintln!("peers, round {round}, contracts: {contracts}:");
            let addresses: Vec<_> = (0..contracts).map(|n| format!("peer-{n}")).collect();
            this_farm(bench, &addresses).await;
            for kind in Kind::ALL {
                peer(bench, kind, &browser, &addresses).await;
            }
        }
    }
}

async fn this_farm(bench: &mut Bench, addresses: &[String]) {
    let farm = Farm::builder().env("WORKER_CAPACITY", super::CAPACITY);
    let farm = farm.start().await;
    load(bench, names::FARM, farm.client(), addresses).await;
    measure(bench, names::FARM, &address_of(&farm), addresses).await;
    // wrk disconnects with calls in flight.
    farm.stop_ignoring_keys().await;
}

async fn peer(bench: &mut Bench, kind: Kind, browser: &[String], addresses: &[String]) {
    let peer = Peer::start(kind, browser, addresses).await;
    if kind.loads() {
        load(bench, kind.name(), &peer.client, addresses).await;
    }
    measure(bench, kind.name(), &peer.at, addresses).await;
    peer.stop().await;
}

/// Loads the contracts one after the other.
async fn load(bench: &mut Bench, system: &str, client: &Client, addresses: &[String]) {
    let mut times = Vec::new();
    for (number, address) in addresses.iter().enumerate() {
        let start = Instant::now();
        client.must_load(address, &add(number)).await;
        times.push(start.elapsed());
    }
    let name = names::peer_loads(system, addresses.len());
    let latencies = Latencies::new(times);
    bench
        .figures
        .note(&name, Metric::P50, latencies.all_but_one_in(2));
}

/// Calls all contracts in turn, with few and with many callers.
async fn measure(bench: &mut Bench, system: &str, at: &str, addresses: &[String]) {
    let paths: Vec<_> = addresses
        .iter()
        .map(|address| path(address, "add"))
        .collect();
    for connections in CONNECTIONS {
        let name = names::peer(system, addresses.len(), connections);
        let load = bench.load(at, &paths, ADD_BODY, connections);
        let before = Times::now();
        let run = bench.wrk.run(&load).await;
        let time = before.total_until(&Times::now());
        bench.figures.note_run(&name, &run);
        bench
            .figures
            .note(&name, Metric::Processor, time / run.calls);
    }
    let own = i32::try_from(std::process::id()).expect("process ids are small");
    if let Some(mib) = tree_pss_mib(own) {
        let name = names::peer_memory(system, addresses.len());
        bench.figures.note(&name, Metric::Mib, mib);
    }
}
