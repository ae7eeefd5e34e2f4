//! What `/proc` says about processes. Linux only, like the sandbox itself.

use std::fs;

use nix::unistd::Pid;

/// One process, told apart from a later one with the same number by its time of birth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Process {
    pub(super) pid: Pid,
    /// Clock ticks since the machine started.
    born: u64,
}

impl Process {
    /// The process that has the number now.
    pub(super) fn find(pid: Pid) -> Option<Self> {
        Some(Self {
            pid,
            born: Stat::read(pid)?.born,
        })
    }

    /// Whether it still runs: a zombie does not.
    pub(super) fn is_alive(self) -> bool {
        Stat::read(self.pid).is_some_and(|stat| stat.born == self.born && stat.state != 'Z')
    }
}

/// The processes whose parent is `parent`, zombies included.
pub(super) fn children_of(parent: Pid) -> Vec<Pid> {
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
        // The 22nd field of the line; the state is the third.
        let born = fields.nth(17)?.parse().ok()?;
        Some(Self {
            state,
            parent,
            born,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_and_spaces_does_not_confuse() {
        let line = "42 (a) b (c) S 7 42 42 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 9001 1 1";
        let stat = Stat::parse(line).unwrap();
        assert_eq!(
            (stat.state, stat.parent.as_raw(), stat.born),
            ('S', 7, 9001)
        );
    }

    #[test]
    fn this_process_is_alive_and_is_a_child_of_its_parent() {
        let me = Process::find(nix::unistd::getpid()).unwrap();
        assert!(me.is_alive());
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
