//! The queue alone: real Redis servers and the queue's own code, with workers that answer at once.
//! `make bench-scale` runs it; `docs/scaling.md` draws the conclusions.
//!
//! Apis and workers are tasks of this process, each with the connections that a process has. So
//! thousands of workers fit on one machine, and nothing but the queue costs processor time.
//!
//! | file | what it does |
//! |---|---|
//! | `servers` | the Redis servers: their cores and their processor time |
//! | `worker`, `api` | what a simulated process does |
//! | `crowd` | many of them, and callers |
//! | `throughput` | calls on one to three primaries |
//! | `idle` | a large farm: memory, heartbeats, listings, many deaths at once |
//! | `report` | `bench/scale.md` and its plot |

mod api;
mod crowd;
mod idle;
mod report;
mod servers;
mod throughput;
mod worker;

use std::path::PathBuf;
use std::time::Duration;

pub(crate) use self::servers::use_own_cores;

/// How much is measured.
#[derive(Debug, Clone)]
pub(crate) struct Extent {
    /// Where the report is written.
    folder: PathBuf,
    is_quick: bool,
    rounds: usize,
    /// How long each load of calls lasts.
    span: Duration,
    /// The workers that are called.
    called: usize,
    apis: usize,
    /// The workers of the large farm.
    workers: usize,
    /// The contracts of the large farm.
    contracts: usize,
    /// The workers of the large farm that die at once.
    deaths: usize,
    /// How long the large farm is watched without calls.
    idle: Duration,
}

impl Extent {
    /// Eight minutes.
    pub(crate) fn full(folder: PathBuf) -> Self {
        Self {
            folder,
            is_quick: false,
            rounds: 2,
            span: Duration::from_secs(3),
            called: 2000,
            apis: 10,
            workers: 1000,
            contracts: 100_000,
            deaths: 100,
            // A worker compares its contracts with the registry every 30 s.
            idle: Duration::from_secs(30),
        }
    }

    /// Two minutes.
    pub(crate) fn quick(folder: PathBuf) -> Self {
        Self {
            folder,
            is_quick: true,
            rounds: 1,
            span: Duration::from_secs(2),
            called: 400,
            workers: 200,
            contracts: 5000,
            deaths: 20,
            idle: Duration::from_secs(10),
            ..Self::full(PathBuf::new())
        }
    }
}

/// Measures, and writes the report.
pub(crate) async fn run(extent: &Extent) {
    let calls = throughput::run(extent).await;
    let farm = idle::run(extent).await;
    report::write(extent, &calls, &farm);
}
