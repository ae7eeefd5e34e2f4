//! The part of the report that compares the farm with what one would pick instead.

use std::fmt::Write as _;

use crate::figures::{Figures, Metric, Spread, shown};
use crate::names;
use crate::peer::Kind;
use crate::scenarios::peers::{CONNECTIONS, CONTRACTS};

/// Tables of medians. Empty if nothing was measured.
pub(super) fn section(figures: &Figures) -> String {
    let systems = || [names::FARM].into_iter().chain(Kind::ALL.map(Kind::name));
    let mut text = String::new();
    for contracts in CONTRACTS {
        let title = if contracts == 1 {
            "one contract"
        } else {
            "100 contracts, in turn"
        };
        let mut rows = String::new();
        for system in systems() {
            if let Some(row) = row(figures, system, contracts) {
                // Writing to a string does not fail.
                _ = writeln!(rows, "| {system} | {row} |");
            }
        }
        if !rows.is_empty() {
            _ = write!(text, "\n**{title}**\n\n{}{rows}", header());
        }
    }
    if text.is_empty() {
        return text;
    }
    format!(
        "\n## Beside what one would pick instead\n\nMedians: calls/s; p50 and p99 in ms; \
         microseconds of processor time of all processes for each call. Then the median time of a \
         load in ms, and the memory of all processes in MiB.\n{text}"
    )
}

fn header() -> String {
    let columns = CONNECTIONS.map(|c| format!("c={c}: calls/s | p50 | p99 | processor"));
    let count = CONNECTIONS.len() * 4 + 2;
    let rule = "|---".repeat(count + 1);
    format!("| | {} | load | memory |\n{rule}|\n", columns.join(" | "))
}

/// None if the system was not measured.
fn row(figures: &Figures, system: &str, contracts: usize) -> Option<String> {
    let median = |name: &str, metric| {
        let spread = Spread::of(figures.values(name, metric))?;
        Some(shown(spread.median))
    };
    let mut cells = Vec::new();
    for connections in CONNECTIONS {
        let name = names::peer(system, contracts, connections);
        for metric in [Metric::Rate, Metric::P50, Metric::P99, Metric::Processor] {
            cells.push(median(&name, metric)?);
        }
    }
    let load = median(&names::peer_loads(system, contracts), Metric::P50);
    let memory = median(&names::peer_memory(system, contracts), Metric::Mib);
    let more = [load, memory].map(|cell| cell.unwrap_or_else(|| "-".to_owned()));
    cells.extend(more);
    Some(cells.join(" | "))
}
