//! The report of figures and targets, for readers.

mod peers;

use std::fmt::Write as _;
use std::process::Command;
use std::time::Instant;

use crate::figures::{Figures, Metric, Spread, shown};
use crate::names;
use crate::plan::Plan;
use crate::processor::KINDS;
use crate::targets::{Bound, Target};

/// When a run started, and the load of the machine then.
pub(crate) struct Start {
    pub(crate) at: Instant,
    pub(crate) load: String,
}

impl Start {
    pub(crate) fn now() -> Self {
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        Self {
            at: Instant::now(),
            load: load.split(' ').take(3).collect::<Vec<_>>().join(", "),
        }
    }
}

/// The report as Markdown.
pub(crate) fn markdown(
    plan: &Plan,
    figures: &Figures,
    targets: &[Target],
    plots: &[&str],
    start: &Start,
) -> String {
    let mut text = String::from("# Benchmarks\n\n");
    for line in conditions(plan, start) {
        // Writing to a string does not fail.
        _ = writeln!(text, "- {line}");
    }
    for error in &figures.errors {
        _ = writeln!(text, "- **FAILED REQUESTS** {error}");
    }
    for skipped in &figures.skipped {
        _ = writeln!(text, "- skipped: {skipped}");
    }
    text.push_str("\n## Targets\n\n");
    text.push_str(
        "Ratios of figures that were measured side by side. The median of all rounds counts.\n\n",
    );
    text.push_str("| target | limit | median | min | max | |\n|---|---|---|---|---|---|\n");
    for target in targets {
        let (limit, seen) = (limit(target.bound), cells(target.seen));
        _ = writeln!(
            text,
            "| {} | {limit} | {seen} | {} |",
            target.what,
            verdict(target)
        );
    }
    for plot in plots {
        _ = write!(text, "\n![{plot}]({plot})\n");
    }
    text.push_str(&processor(plan, figures));
    text.push_str(&peers::section(figures));
    text.push_str("\n## Figures\n\n| | | median | min | max |\n|---|---|---|---|---|\n");
    for figure in &figures.all {
        let (metric, seen) = (figure.metric.name(), cells(Spread::of(&figure.values)));
        _ = writeln!(text, "| {} | {metric} | {seen} |", figure.name);
    }
    text
}

/// Median processor time per call, in microseconds. Empty if it was not measured.
fn processor(plan: &Plan, figures: &Figures) -> String {
    let one = plan.connections.iter().map(|c| names::one(*c));
    let loads: Vec<_> = one.chain([names::MANY.to_owned()]).collect();
    let mut rows = String::new();
    for load in &loads {
        let of = |kind: &&str| {
            let name = names::processor(load, kind);
            Spread::of(figures.values(&name, Metric::Processor))
        };
        let Some(spreads) = KINDS.iter().map(of).collect::<Option<Vec<_>>>() else {
            continue;
        };
        let medians = spreads.iter().map(|spread| shown(spread.median));
        let medians: Vec<_> = medians.collect();
        // Writing to a string does not fail.
        _ = writeln!(rows, "| {load} | {} |", medians.join(" | "));
    }
    if rows.is_empty() {
        return rows;
    }
    let (kinds, rule) = (KINDS.join(" | "), "|---".repeat(KINDS.len() + 1));
    format!(
        "\n## Where the time goes\n\nMicroseconds of processor time for each call, medians.\n\n\
         | | {kinds} |\n{rule}|\n{rows}"
    )
}

/// One line for each target.
pub(crate) fn lines(targets: &[Target]) -> String {
    let mut text = String::new();
    for target in targets {
        let seen = target.seen.map_or("-".to_owned(), |seen| {
            let [median, min, max] = [seen.median, seen.min, seen.max].map(shown);
            format!("{median} ({min} to {max})")
        });
        let (what, limit) = (target.what, limit(target.bound));
        _ = writeln!(text, "{:<12} {what}: {seen}, {limit}", verdict(target));
    }
    text
}

fn verdict(target: &Target) -> &'static str {
    match target.holds() {
        Some(true) => "holds",
        Some(false) => "MISSED",
        None => "not measured",
    }
}

fn limit(bound: Bound) -> String {
    match bound {
        Bound::AtLeast(limit) => format!("at least {limit}"),
        Bound::AtMost(limit) => format!("at most {limit}"),
    }
}

fn cells(seen: Option<Spread>) -> String {
    seen.map_or("- | - | -".to_owned(), |seen| {
        [seen.median, seen.min, seen.max].map(shown).join(" | ")
    })
}

/// The name of the processor.
pub(crate) fn processor_name() -> String {
    let processor = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = processor.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.trim() == "model name").then(|| value.trim().to_owned())
    });
    name.unwrap_or_else(|| "an unknown processor".to_owned())
}

fn conditions(plan: &Plan, start: &Start) -> Vec<String> {
    let processor = processor_name();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let (rounds, span) = (plan.rounds, plan.span.as_secs());
    let minutes = start.at.elapsed().as_secs_f64() / 60.0;
    let extent = if plan.is_quick() {
        "**a quick run: too short for conclusions, some scenarios are left out**"
    } else {
        "a full run"
    };
    vec![
        format!("{extent}: {rounds} rounds, each load {span} s, {minutes:.1} minutes in all"),
        format!(
            "{cores} cores of {processor}, shared by all processes, including the load generators"
        ),
        format!("load averages at the start: {}", start.load),
        system(),
    ]
}

/// When and on what it was measured, in one line.
pub(crate) fn system() -> String {
    format!(
        "{}, Linux {}, commit {}",
        said("date", &["-u", "+%F %H:%M UTC"]),
        said("uname", &["-r"]),
        said("git", &["describe", "--always", "--dirty"])
    )
}

/// The output of a program, if it is installed.
fn said(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    text.ok()
        .filter(|text| !text.is_empty())
        .unwrap_or_else(|| "unknown".to_owned())
}
