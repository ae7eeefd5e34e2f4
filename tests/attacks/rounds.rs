//! One farm, attacked again and again: afterwards it answers as fast as one that was never attacked.

use std::time::{Duration, Instant};

use crate::arena::Arena;
use crate::report::Report;
use crate::{edges, host, neighbours, resources, values};

/// Calls that are measured, after as many that are not.
const CALLS: usize = 2000;
/// How much slower the attacked farm may be, in the middle of its answers.
const SLOWER: u32 = 2;

/// The answers of a farm.
#[derive(Debug, Clone, Copy)]
struct Speed {
    p50: Duration,
    p99: Duration,
}

/// Attacks one farm with everything that comes from within contracts, and compares it with itself
/// before, and with a fresh one.
pub(crate) async fn run(rounds: u32) -> Report {
    let builder = || resources::farm().env("BODY_TIMEOUT_MS", "700");
    let mut arena = Arena::start(builder()).await;
    let before = speed(&arena).await;
    for round in 1..=rounds {
        let start = Instant::now();
        host::run(&mut arena).await;
        neighbours::run(&mut arena).await;
        values::run(&mut arena).await;
        resources::run(&mut arena, false).await;
        let now = speed(&arena).await;
        let seconds = start.elapsed().as_secs();
        let note = format!(
            "round {round} of {rounds}: {seconds} s, then p50 {:.2?}, p99 {:.2?}",
            now.p50, now.p99
        );
        eprintln!("{note}");
        arena.report.notes.push(note);
    }
    let after = speed(&arena).await;
    let fresh = Arena::start(edges::farm()).await;
    let other = speed(&fresh).await;
    for (name, speed) in [("before", before), ("after", after), ("fresh", other)] {
        let note = format!("{name}: p50 {:.2?}, p99 {:.2?}", speed.p50, speed.p99);
        eprintln!("{note}");
        arena.report.notes.push(note);
    }
    let slow = after.p50 > other.p50 * SLOWER;
    let outcome = if slow {
        Err(format!("{:.2?} instead of {:.2?}", after.p50, other.p50))
    } else {
        Ok(format!(
            "p50 {:.2?}, of a fresh one {:.2?}",
            after.p50, other.p50
        ))
    };
    arena.note(
        "R1",
        "as fast as a fresh one",
        outcome,
        None,
        Duration::ZERO,
    );
    let mut report = arena.end().await;
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
    client.unload("speed").await.is_done();
    times.sort_unstable();
    Speed {
        p50: times[CALLS / 2],
        p99: times[CALLS * 99 / 100],
    }
}
