//! `bench/scale.md` and its plot.

use std::fmt::Write as _;

use super::Extent;
use super::idle::{Farm, Idle};
use super::servers::cores_of_redis;
use super::throughput::{Calls, DEPLOYMENTS, Deployment, FRAMES};
use crate::figures::{Spread, shown};
use crate::plots::{Curve, Plot};
use crate::print_line;
use crate::report;

const PLOT: &str = "scale.svg";

/// Writes the report, and prints where it is.
pub(super) fn write(extent: &Extent, calls: &[Calls], farm: &Farm) {
    let drawn = plot(calls).draw(&extent.folder);
    drawn.unwrap_or_else(|error| panic!("{PLOT} cannot be drawn: {error}"));
    let parts = [
        head(extent),
        throughput(extent, calls),
        growth(calls),
        large_farm(extent, farm),
        deaths(extent, farm),
    ];
    let file = extent.folder.join("scale.md");
    std::fs::write(&file, parts.join("\n")).expect("the report can be written");
    print_line(&format!("bench-scale: the report is in {}", file.display()));
}

fn head(extent: &Extent) -> String {
    let kind = if extent.is_quick {
        "**a quick run: too short for conclusions**"
    } else {
        "a full run"
    };
    let (rounds, span) = (extent.rounds, extent.span.as_secs());
    let (processor, redis) = (report::processor_name(), cores_of_redis());
    let system = report::system();
    format!(
        "# The queue alone\n\n\
         `make bench-scale` wrote this. [docs/scaling.md](../docs/scaling.md) explains it.\n\n\
         - {kind}: {rounds} rounds, each load {span} s; medians\n\
         - Redis had {redis} of the cores for itself, the simulated apis and workers the others: \
         {processor}\n\
         - {system}\n"
    )
}

fn throughput(extent: &Extent, calls: &[Calls]) -> String {
    let (apis, workers) = (extent.apis, extent.called);
    let mut text = format!(
        "## Calls\n\n{apis} apis call {workers} workers, which answer at once. The simulated \
         processes use most of the time, so the rate shows what they can send. What Redis can take \
         follows from its processor time. A call's is what it adds to what Redis uses for these \
         processes without calls (*idle*).\n\n\
         | Redis | calls a frame | calls/s | p50, p99, ms | µs of Redis a call | of the busiest \
         server | cores of Redis used | idle | commands a call | µs of apis and workers a call |\n\
         |---|---|---|---|---|---|---|---|---|---|\n"
    );
    for row in calls {
        let redis = row.redis();
        // Writing to a string does not fail.
        _ = writeln!(
            text,
            "| {} | {} | {} | {}, {} | {} ({} to {}) | {} | {} | {} | {} | {} |",
            row.name(),
            shown(row.measured_in_a_frame()),
            shown(row.rate()),
            shown(row.p50()),
            shown(row.p99()),
            shown(redis.median),
            shown(redis.min),
            shown(redis.max),
            shown(row.busiest()),
            shown(row.cores()),
            shown(row.idle_cores()),
            shown(row.commands()),
            shown(row.own()),
        );
    }
    text
}

/// What follows from the processor time: how many calls full cores of Redis take.
fn growth(calls: &[Calls]) -> String {
    let mut text = String::from(
        "## Calls per second and core of Redis\n\n\
         A million divided by the microseconds of a call. *Evenly*: on three cores, if all \
         primaries are equally busy. *Measured*: until the busiest of the three is full. \
         *Growth*: from one to three primaries, once with as many calls as could be made, which \
         kept the one busier than each of the three, and once with a third of the calls for the \
         one, so that all are equally busy. A server that is busier needs less time for a call, \
         because it takes more of them at once. The commands a call show whether there is more to do.\n\n\
         | calls a frame | one server | cluster, 1 primary | the same, a third of the calls | a core \
         of 3 primaries | 3 primaries, evenly | 3 primaries, measured | growth, all calls | growth, \
         equally busy |\n\
         |---|---|---|---|---|---|---|---|---|\n",
    );
    for in_a_frame in FRAMES {
        let of = |deployment, is_third| {
            let mut rows = calls.iter();
            let found = rows.find(|row| {
                (row.deployment, row.in_a_frame, row.is_third) == (deployment, in_a_frame, is_third)
            });
            found.expect("it was measured")
        };
        let a_core = |deployment, is_third| 1e6 / of(deployment, is_third).redis().median;
        let single = a_core(Deployment::One, false);
        let [first, less] = [false, true].map(|third| a_core(Deployment::Cluster(1), third));
        let third = a_core(Deployment::Cluster(3), false);
        let measured = 1e6 / of(Deployment::Cluster(3), false).busiest();
        // Writing to a string does not fail.
        _ = writeln!(
            text,
            "| {in_a_frame} | {} | {} | {} | {} | {} | {} | {} x | {} x |",
            shown(single),
            shown(first),
            shown(less),
            shown(third),
            shown(3.0 * third),
            shown(measured),
            shown(3.0 * third / first),
            shown(3.0 * third / less),
        );
    }
    _ = write!(text, "\n![{PLOT}]({PLOT})\n");
    text
}

