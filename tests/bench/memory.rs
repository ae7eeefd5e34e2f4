//! The memory of processes, as /proc reports it.

use crate::support::processes;

/// The memory of a process and its descendants in MiB. Shared memory is counted once, by
/// proportional share (PSS). None where the machine does not permit reading it.
pub(crate) fn tree_pss_mib(pid: i32) -> Option<f64> {
    let below = processes::descendants(pid).into_iter().map(|seen| seen.pid);
    let parts: Option<Vec<f64>> = below.chain([pid]).map(pss_kib).collect();
    Some(parts?.into_iter().sum::<f64>() / 1024.0)
}

/// Zero for a process that has ended meanwhile.
fn pss_kib(pid: i32) -> Option<f64> {
    kib(pid, "smaps_rollup", "Pss:").or_else(|| (!processes::runs(pid)).then_some(0.0))
}

/// The memory of one process in KiB: all that it has mapped, shared or not (RSS).
pub(crate) fn rss_kib(pid: i32) -> f64 {
    kib(pid, "status", "VmRSS:").expect("an own child tells what it has")
}

fn kib(pid: i32, file: &str, name: &str) -> Option<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/{file}")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}
