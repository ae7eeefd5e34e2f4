//! Checks that the memory of the programs stops growing after a while.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::fleet::Fleet;
use crate::support::process::Process;

/// The age at which a process has reached its normal size.
const WARM_UP: Duration = Duration::from_secs(30);

/// How much it may grow later: allocators keep what they had at the busiest moment.
const LEEWAY_KIB: u64 = 48 * 1024;

/// The memory of each process.
#[derive(Default)]
pub(crate) struct Memory {
    processes: BTreeMap<String, Usage>,
}

struct Usage {
    first: Instant,
    grown_up_kib: Option<u64>,
    last_kib: u64,
}

impl Memory {
    /// Samples every running program.
    pub(crate) fn sample(&mut self, fleet: &Fleet) {
        let workers = fleet
            .workers
            .iter()
            .map(|process| &fleet.farm.workers[process.index]);
        let apis = fleet
            .apis
            .iter()
            .map(|process| &fleet.farm.apis[process.index]);
        for process in workers.chain(apis) {
            self.note(process);
        }
    }

    fn note(&mut self, process: &Process) {
        let kib = resident_kib(process.pid());
        let seen = self
            .processes
            .entry(process.name().to_owned())
            .or_insert(Usage {
                first: Instant::now(),
                grown_up_kib: None,
                last_kib: kib,
            });
        seen.last_kib = kib;
        if seen.grown_up_kib.is_none() && seen.first.elapsed() >= WARM_UP {
            seen.grown_up_kib = Some(kib);
        }
    }

    /// Checks that no process has grown since it reached its normal size.
    pub(crate) fn check_growth(&self) -> String {
        let mut most = 0;
        for (name, seen) in &self.processes {
            let Some(before) = seen.grown_up_kib else {
                continue;
            };
            let growth = seen.last_kib.saturating_sub(before);
            eprintln!("memory of {name}: {before} KiB, then {} KiB", seen.last_kib);
            assert!(
                growth <= LEEWAY_KIB.max(before / 4),
                "{name} has grown by {growth} KiB"
            );
            most = most.max(growth);
        }
        format!("memory flat (at most {} MiB more)", most / 1024)
    }
}

/// The resident memory of a process.
fn resident_kib(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    kib.unwrap_or_default()
}
