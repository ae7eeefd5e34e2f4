//! What `/proc` says about processes. Linux only, like the sandbox itself.

use std::fs;
use std::io;
use std::time::Duration;

use nix::unistd::Pid;
use rustix::process::{Resource, Rlimit, prlimit};

/// What `/proc` counts processor time in: a hundredth of a second on every Linux.
const TICK: Duration = Duration::from_millis(10);

/// One process, told apart from a later one with the same number by its time of birth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Process {
    pub(crate) pid: Pid,
    /// Clock ticks since the machine started.
    born: u64,
}

impl Process {
    /// The process that has the number now.
    pub(crate) fn find(pid: Pid) -> Option<Self> {
        Some(Self {
            pid,
            born: Stat::read(pid)?.born,
        })
    }

    /// Whether it still runs: a zombie does not.
    pub(crate) fn is_alive(self) -> bool {
        Stat::read(self.pid).is_some_and(|stat| stat.born == self.born && stat.state != 'Z')
    }
}

impl Process {
    /// How long it has computed.
    pub(crate) fn cpu(self) -> Duration {
        let stat = Stat::read(self.pid).filter(|stat| stat.born == self.born);
        TICK * stat.map_or(0, |stat| stat.ticks)
    }

    /// Bytes of memory that are its own: neither program nor files.
    pub(crate) fn own_memory(self) -> u64 {
        self.status_bytes(&["RssAnon", "RssShmem"])
    }

    /// Bytes of its data segment, as `RLIMIT_DATA` counts them.
    pub(crate) fn data_bytes(self) -> u64 {
        self.status_bytes(&["VmData"])
    }

    /// The sum of fields that are told in KiB.
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

/// Bounds the data segment of a process, for good.
pub(crate) fn limit_data(pid: Pid, bytes: u64) -> io::Result<()> {
    let limit = Rlimit {
        current: Some(bytes),
        maximum: Some(bytes),
    };
    let pid = rustix::process::Pid::from_raw(pid.as_raw());
    prlimit(pid, Resource::Data, limit)?;
    Ok(())
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

/// The fields of `/proc/PID/stat` that are needed here; see proc(5).
struct Stat {
    state: char,
    parent: Pid,
    /// Of processor time.
    ticks: u32,
    born: u64,
}

impl Stat {
    fn read(pid: Pid) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// The name, in parentheses, may hold anything; what follows its last parenthesis is plain.
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.rsplit_once(')')?.1.split_ascii_whitespace();
        let state = fields.next()?.chars().next()?;
        let parent = Pid::from_raw(fields.next()?.parse().ok()?);
        // Fields 14, 15 and 22 of the line; the state is the third.
        let user: u32 = fields.nth(9)?.parse().ok()?;
        let system: u32 = fields.next()?.parse().ok()?;
        let born = fields.nth(6)?.parse().ok()?;
        Some(Self {
            state,
            parent,
            ticks: user.saturating_add(system),
            born,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_and_spaces_does_not_confuse() {
        let line = "42 (a) b (c) S 7 42 42 0 -1 4194304 1 2 3 4 50 60 7 8 20 0 1 0 9001 1 1";
        let stat = Stat::parse(line).unwrap();
        assert_eq!(
            (stat.state, stat.parent.as_raw(), stat.ticks, stat.born),
            ('S', 7, 110, 9001)
        );
    }

    #[test]
    fn this_process_is_alive_and_is_a_child_of_its_parent() {
        let me = Process::find(nix::unistd::getpid()).unwrap();
        assert!(me.is_alive());
        assert!(me.own_memory() > 0 && me.data_bytes() > 0);
        assert!(children_of(nix::unistd::getppid()).contains(&me.pid));
        assert!(
            !Process {
                born: me.born + 1,
                ..me
            }
            .is_alive()
        );
    }
}
