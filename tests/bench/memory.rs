//! What processes have in memory, as /proc tells it.

use crate::support::processes;

/// What a process and all below it have, in MiB: what they share is counted once, by parts (PSS).
/// None where the machine does not let us look.
pub(crate) fn tree_pss_mib(pid: i32) -> Option<f64> {
    let below = processes::descendants(pid).into_iter().map(|seen| seen.pid);
    let parts: Option<Vec<f64>> = below.chain([pid]).map(pss_kib).collect();
    Some(parts?.into_iter().sum::<f64>() / 1024.0)
}

/// Nothing, of a process that has ended meanwhile.
fn pss_kib(pid: i32) -> Option<f64> {
    kib(pid, "smaps_rollup", "Pss:").or_else(|| (!processes::runs(pid)).then_some(0.0))
}

/// What a process alone has, in KiB: all that it has mapped, shared or not (RSS).
pub(crate) fn rss_kib(pid: i32) -> f64 {
    kib(pid, "status", "VmRSS:").expect("an own child tells what it has")
}

fn kib(pid: i32, file: &str, name: &str) -> Option<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/{file}")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}
