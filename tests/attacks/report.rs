//! The results of the cases: one line as each ends, and a table at the end.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

/// One case that was run.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) row: &'static str,
    pub(crate) name: String,
    /// What was observed, or what was wrong.
    pub(crate) outcome: Result<String, String>,
    /// The result of the control. None if it has not run yet or is not needed.
    pub(crate) control: Option<Result<String, String>>,
    pub(crate) time: Duration,
}

/// All cases of a run.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) entries: Vec<Entry>,
    /// What could not be run, and why.
    pub(crate) skipped: Vec<String>,
    /// Figures for the end of the report.
    pub(crate) notes: Vec<String>,
}

impl Entry {
    fn failed(&self) -> bool {
        self.outcome.is_err() || matches!(self.control, Some(Err(_)))
    }
}

impl Report {
    /// Merges the report of another shard. A control that ran elsewhere is added to its case.
    pub(crate) fn join(&mut self, other: Self) {
        for entry in other.entries {
            let same = |known: &&mut Entry| known.row == entry.row && known.name == entry.name;
            match self.entries.iter_mut().find(same) {
                Some(known) => {
                    known.control = known.control.take().or(entry.control);
                    known.time += entry.time;
                    // An entry with only a control says nothing about the case itself.
                    let is_empty = known.outcome.as_ref().is_ok_and(String::is_empty);
                    if is_empty || (known.outcome.is_ok() && entry.outcome.is_err()) {
                        known.outcome = entry.outcome;
                    }
                }
                None => self.entries.push(entry),
            }
        }
        self.skipped.extend(other.skipped);
        self.notes.extend(other.notes);
    }

    /// A case that expects a failure proves nothing unless its control shows the attack succeed.
    pub(crate) fn demand_controls(&mut self) {
        let needs = |entry: &&mut Entry| entry.row.starts_with(['H', 'P', 'N']);
        for entry in self.entries.iter_mut().filter(needs) {
            let none = || Err("there is none".to_owned());
            entry.control.get_or_insert_with(none);
        }
    }

    /// The failed cases.
    pub(crate) fn failures(&self) -> Vec<String> {
        let failed = self.entries.iter().filter(|entry| entry.failed());
        failed
            .map(|entry| format!("{} {}: {}", entry.row, entry.name, failure_text(entry)))
            .collect()
    }

    /// The report as Markdown.
    pub(crate) fn markdown(&mut self, took: Duration) -> String {
        self.entries.sort_by_key(|entry| order(entry.row));
        let failed = self.failures().len();
        let mut text = format!(
            "# Attacks\n\n{} cases, {failed} failed, {} skipped, {:.0} s.\n\n",
            self.entries.len(),
            self.skipped.len(),
            took.as_secs_f64()
        );
        for note in self.skipped.iter().chain(&self.notes) {
            // Writing to a string does not fail.
            _ = writeln!(text, "- {note}");
        }
        text.push_str("\n| row | attack | outcome | control | ms |\n|---|---|---|---|---|\n");
        for entry in &self.entries {
            let outcome = match &entry.outcome {
                Ok(seen) => cell(seen),
                Err(wrong) => format!("**FAILED** {}", cell(wrong)),
            };
            let control = match &entry.control {
                None => "-".to_owned(),
                Some(Ok(seen)) => cell(seen),
                Some(Err(wrong)) => format!("**FAILED** {}", cell(wrong)),
            };
            let (row, name, ms) = (entry.row, cell(&entry.name), entry.time.as_millis());
            _ = writeln!(text, "| {row} | {name} | {outcome} | {control} | {ms} |");
        }
        text
    }

    /// Writes the report to a file.
    pub(crate) fn write(&mut self, path: &Path, took: Duration) {
        let text = self.markdown(took);
        std::fs::write(path, text).expect("the report can be written");
    }
}

fn failure_text(entry: &Entry) -> String {
    let control = entry
        .control
        .as_ref()
        .and_then(|control| control.as_ref().err());
    let outcome = entry.outcome.as_ref().err();
    let control = control.map(|wrong| format!("control: {wrong}"));
    [outcome.cloned(), control]
        .into_iter()
        .flatten()
        .collect::<Vec<_>>()
        .join("; ")
}

/// By group, then by number.
fn order(row: &str) -> (usize, u32) {
    let (group, number) = row.split_at(1);
    (
        "HPNRVEDS".find(group).unwrap_or(usize::MAX),
        number.parse().unwrap_or(u32::MAX),
    )
}

fn cell(text: &str) -> String {
    let end = text.floor_char_boundary(160);
    text[..end].replace('|', "\\|").replace(['\n', '\r'], " ")
}