fn large_farm(extent: &Extent, farm: &Farm) -> String {
    let (apis, workers, contracts) = (extent.apis, extent.workers, extent.contracts);
    let [sweep, sweeping] = farm.sweep;
    let rows = [
        (
            "memory of Redis for a worker, KiB",
            farm.bytes_a_worker / 1024.0,
        ),
        ("connections for a worker", farm.connections_a_worker),
        (
            "memory of Redis for a contract, bytes",
            farm.bytes_a_contract,
        ),
        ("processor time of Redis for a load, µs", farm.redis_a_load),
        ("a page of 100 contracts, ms", farm.page),
        ("all contracts, by pages of 1,000, s", farm.list_all),
        ("all workers, ms", farm.list_workers),
        ("counting the workers for `/readyz`, ms", farm.presence),
        ("the sweep of the registry, once a minute, s", sweep),
        ("processor time of Redis for a sweep, s", sweeping),
    ];
    let mut text = format!(
        "## A large farm\n\n{apis} apis, {workers} workers, {contracts} contracts, one server.\n\n\
         | what | measured |\n|---|---|\n"
    );
    for (what, value) in rows {
        // Writing to a string does not fail.
        _ = writeln!(text, "| {what} | {} |", shown(value));
    }
    text.push_str("\nWhile nothing is called:\n\n");
    text.push_str(&idle("without contracts", &farm.idle));
    text.push_str(&idle("with all contracts", &farm.idle_with_contracts));
    text
}

fn idle(name: &str, idle: &Idle) -> String {
    format!(
        "- {name}: {} of a core of Redis, {} commands a second. Most of it: {}\n",
        shown(idle.core),
        shown(idle.commands_a_second),
        commands(&idle.most)
    )
}

/// Commands: how many a second, and the part of a core that they take in Redis itself.
fn commands(most: &[(String, f64, f64)]) -> String {
    let one = |(name, calls, core): &(String, f64, f64)| {
        format!("`{name}` {}/s {}", shown(*calls), shown(*core))
    };
    most.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn deaths(extent: &Extent, farm: &Farm) -> String {
    let storm = &farm.storm;
    let [before, during] = [storm.before, storm.during].map(|times| times.map(shown).join(", "));
    format!(
        "## {} workers die at once\n\n\
         Their {} contracts have other owners {} s to {} s after the deaths: a lease lasts 5 s. \
         Redis used {} of a core from the first to the last. Calls to the other workers, p50 and \
         p99 in ms: {before} before, {during} from the deaths to the end. Most of the time of \
         Redis: {}.\n",
        extent.deaths,
        storm.contracts,
        shown(storm.first),
        shown(storm.last),
        shown(storm.core),
        commands(&storm.most),
    )
}

/// From the microseconds of a call.
fn calls_of_a_core(micros: Spread) -> Spread {
    Spread {
        median: 1e6 / micros.median,
        min: 1e6 / micros.max,
        max: 1e6 / micros.min,
    }
}

fn plot(calls: &[Calls]) -> Plot {
    let curve = |deployment: Deployment| Curve {
        name: deployment.name(),
        points: calls
            .iter()
            .filter(|row| row.deployment == deployment && !row.is_third)
            .map(|row| (row.measured_in_a_frame(), calls_of_a_core(row.redis())))
            .collect(),
    };
    let shown = DEPLOYMENTS.into_iter();
    Plot {
        file: PLOT,
        title: "Calls that a core of Redis takes",
        x: "calls a frame",
        y: "calls per second and core",
        curves: shown
            .filter(|deployment| *deployment != Deployment::AppendOnly)
            .map(curve)
            .collect(),
    }
}
