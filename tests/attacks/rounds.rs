//! Attacks one farm repeatedly and checks that it then answers as fast as one that was never
//! attacked.

use std::fmt;
use std::time::{Duration, Instant};

use crate::attack_farm::AttackFarm;
use crate::network::monitor::Monitor;
use crate::network::namespace;
use crate::report::Report;
use crate::{block_on, edges, host, neighbours, network, resources, values};

/// Calls that are measured, after an equal number of warm-up calls.
const CALLS: usize = 2000;
/// How many times both farms are measured, alternately, so that disturbances affect both.
const PERMITS: usize = 3;
/// How much slower the attacked farm may be, in hundredths. The median hardly varies. The p99 shows
/// single disturbances more.
const SLOWER_P50: u32 = 130;
const SLOWER_P99: u32 = 250;

/// The latencies of a farm.
#[derive(Debug, Clone, Copy)]
struct Speed {
    p50: Duration,
    p99: Duration,
}

impl Speed {
    /// The minimum of each percentile, which disturbances affect least.
    fn best(self, other: Self) -> Self {
        Self {
            p50: self.p50.min(other.p50),
            p99: self.p99.min(other.p99),
        }
    }

    /// Whether this is about as fast as a new farm.
    fn compares_to(self, new_farm: Self) -> bool {
        self.p50 <= new_farm.p50 * SLOWER_P50 / 100 && self.p99 <= new_farm.p99 * SLOWER_P99 / 100
    }
}

impl fmt::Display for Speed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p50 {:.2?}, p99 {:.2?}", self.p50, self.p99)
    }
}

/// Attacks one farm with everything except containers. Compares it with itself before and with a
/// new farm.
pub(crate) fn run(rounds: u32) -> Report {
    match namespace::enter() {
        Ok(monitor) => block_on(attacked(rounds, Some(&monitor))),
        Err(error) => {
            let mut report = block_on(attacked(rounds, None));
            report.skipped.push(format!("N: {error}"));
            report
        }
    }
}

async fn attacked(rounds: u32, monitor: Option<&Monitor>) -> Report {
    let builder = || {
        resources::farm()
            .env("BODY_TIMEOUT_MS", "700")
            // Some ways out of a page take more than a second.
            .env("EXECUTE_TIMEOUT_MS", "2000")
    };
    let mut target = AttackFarm::start(builder()).await;
    let mut report = Report::default();
    let before = speed(&target).await;
    for round in 1..=rounds {
        let start = Instant::now();
        host::run(&mut target).await;
        neighbours::run(&mut target).await;
        if let Some(monitor) = monitor {
            network::run(&mut target, monitor).await;
        }
        values::run(&mut target).await;
        edges::requests(&mut target).await;
        resources::run(&mut target, false).await;
        let now = speed(&target).await;
        let (cases, seconds) = (target.report.entries.len(), start.elapsed().as_secs());
        let note = format!(
            "round {round} of {rounds}: {cases} cases, {seconds} s, then {now}, worker {} MiB",
            target.worker_rss_kib() / 1024
        );
        eprintln!("{note}");
        target.report.notes.push(note);
        report.join(std::mem::take(&mut target.report));
    }
    let new_farm = AttackFarm::start(builder()).await;
    let (mut after, mut other) = (speed(&target).await, speed(&new_farm).await);
    for _ in 1..PERMITS {
        after = after.best(speed(&target).await);
        other = other.best(speed(&new_farm).await);
    }
    for (name, speed) in [("before", before), ("after", after), ("new farm", other)] {
        let note = format!("{name}: {speed}");
        eprintln!("{note}");
        target.report.notes.push(note);
    }
    let outcome = if after.compares_to(other) {
        Ok(format!("{after}; of a new farm {other}"))
    } else {
        Err(format!("{after} instead of {other}"))
    };
    target.note("R1", "as fast as a new farm", outcome, None, Duration::ZERO);
    report.join(target.end().await);
    report.join(new_farm.end().await);
    report
}

async fn speed(target: &AttackFarm) -> Speed {
    let client = target.client();
    client
        .must_load("speed", "{ add: ({ a, b }) => a + b }")
        .await;
    let argument = serde_json::json!({ "a": 1, "b": 2 });
    let mut times = Vec::with_capacity(CALLS);
    for call in 0..2 * CALLS {
        let start = Instant::now();
        let answer = client.execute("speed", "add", &argument).await;
        assert_eq!(answer.data(), 3);
        if call >= CALLS {
            times.push(start.elapsed());
        }
    }
    client.unload("speed").await.is_no_content();
    times.sort_unstable();
    Speed {
        p50: times[CALLS / 2],
        p99: times[CALLS * 99 / 100],
    }
}
