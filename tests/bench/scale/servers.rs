//! The Redis servers: their cores and their processor time.

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use nix::unistd::Pid;

use crate::support::processes::{self, ProcessInfo};

/// Microseconds of a clock tick. Linux reports a hundred ticks a second on every machine.
const TICK_US: f64 = 10_000.0;

/// Leaves the lower half of the cores to Redis. To be called before this process has threads: they
/// inherit the cores.
pub(crate) fn use_own_cores() {
    let (_, own) = halves();
    sched_setaffinity(Pid::this(), &set_of(&own)).expect("a process may choose its cores");
}

/// The cores of Redis and those of everything else. On a machine with one core, that one for both.
fn halves() -> (Vec<usize>, Vec<usize>) {
    // The machine's, not those of this process, which has fewer after `use_own_cores`.
    let init = sched_getaffinity(Pid::from_raw(1)).expect("the first process always runs");
    let mut cores = (0..CpuSet::count()).filter(|core| init.is_set(*core).unwrap_or(false));
    let cores: Vec<_> = cores.by_ref().collect();
    if let [only] = cores[..] {
        return (vec![only], vec![only]);
    }
    let (redis, own) = cores.split_at(cores.len() / 2);
    (redis.to_vec(), own.to_vec())
}

fn set_of(cores: &[usize]) -> CpuSet {
    let mut set = CpuSet::new();
    for core in cores {
        set.set(*core).expect("the machine has this core");
    }
    set
}

/// How many cores Redis has for itself.
pub(super) fn cores_of_redis() -> usize {
    halves().0.len()
}

/// All Redis servers that this process has started.
pub(super) struct Servers(Vec<ProcessInfo>);

impl Servers {
    /// Finds them, and moves them to their cores, in turn.
    pub(super) fn find() -> Self {
        let own = i32::try_from(std::process::id()).expect("process ids are small");
        let mut servers = processes::descendants(own);
        servers.retain(|seen| seen.command.starts_with("redis-server"));
        assert!(!servers.is_empty(), "no server was started");
        servers.sort_by_key(|server| server.pid);
        let (cores, _) = halves();
        for (index, server) in servers.iter().enumerate() {
            let core = set_of(&[cores[index % cores.len()]]);
            sched_setaffinity(Pid::from_raw(server.pid), &core).expect("an own child");
        }
        Self(servers)
    }

    /// The processor time of each server so far, in microseconds.
    pub(super) fn processor(&self) -> Vec<f64> {
        let ticks = self.0.iter().map(ProcessInfo::ticks);
        ticks
            .map(|ticks| micros(ticks.cast_signed()) * TICK_US)
            .collect()
    }
}

/// The processor time of this process so far, in microseconds.
pub(super) fn own_processor() -> f64 {
    let usage = getrusage(UsageWho::RUSAGE_SELF).expect("a process may ask for its own");
    let times = [usage.user_time(), usage.system_time()];
    times
        .map(|time| micros(time.num_microseconds()))
        .iter()
        .sum()
}

#[expect(clippy::cast_precision_loss, reason = "there are never 2^52 of them")]
fn micros(count: i64) -> f64 {
    count as f64
}
