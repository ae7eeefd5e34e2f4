//! How fast the farm is, beside what bounds it: a bare HTTP server, a bare page, a bare container.
//! `make bench`, not part of `make test`; `docs/benchmarks.md` says what each scenario means and how the
//! report is read.
//!
//! - `BENCH` is `full`, `quick` (within three minutes) or `profile` (flame graphs instead of figures).
//! - `BENCH_ROUNDS` and `BENCH_SECONDS` are how often everything is measured, and how long each load is.
//! - `BENCH_ONLY` names groups: memory, javascript, workers, docker.
//!
//! A target for `cargo bench` and not one of the tests: those are compiled to be compiled fast, and here
//! the ceiling and one of the generators are measured along.
//!
//! The exit code is 0 when every request was answered well and, in a full run, no target was missed.

mod contracts;
mod echo;
mod figures;
mod latencies;
mod memory;
mod names;
mod open_loop;
mod plan;
mod plots;
mod processor;
mod profile;
mod raw_cdp;
mod report;
mod scenarios;
#[expect(dead_code, reason = "the end-to-end tests use more of it")]
#[path = "../e2e/support/mod.rs"]
mod support;
mod targets;
mod wrk;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use crate::plan::{Mode, Plan};
use crate::report::Beginning;
use crate::scenarios::Bench;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some(echo::ARGUMENT) {
        let port = arguments.next().and_then(|port| port.parse().ok());
        echo::serve(port.expect("a port follows"));
        return ExitCode::SUCCESS;
    }
    let plan = Plan::from_env();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime can be made");
    let work = || {
        runtime.block_on(async {
            tokio::select! {
                well = run(plan) => well,
                () = interrupted() => unreachable!("it panics"),
            }
        })
    };
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) | Err(_) => ExitCode::FAILURE,
    }
}

/// Ends as a failure does, which takes everything down that was started.
async fn interrupted() {
    let asked = tokio::signal::ctrl_c().await;
    panic!("interrupted: {asked:?}");
}

#[expect(
    clippy::print_stdout,
    reason = "the outcome is what a benchmark is for"
)]
fn say(text: &str) {
    println!("{text}");
}

/// Gives whether all is well.
async fn run(plan: Plan) -> bool {
    std::fs::create_dir_all(&plan.folder).expect("the folder of reports can be made");
    if plan.mode == Mode::Profile {
        profile::run(&plan.folder).await;
        return true;
    }
    let beginning = Beginning::now();
    let Bench { plan, figures, .. } = Bench::run(plan).await;
    let targets = targets::judge(&figures);
    let plots = plots::draw(&plan, &figures);
    let file = plan.folder.join("report.md");
    let text = report::markdown(&plan, &figures, &targets, &plots, &beginning);
    std::fs::write(&file, text).expect("the report can be written");
    say(&report::lines(&targets));
    for error in &figures.errors {
        say(&format!("FAILED REQUESTS {error}"));
    }
    for skipped in &figures.skipped {
        say(&format!("SKIPPED {skipped}"));
    }
    let seconds = beginning.at.elapsed().as_secs();
    say(&format!(
        "bench: {seconds} s, the report is in {}",
        file.display()
    ));
    if plan.is_quick() {
        say("bench: this was a quick run, too short to judge by; `make bench` is the real one");
    }
    let missed = targets.iter().any(|target| target.holds() == Some(false));
    figures.errors.is_empty() && (plan.is_quick() || !missed)
}
