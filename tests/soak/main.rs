//! The farm, with contracts of both kinds, under a mixed load, while a random fault strikes every few
//! seconds; at the end the books must balance. For hours if wanted: `make soak`, not part of `make test`.
//!
//! `SOAK_SECONDS` (600) is how long, `SOAK_SEED` (taken from the clock, printed) decides which
//! faults strike and when. The last line is the balance; the exit code is 0 when it is even.

mod balance;
mod churn;
mod containers;
mod dice;
mod faults;
mod fleet;
mod ledger;
mod memory;
#[expect(dead_code, reason = "the end-to-end tests use more of it")]
#[path = "../e2e/support/mod.rs"]
mod support;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::churn::Churn;
use crate::dice::Dice;
use crate::fleet::Fleet;
use crate::ledger::Ledger;
use crate::memory::Memory;
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
    let soak = || runtime.block_on(run(Duration::from_secs(seconds), seed));
    if let Ok(balance) = catch_unwind(AssertUnwindSafe(soak)) {
        say(&format!("balance: even, {balance}, SOAK_SEED={seed}"));
        ExitCode::SUCCESS
    } else {
        say(&format!("balance: NOT EVEN, see above; SOAK_SEED={seed}"));
        ExitCode::FAILURE
    }
}

#[expect(clippy::print_stdout, reason = "the balance is what a soak is for")]
fn say(line: &str) {
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
    let mut dice = Dice::new(seed);
    let (mut fleet, addresses, in_containers) = Fleet::start().await;
    let clients = fleet.clients();
    let load = Load::retrying(1, &clients, &addresses, Pace::STEADY);
    let churn = Churn::start(&clients, dice.fork());
    let ledger = Ledger::start(&clients, &in_containers, &mut dice);
    load.full_pace().await;
    let mut memory = Memory::default();
    let (start, mut strikes) = (Instant::now(), 0_u32);
    while start.elapsed() < time {
        wait::pass(SECOND + dice.up_to(3 * SECOND)).await;
        strikes += 1;
        let fault = dice.pick(&faults::ALL);
        eprintln!("{:6.1} s: {fault:?}", start.elapsed().as_secs_f64());
        faults::strike(&mut fleet, *fault, &mut dice).await;
        memory.look(&fleet);
    }
    eprintln!("healed after {:.1?}", load.full_pace().await);
    let (books, churned) = (load.end().await, churn.end().await);
    fleet.wake().await;
    let containers = ledger.end().await;
    let told = balance::of_calls(&books, &clients[0]).await;
    let memory = memory.is_flat();
    fleet.close().await;
    format!(
        "{told}; {containers}; {churned}; {memory}; {strikes} faults; no key, process, page, container or file left"
    )
}
