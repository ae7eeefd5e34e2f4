//! Runs a farm with contracts of both kinds under a mixed load and injects a random fault every few
//! seconds. At the end the recorded calls must satisfy the invariants. `make soak` runs it, for
//! hours if wanted; `make test` does not.
//!
//! `SOAK_SECONDS` (600) is the duration. `SOAK_SEED` (from the clock, printed) determines which
//! faults occur and when. The last line is the summary. The exit code is 0 if all checks passed.
//!
//! With `SOAK_ATTACKERS` (how many) hostile contracts run among the honest ones instead, and no
//! faults are injected.

mod attackers;
mod churn;
mod containers;
mod faults;
mod fleet;
mod invariants;
mod ledger;
mod memory;
mod mixed;
mod rng;
#[expect(dead_code, reason = "the end-to-end tests use more of it")]
#[path = "../e2e/support/mod.rs"]
mod support;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::churn::Churn;
use crate::fleet::Fleet;
use crate::ledger::Ledger;
use crate::memory::Memory;
use crate::rng::Rng;
use crate::support::load::{Load, Pace};
use crate::support::wait;

const SECOND: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let seconds = variable("SOAK_SECONDS").unwrap_or(600);
    let seed = variable("SOAK_SEED").unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        now.map_or(1, |since| since.as_secs())
    });
    eprintln!("soak: SOAK_SECONDS={seconds} SOAK_SEED={seed}");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime can be made");
    let time = Duration::from_secs(seconds);
    let soak = || match variable("SOAK_ATTACKERS") {
        None => runtime.block_on(run(time, seed)),
        Some(attackers) => runtime.block_on(mixed::run(time, seed, attackers)),
    };
    if let Ok(summary) = catch_unwind(AssertUnwindSafe(soak)) {
        print_line(&format!("soak passed: {summary}, SOAK_SEED={seed}"));
        ExitCode::SUCCESS
    } else {
        print_line(&format!("soak FAILED, see above; SOAK_SEED={seed}"));
        ExitCode::FAILURE
    }
}

#[expect(clippy::print_stdout, reason = "the summary is the result of a soak")]
fn print_line(line: &str) {
    println!("{line}");
}

fn variable(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|error| panic!("{name}={text}: {error}")),
    )
}

async fn run(time: Duration, seed: u64) -> String {
    let mut rng = Rng::new(seed);
    let (mut fleet, addresses, in_containers) = Fleet::start().await;
    let clients = fleet.clients();
    let load = Load::retrying(1, &clients, &addresses, Pace::STEADY);
    let churn = Churn::start(&clients, rng.fork());
    let ledger = Ledger::start(&clients, &in_containers, &mut rng);
    load.full_pace().await;
    let mut memory = Memory::default();
    let (start, mut injected) = (Instant::now(), 0_u32);
    while start.elapsed() < time {
        wait::pass(SECOND + rng.up_to(3 * SECOND)).await;
        injected += 1;
        let fault = rng.pick(&faults::ALL);
        eprintln!("{:6.1} s: {fault:?}", start.elapsed().as_secs_f64());
        faults::inject(&mut fleet, *fault, &mut rng).await;
        memory.sample(&fleet);
    }
    eprintln!("recovered after {:.1?}", load.full_pace().await);
    let (log, churn_summary) = (load.end().await, churn.end().await);
    fleet.call_unassigned_contracts().await;
    let containers = ledger.end().await;
    let calls = invariants::check(&log, &clients[0]).await;
    let memory = memory.check_growth();
    fleet.close().await;
    format!(
        "{calls}; {containers}; {churn_summary}; {memory}; {injected} faults; no key, process, page, container or file left"
    )
}
