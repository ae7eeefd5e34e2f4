//! The machine's processes as /proc shows them, and which farm or worker they belong to.

use std::collections::HashSet;
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// One process. Its id may be reused later. The pair of id and start time is unique.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ProcessInfo {
    pub(crate) pid: i32,
    /// When it was started, in clock ticks since boot.
    started: u64,
    parent: i32,
    /// Its command line, separated by spaces.
    pub(crate) command: String,
}

impl ProcessInfo {
    fn read(pid: i32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // `PID (NAME) STATE PARENT ...`, where NAME may contain any character.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        // A zombie has ended. Its parent decides when to await it.
        if matches!(*fields.first()?, "Z" | "X") {
            return None;
        }
        let command = read_text(pid, "cmdline");
        let parent = fields.get(1)?.parse().ok()?;
        let started = fields.get(19)?.parse().ok()?;
        Some(Self {
            pid,
            started,
            parent,
            command,
        })
    }

    /// Whether it still runs.
    pub(crate) fn runs(&self) -> bool {
        Self::read(self.pid).is_some_and(|now| now.started == self.started)
    }

    /// Kills it. A no-op if it has already ended.
    pub(crate) fn kill(&self) {
        if self.runs() {
            let _ = kill(Pid::from_raw(self.pid), Signal::SIGKILL);
        }
    }

    fn is_chromium(&self) -> bool {
        let program = self.command.split(' ').next().unwrap_or_default();
        Path::new(program)
            .file_name()
            .is_some_and(|name| name.to_string_lossy().contains("chrom"))
    }

    /// Whether it is the main process of a browser.
    pub(crate) fn is_browser(&self) -> bool {
        self.is_chromium() && !self.command.contains("--type=")
    }

    /// Whether it runs pages.
    pub(crate) fn is_renderer(&self) -> bool {
        self.is_chromium() && self.command.contains("--type=renderer")
    }

    /// Its CPU time, in clock ticks.
    pub(crate) fn ticks(&self) -> u64 {
        let stat = read_text(self.pid, "stat");
        let (_, fields) = stat.rsplit_once(')').unwrap_or_default();
        let ticks = fields.split_whitespace().skip(11).take(2);
        ticks.filter_map(|text| text.parse::<u64>().ok()).sum()
    }

    fn mentions(&self, path: &str) -> bool {
        self.command.contains(path) || read_text(self.pid, "environ").contains(path)
    }
}

/// A NUL-separated file of /proc. Empty when the process is gone or may not be inspected.
fn read_text(pid: i32, file: &str) -> String {
    let bytes = std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
    String::from_utf8_lossy(&bytes)
        .replace('\0', " ")
        .trim_end()
        .to_owned()
}

fn all() -> Vec<ProcessInfo> {
    let entries = std::fs::read_dir("/proc").expect("/proc is mounted");
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(ProcessInfo::read)
        .collect()
}

/// Whether a process runs: has not ended.
pub(crate) fn runs(pid: i32) -> bool {
    ProcessInfo::read(pid).is_some()
}

/// The ended processes that `pid`, or a process below it, has not awaited.
pub(crate) fn zombies(pid: i32) -> Vec<i32> {
    let mut parents: HashSet<i32> = descendants(pid).iter().map(|seen| seen.pid).collect();
    parents.insert(pid);
    let entries = std::fs::read_dir("/proc").expect("/proc is mounted");
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let is_zombie = |pid: &i32| {
        let stat = read_text(*pid, "stat");
        let fields = stat.rsplit_once(')').unwrap_or_default().1;
        let mut fields = fields.split_whitespace();
        let ended = fields.next() == Some("Z");
        ended
            && fields
                .next()
                .and_then(|text| text.parse().ok())
                .is_some_and(|parent: i32| parents.contains(&parent))
    };
    pids.filter(is_zombie).collect()
}

/// The processes below `pid`, without itself.
pub(crate) fn descendants(pid: i32) -> Vec<ProcessInfo> {
    below(all(), HashSet::from([pid]))
}

/// Every process that names the folder in its command line or environment, and its descendants.
pub(crate) fn of_folder(folder: &Path) -> Vec<ProcessInfo> {
    let folder = folder.to_str().expect("temporary folders have plain names");
    let (named, others): (Vec<ProcessInfo>, Vec<ProcessInfo>) = all()
        .into_iter()
        .partition(|process| process.mentions(folder));
    let roots = named.iter().map(|process| process.pid).collect();
    [named, below(others, roots)].concat()
}

fn below(mut candidates: Vec<ProcessInfo>, mut parents: HashSet<i32>) -> Vec<ProcessInfo> {
    let mut found = Vec::new();
    loop {
        let (children, rest): (Vec<ProcessInfo>, Vec<ProcessInfo>) = candidates
            .into_iter()
            .partition(|process| parents.contains(&process.parent));
        if children.is_empty() {
            return found;
        }
        parents.extend(children.iter().map(|process| process.pid));
        found.extend(children);
        candidates = rest;
    }
}
