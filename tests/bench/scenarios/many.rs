//! A hundred contracts: how fast they load, and the throughput of calls spread over all of them.

use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::iter;

use super::{Bench, Javascript, pace};
use crate::contracts::{ADD, ADD_BODY, add, path};
use crate::figures::Metric;
use crate::latencies::Latencies;
use crate::names;
use crate::open_loop;
use crate::processor::KINDS;
use crate::raw_cdp;
use crate::raw_pages::RawPages;
use crate::wrk::Load;

const CONTRACTS: usize = 100;

/// Raw messages that are under way at once.
const UNDER_WAY: [usize; 2] = [64, 256];

/// Calls per second of the contract that is called now and then.
const COLD_RATE: u32 = 10;

/// Concurrent loads in the parallel case.
const CONCURRENT_LOADS: usize = 8;

pub(super) async fn run(bench: &mut Bench, farm: &Javascript) {
    let start = Instant::now();
    let latencies = load(farm, 1).await;
    let rate = per_second(latencies.count(), start.elapsed());
    let figures = &mut bench.figures;
    figures.note(names::LOADS, Metric::P50, latencies.all_but_one_in(2));
    figures.note(names::LOADS, Metric::P95, latencies.all_but_one_in(20));
    figures.note(names::LOADS, Metric::Max, latencies.max());
    figures.note(names::LOADS, Metric::Rate, rate);

    let paths: Vec<String> = (0..CONTRACTS).map(|n| path(&address(n), "add")).collect();
    let farm_load = bench.load(&farm.at, &paths, ADD_BODY, 256);
    bench.measure_farm(names::MANY, &farm_load).await;
    beside_a_cold_one(bench, farm, &farm_load).await;
    // The same paths, because alternating between paths also costs wrk time.
    let echo = bench.echo.at.clone();
    let bare_load = bench.load(&echo, &paths, ADD_BODY, 256);
    bench.measure(names::MANY_BARE, &bare_load).await;
    unload(farm).await;
    raw(bench, farm).await;

    if !bench.plan.is_quick() {
        let start = Instant::now();
        let count = load(farm, CONCURRENT_LOADS).await.count();
        let rate = per_second(count, start.elapsed());
        bench
            .figures
            .note(names::CONCURRENT_LOADS, Metric::Rate, rate);
        unload(farm).await;
    }
}

/// A contract that is called now and then, while the others keep the machine busy.
async fn beside_a_cold_one(bench: &mut Bench, farm: &Javascript, others: &Load<'_>) {
    let client = farm.farm.client();
    client.must_load("cold", ADD).await;
    let calls = open_loop::run(pace::add(client, "cold"), COLD_RATE, bench.plan.span);
    let (_, cold) = tokio::join!(bench.wrk.run(others), calls);
    bench.figures.note_paced(names::COLD_AMONG_MANY, &cold);
    client.unload("cold").await.is_no_content();
}

/// Messages to as many pages, with as many under way as the calls of these and of fewer callers.
async fn raw(bench: &mut Bench, farm: &Javascript) {
    let arguments = raw_cdp::arguments(&farm.farm);
    let mut pages = RawPages::start(&arguments, CONTRACTS).await;
    pages.run(64, Duration::from_secs(1)).await; // The first messages are slower.
    for under_way in UNDER_WAY {
        let measured = pages.run(under_way, bench.plan.span).await;
        let name = names::raw_many(under_way);
        bench.figures.note(&name, Metric::Rate, measured.rate);
        for (kind, time) in KINDS.iter().zip(measured.processor) {
            if ["browser", "renderers"].contains(kind) {
                let name = names::processor(&name, kind);
                bench.figures.note(&name, Metric::Processor, time);
            }
        }
    }
    pages.stop().await;
}

fn address(number: usize) -> String {
    format!("many-{number}")
}

async fn load(farm: &Javascript, at_once: usize) -> Latencies {
    let loads = iter(0..CONTRACTS).map(async |number| {
        let executable = add(number);
        let start = Instant::now();
        let client = farm.farm.client();
        client.must_load(&address(number), &executable).await;
        start.elapsed()
    });
    Latencies::new(loads.buffer_unordered(at_once).collect().await)
}

async fn unload(farm: &Javascript) {
    for number in 0..CONTRACTS {
        let client = farm.farm.client();
        client.unload(&address(number)).await.is_no_content();
    }
}

fn per_second(count: usize, time: Duration) -> f64 {
    let count = u32::try_from(count).expect("a hundred");
    f64::from(count) / time.as_secs_f64()
}
