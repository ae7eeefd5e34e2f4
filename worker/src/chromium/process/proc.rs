//! Reads facts about processes from `/proc`. Linux only, like the sandbox itself.

use std::fs;
use std::io;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::time::ClockId;
use nix::unistd::Pid;
use rustix::process::{Resource, Rlimit, prlimit, setrlimit};

/// The unit of processor time in `/proc`: a hundredth of a second on every Linux.
const TICK: Duration = Duration::from_millis(10);

/// One process. Its start time tells it apart from a later process with the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Process {
    pub(crate) pid: Pid,
    /// Clock ticks from the machine's start to the process's.
    started: u64,
}

/// Processor time that was used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct CpuTimes {
    /// In the program itself.
    pub(crate) user: Duration,
    /// In system calls.
    pub(crate) system: Duration,
}

impl CpuTimes {
    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            user: self.user + other.user,
            system: self.system + other.system,
        }
    }

    /// What was used since an earlier measurement.
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            user: self.user.saturating_sub(before.user),
            system: self.system.saturating_sub(before.system),
        }
    }
}

impl Process {
    /// The process that has this number now.
    pub(crate) fn find(pid: Pid) -> Option<Self> {
        Some(Self {
            pid,
            started: Stat::read(pid)?.started,
        })
    }

    /// Whether it still runs; a zombie does not.
    pub(crate) fn is_alive(self) -> bool {
        Stat::read(self.pid).is_some_and(|stat| stat.started == self.started && stat.state != 'Z')
    }

    /// The processor time that it has used so far.
    pub(crate) fn cpu(self) -> Duration {
        let times = self.times();
        times.user + times.system
    }

    /// The same by kind.
    pub(crate) fn times(self) -> CpuTimes {
        let stat = Stat::read(self.pid).filter(|stat| stat.started == self.started);
        stat.map_or_else(CpuTimes::default, |stat| CpuTimes {
            user: TICK * stat.user,
            system: TICK * stat.system,
        })
    }

    /// The processor time that all its threads have used so far, to the nanosecond. One system
    /// call, without the check that no other process has got the number since.
    pub(crate) fn exact_cpu(self) -> Option<Duration> {
        let clock = ClockId::pid_cpu_clock_id(self.pid).ok()?;
        Some(clock.now().ok()?.into())
    }

    /// The processor time that its first thread has used so far.
    pub(crate) fn main_thread_cpu(self) -> Duration {
        let path = format!("/proc/{0}/task/{0}/schedstat", self.pid);
        let text = fs::read_to_string(path).unwrap_or_default();
        let nanos = text.split(' ').next().and_then(|nanos| nanos.parse().ok());
        Duration::from_nanos(nanos.unwrap_or(0))
    }

    /// Kills it, if it still runs.
    pub(crate) fn kill(self) {
        if self.is_alive() {
            // Fails when it has ended meanwhile.
            _ = kill(self.pid, Signal::SIGKILL);
        }
    }

    /// Its own memory in bytes: neither program nor files.
    pub(crate) fn own_memory(self) -> u64 {
        self.status_bytes(&["RssAnon", "RssShmem"])
    }

    /// The size of its data segment in bytes, as `RLIMIT_DATA` counts it.
    pub(crate) fn data_bytes(self) -> u64 {
        self.status_bytes(&["VmData"])
    }

    /// The sum of these fields, which `/proc` gives in KiB.
    fn status_bytes(self, names: &[&str]) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap_or_default();
        let fields = status.lines().filter_map(|line| line.split_once(':'));
        let wanted = fields.filter(|(name, _)| names.contains(name));
        let sizes = wanted.filter_map(|(_, size)| {
            let size = size.trim().strip_suffix(" kB")?;
            size.parse::<u64>().ok()
        });
        sizes.sum::<u64>() << 10
    }
}

/// Limits the data segment of a process. The limit cannot be raised again.
pub(crate) fn limit_data(pid: Pid, bytes: u64) -> io::Result<()> {
    let limit = Rlimit {
        current: Some(bytes),
        maximum: Some(bytes),
    };
    let pid = rustix::process::Pid::from_raw(pid.as_raw());
    prlimit(pid, Resource::Data, limit)?;
    Ok(())
}

/// Forbids core dumps of this process and of those that it starts.
pub(crate) fn forbid_core_dumps() -> io::Result<()> {
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    Ok(setrlimit(Resource::Core, none)?)
}

/// The user that a process runs as.
pub(crate) fn real_uid(pid: Pid) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    uids.split_whitespace().next()?.parse().ok()
}

/// The processes whose parent is `parent`, zombies included.
pub(crate) fn children_of(parent: Pid) -> Vec<Pid> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .map(Pid::from_raw)
        .filter(|pid| Stat::read(*pid).is_some_and(|stat| stat.parent == parent))
        .collect()
}

/// The fields of `/proc/PID/stat` that are used here; see proc(5).
struct Stat {
    state: char,
    parent: Pid,
    /// Processor time used in the program and in system calls, in ticks.
    user: u32,
    system: u32,
    started: u64,
}

impl Stat {
    fn read(pid: Pid) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// The name, in parentheses, may contain anything. Plain fields follow the last parenthesis.
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.rsplit_once(')')?.1.split_ascii_whitespace();
        let state = fields.next()?.chars().next()?;
        let parent = Pid::from_raw(fields.next()?.parse().ok()?);
        // Fields 14, 15 and 22 of the line; the state is the third.
        let user: u32 = fields.nth(9)?.parse().ok()?;
        let system: u32 = fields.next()?.parse().ok()?;
        let started = fields.nth(6)?.parse().ok()?;
        Some(Self {
            state,
            parent,
            user,
            system,
            started,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_and_spaces_is_skipped() {
        let line = "42 (a) b (c) S 7 42 42 0 -1 4194304 1 2 3 4 50 60 7 8 20 0 1 0 9001 1 1";
        let stat = Stat::parse(line).unwrap();
        assert_eq!(
            (stat.state, stat.parent.as_raw(), stat.user, stat.system),
            ('S', 7, 50, 60)
        );
        assert_eq!(stat.started, 9001);
    }

    #[test]
    fn this_process_is_alive_and_is_a_child_of_its_parent() {
        let me = Process::find(nix::unistd::getpid()).unwrap();
        assert!(me.is_alive());
        assert_eq!(real_uid(me.pid), Some(nix::unistd::getuid().as_raw()));
        assert!(me.own_memory() > 0 && me.data_bytes() > 0);
        assert!(children_of(nix::unistd::getppid()).contains(&me.pid));
        assert!(
            !Process {
                started: me.started + 1,
                ..me
            }
            .is_alive()
        );
    }
}
