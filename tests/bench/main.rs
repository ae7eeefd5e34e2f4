//! Measures how fast the farm is, compared with its limits: a bare HTTP server, a bare page, a bare
//! container. `make bench` runs it; `make test` does not. `docs/benchmarks.md` explains each
//! scenario and how to read the report.
//!
//! - `BENCH` is `full`, `quick` (within three minutes), `profile` (flame graphs instead of
//!   figures), `guard` (a comparison with an earlier version), or `scale` or `scale-quick` (the
//!   queue alone).
//! - `BENCH_ROUNDS` is how many times everything is measured. `BENCH_SECONDS` is how long each load
//!   lasts.
//! - `BENCH_ONLY` names groups: memory, javascript, access, authors, workers, docker,
//!   peers.
//!
//! It is a target of `cargo bench` and not a test, because tests are compiled for fast builds, and
//! here the ceiling and one of the load generators are measured too.
//!
//! The exit code is 0 if every request was answered correctly and, in a full run, no target was
//! missed.

mod contracts;
mod echo;
mod figures;
mod guard;
mod latencies;
mod memory;
mod names;
mod open_loop;
mod peer;
mod plan;
mod plots;
mod processor;
mod profile;
mod raw_cdp;
mod raw_pages;
mod report;
mod scale;
mod scenarios;
#[expect(dead_code, reason = "the end-to-end tests use more of it")]
#[path = "../e2e/support/mod.rs"]
mod support;
mod targets;
mod wrk;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use crate::plan::{Mode, Plan};
use crate::report::Start;
use crate::scenarios::Bench;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some(echo::ARGUMENT) {
        let port = arguments.next().and_then(|port| port.parse().ok());
        echo::serve(port.expect("a port follows"));
        return ExitCode::SUCCESS;
    }
    let plan = Plan::from_env();
    if plan.mode.is_scale() {
        scale::use_own_cores();
    }
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

/// Panics on Ctrl-C, so that everything that was started is stopped as after a failure.
async fn interrupted() {
    let asked = tokio::signal::ctrl_c().await;
    panic!("interrupted: {asked:?}");
}

#[expect(
    clippy::print_stdout,
    reason = "the outcome is the result of a benchmark"
)]
fn print_line(text: &str) {
    println!("{text}");
}

/// Returns whether every request succeeded and no target was missed.
async fn run(plan: Plan) -> bool {
    std::fs::create_dir_all(&plan.folder).expect("the folder of reports can be made");
    if plan.mode == Mode::Profile {
        profile::run(&plan.folder).await;
        return true;
    }
    if plan.mode == Mode::Guard {
        return guard::run().await;
    }
    if plan.mode.is_scale() {
        scale::run(&plan.scale()).await;
        return true;
    }
    let start = Start::now();
    let Bench { plan, figures, .. } = Bench::run(plan).await;
    let targets = targets::judge(&figures);
    let plots = plots::draw(&plan, &figures);
    let file = plan.folder.join("report.md");
    let text = report::markdown(&plan, &figures, &targets, &plots, &start);
    std::fs::write(&file, text).expect("the report can be written");
    print_line(&report::lines(&targets));
    for error in &figures.errors {
        print_line(&format!("FAILED REQUESTS {error}"));
    }
    for skipped in &figures.skipped {
        print_line(&format!("SKIPPED {skipped}"));
    }
    let seconds = start.at.elapsed().as_secs();
    print_line(&format!(
        "bench: {seconds} s, the report is in {}",
        file.display()
    ));
    if plan.is_quick() {
        print_line(
            "bench: this was a quick run, too short to judge by; `make bench` is the real one",
        );
    }
    let missed = targets.iter().any(|target| target.holds() == Some(false));
    figures.errors.is_empty() && (plan.is_quick() || !missed)
}
