//! One farm, attacked again and again: afterwards it answers as fast as one that was never attacked.

use std::fmt;
use std::time::{Duration, Instant};

use crate::arena::Arena;
use crate::network::namespace;
use crate::network::witness::Witness;
use crate::report::Report;
use crate::{block_on, edges, host, neighbours, network, resources, values};

/// Calls that are measured, after as many that are not.
const CALLS: usize = 2000;
/// How often both farms are measured, in turns: what disturbs the machine disturbs both.
const TURNS: usize = 3;
/// How much slower the attacked farm may be, in hundredths: in the middle of its answers, which hardly
/// varies, and at their end, where one disturbance more shows.
const SLOWER_P50: u32 = 130;
const SLOWER_P99: u32 = 250;

/// The answers of a farm.
#[derive(Debug, Clone, Copy)]
struct Speed {
    p50: Duration,
    p99: Duration,
}

impl Speed {
    /// The best of each: what is left when nothing disturbs.
    fn best(self, other: Self) -> Self {
        Self {
            p50: self.p50.min(other.p50),
            p99: self.p99.min(other.p99),
        }
    }

    /// Whether this is about as fast as a fresh one.
    fn compares_to(self, fresh: Self) -> bool {
        self.p50 <= fresh.p50 * SLOWER_P50 / 100 && self.p99 <= fresh.p99 * SLOWER_P99 / 100
    }
}

impl fmt::Display for Speed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p50 {:.2?}, p99 {:.2?}", self.p50, self.p99)
    }
}

/// Attacks one farm with everything but containers, and compares it with itself before, and with a
/// fresh one.
pub(crate) fn run(rounds: u32) -> Report {
    match namespace::enter() {
        Ok(witness) => block_on(attacked(rounds, Some(&witness))),
        Err(error) => {
            let mut report = block_on(attacked(rounds, None));
            report.skipped.push(format!("N: {error}"));
            report
        }
    }
}

async fn attacked(rounds: u32, witness: Option<&Witness>) -> Report {
    let builder = || {
        resources::farm()
            .env("BODY_TIMEOUT_MS", "700")
            // Some ways out of a page take more than a second.
            .env("EXECUTE_TIMEOUT_MS", "2000")
    };
    let mut arena = Arena::start(builder()).await;
    let mut report = Report::default();
    let before = speed(&arena).await;
    for round in 1..=rounds {
        let start = Instant::now();
        host::run(&mut arena).await;
        neighbours::run(&mut arena).await;
        if let Some(witness) = witness {
            network::run(&mut arena, witness).await;
        }
        values::run(&mut arena).await;
        edges::requests(&mut arena).await;
        resources::run(&mut arena, false).await;
        let now = speed(&arena).await;
        let (cases, seconds) = (arena.report.entries.len(), start.elapsed().as_secs());
        let note = format!(
            "round {round} of {rounds}: {cases} cases, {seconds} s, then {now}, worker {} MiB",
            arena.worker_rss_kib() / 1024
        );
        eprintln!("{note}");
        arena.report.notes.push(note);
        report.join(std::mem::take(&mut arena.report));
    }
    let fresh = Arena::start(builder()).await;
    let (mut after, mut other) = (speed(&arena).await, speed(&fresh).await);
    for _ in 1..TURNS {
        after = after.best(speed(&arena).await);
        other = other.best(speed(&fresh).await);
    }
    for (name, speed) in [("before", before), ("after", after), ("fresh", other)] {
        let note = format!("{name}: {speed}");
        eprintln!("{note}");
        arena.report.notes.push(note);
    }
    let outcome = if after.compares_to(other) {
        Ok(format!("{after}; of a fresh one {other}"))
    } else {
        Err(format!("{after} instead of {other}"))
    };
    arena.note(
        "R1",
        "as fast as a fresh one",
        outcome,
        None,
        Duration::ZERO,
    );
    report.join(arena.end().await);
    report.join(fresh.end().await);
    report
}

async fn speed(arena: &Arena) -> Speed {
    let client = arena.client();
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
