//! Compares this tree with an earlier version: both run at the same time and are measured in turns.
//!
//! `make bench-guard FROM=REVISION` builds that version; `BENCH_FROM` names the folder of its
//! programs. A regression is a scenario that is slower by more than 5 %, and slower at all with a
//! confidence of 95 %.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::contracts::{ADD_BODY, add, path};
use crate::latencies::Latencies;
use crate::print_line;
use crate::support::farm::{Builder, Farm};
use crate::wrk::{Load, Wrk};

/// How often everything is measured.
const ROUNDS: u8 = 10;
/// Student's t for ten values and a two-sided confidence of 95 %.
const T: f64 = 2.262;
/// A speed of this share of the earlier one, or less, is a regression.
const REGRESSION: f64 = 0.95;
/// How long each load lasts.
const SPAN: Duration = Duration::from_secs(4);
const CONTRACTS: usize = 100;
/// How many contracts are loaded in each round.
const LOADS: usize = 20;

/// What is measured. Each gives a speed: calls or loads per second, or one by a latency.
#[derive(Debug, Clone, Copy)]
enum Scenario {
    /// The median latency of a lone caller of one contract.
    Lone,
    /// Callers of one contract.
    One(u32),
    /// Callers of a hundred contracts in turn.
    Many(u32),
    /// The median time of a load.
    Loads,
}

const SCENARIOS: [(&str, Scenario); 6] = [
    ("one contract, c=1: p50", Scenario::Lone),
    ("one contract, c=64: calls/s", Scenario::One(64)),
    ("one contract, c=256: calls/s", Scenario::One(256)),
    ("100 contracts, c=64: calls/s", Scenario::Many(64)),
    ("100 contracts, c=256: calls/s", Scenario::Many(256)),
    ("loads: p50", Scenario::Loads),
];

/// The speed of this tree as a multiple of the earlier one's: the mean and the bounds of its
/// confidence.
#[derive(Debug, Clone, Copy)]
struct Ratio {
    mean: f64,
    low: f64,
    high: f64,
}

/// Returns whether there is no regression.
pub(crate) async fn run() -> bool {
    let earlier = std::env::var_os("BENCH_FROM").expect(
        "BENCH_FROM names the folder of an earlier version's programs: use `make bench-guard FROM=..`",
    );
    let wrk = Wrk::new();
    let earlier = start(Farm::builder().programs(Path::new(&earlier))).await;
    let tree = start(Farm::builder()).await;
    let mut ratios = SCENARIOS.map(|_| Vec::new());
    for round in 1..=ROUNDS {
        for ((name, scenario), ratios) in SCENARIOS.iter().zip(&mut ratios) {
            // Neither is always the second.
            let (before, now) = if round % 2 == 0 {
                let before = speed(&wrk, &earlier, *scenario).await;
                (before, speed(&wrk, &tree, *scenario).await)
            } else {
                let now = speed(&wrk, &tree, *scenario).await;
                (speed(&wrk, &earlier, *scenario).await, now)
            };
            eprintln!(
                "guard, round {round} of {ROUNDS}: {name}: {:.3}",
                now / before
            );
            ratios.push((now / before).ln());
        }
    }
    for farm in [earlier, tree] {
        // wrk disconnects with calls in flight.
        farm.stop_ignoring_keys().await;
    }
    let ratios: Vec<_> = ratios.iter().map(|ratios| Ratio::of(ratios)).collect();
    for ((name, _), ratio) in SCENARIOS.iter().zip(&ratios) {
        print_line(&ratio.line(name));
    }
    !ratios.iter().any(|ratio| ratio.is_regression())
}

/// A farm with all contracts, whose first calls are over.
async fn start(builder: Builder) -> Farm {
    let farm = builder.env("WORKER_CAPACITY", "256").start().await;
    for number in 0..CONTRACTS {
        let executable = add(number);
        farm.client().must_load(&address(number), &executable).await;
        farm.client()
            .execute(&address(number), "add", &json!({}))
            .await;
    }
    farm
}

/// How fast a farm is.
async fn speed(wrk: &Wrk, farm: &Farm, scenario: Scenario) -> f64 {
    let (contracts, connections) = match scenario {
        Scenario::Lone => (1, 1),
        Scenario::One(connections) => (1, connections),
        Scenario::Many(connections) => (CONTRACTS, connections),
        Scenario::Loads => return loads(farm).await,
    };
    let paths: Vec<_> = (0..contracts).map(|n| path(&address(n), "add")).collect();
    let url = farm.client().url("");
    let load = Load {
        at: url.trim_start_matches("http://"),
        paths: &paths,
        body: ADD_BODY,
        connections,
        span: SPAN,
        key: None,
    };
    let run = wrk.run(&load).await;
    assert!(run.errors.is_none(), "{run:?}");
    match scenario {
        Scenario::Lone => 1e3 / run.p50,
        _ => run.rate,
    }
}

async fn loads(farm: &Farm) -> f64 {
    let mut times = Vec::new();
    for number in 0..LOADS {
        let start = Instant::now();
        farm.client()
            .must_load("guard", &add(CONTRACTS + number))
            .await;
        times.push(start.elapsed());
        farm.client().unload("guard").await.is_no_content();
    }
    1e3 / Latencies::new(times).all_but_one_in(2)
}

fn address(number: usize) -> String {
    format!("guard-{number}")
}

impl Ratio {
    /// From the logarithms of the rounds' ratios.
    fn of(logarithms: &[f64]) -> Self {
        let count = f64::from(ROUNDS);
        let mean = logarithms.iter().sum::<f64>() / count;
        let squares = logarithms.iter().map(|one| (one - mean).powi(2));
        let error = (squares.sum::<f64>() / (count - 1.0) / count).sqrt();
        Self {
            mean: mean.exp(),
            low: (mean - T * error).exp(),
            high: (mean + T * error).exp(),
        }
    }

    fn is_regression(self) -> bool {
        self.mean <= REGRESSION && self.high < 1.0
    }

    fn line(self, name: &str) -> String {
        let verdict = if self.is_regression() {
            "REGRESSION"
        } else {
            "ok"
        };
        let Self { mean, low, high } = self;
        format!("{verdict:<10} {name}: {mean:.3} times as fast ({low:.3} to {high:.3})")
    }
}
