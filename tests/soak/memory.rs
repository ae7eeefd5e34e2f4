//! The memory of the programs over time: after a while it must not grow any more.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::fleet::Fleet;
use crate::support::process::Process;

/// How old a process is when it has what it needs.
const GROWN_UP: Duration = Duration::from_secs(30);

/// How much more it may have later: allocators keep what they had at the busiest moment.
const LEEWAY_KIB: u64 = 48 * 1024;

/// What was seen of each process.
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
    /// Looks at every program that runs.
    pub(crate) fn look(&mut self, fleet: &Fleet) {
        let workers = fleet
            .workers
            .iter()
            .map(|post| &fleet.farm.workers[post.index]);
        let apis = fleet.apis.iter().map(|post| &fleet.farm.apis[post.index]);
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
        if seen.grown_up_kib.is_none() && seen.first.elapsed() >= GROWN_UP {
            seen.grown_up_kib = Some(kib);
        }
    }

    /// Checks that nobody has grown who was grown up.
    pub(crate) fn is_flat(&self) -> String {
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

/// What a process has in memory.
fn resident_kib(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    kib.unwrap_or_default()
}
