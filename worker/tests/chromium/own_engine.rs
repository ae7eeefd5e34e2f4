//! An engine that one test has to itself, and its processes as `/proc` reports them.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use execution_worker::chromium::{Chromium, ChromiumConfig};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use shared::protocol::job::Limits;

use crate::driver::{Contract, config, eventually};

/// A process as `/proc` reports it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    pub(crate) parent: i32,
    started: String,
    pub(crate) command: Vec<String>,
}

impl Process {
    pub(crate) fn read(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        if fields[0] == "Z" {
            return None;
        }
        let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let command = String::from_utf8_lossy(&command);
        let command = command.trim_end_matches('\0');
        // Chromium's child processes put their whole command line into the first argument.
        let separator = if command.contains('\0') { '\0' } else { ' ' };
        let command: Vec<String> = command.split(separator).map(str::to_owned).collect();
        Some(Self {
            pid,
            parent: fields[1].parse().ok()?,
            started: fields[19].to_owned(),
            command,
        })
    }

    pub(crate) fn all() -> Vec<Self> {
        let entries = fs::read_dir("/proc").unwrap();
        entries
            .filter_map(|e| Self::read(e.ok()?.file_name().to_str()?.parse().ok()?))
            .collect()
    }

    /// This process and all its descendants.
    pub(crate) fn tree(root: i32) -> Vec<Self> {
        let all = Self::all();
        let mut tree: Vec<Self> = all.iter().filter(|p| p.pid == root).cloned().collect();
        let mut next = 0;
        while next < tree.len() {
            let parent = tree[next].pid;
            tree.extend(all.iter().filter(|p| p.parent == parent).cloned());
            next += 1;
        }
        tree
    }

    pub(crate) fn is(&self, kind: &str) -> bool {
        self.command.iter().any(|argument| argument == kind)
    }

    pub(crate) fn is_alive(&self) -> bool {
        Self::read(self.pid).is_some_and(|now| now.started == self.started)
    }

    pub(crate) fn kill(&self) {
        kill(Pid::from_raw(self.pid), Signal::SIGKILL).unwrap();
    }

    /// Its resident memory.
    pub(crate) fn resident_mb(&self) -> u64 {
        let kib = self.status("VmRSS");
        kib.split(' ').next().unwrap().parse::<u64>().unwrap() / 1024
    }

    pub(crate) fn status(&self, field: &str) -> String {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        line.unwrap().trim().to_owned()
    }
}

/// An engine that one test has to itself, with one browser.
pub(crate) struct OwnEngine {
    pub(crate) engine: Chromium,
    /// The guard's program under a unique path, which identifies this engine's processes.
    pub(crate) program: PathBuf,
    pub(crate) guard: Process,
    _folder: tempfile::TempDir,
}

impl OwnEngine {
    pub(crate) async fn start() -> Self {
        Self::with(config()).await
    }

    pub(crate) async fn with(config: ChromiumConfig) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("worker");
        symlink(&config.guard, &program).unwrap();
        let config = ChromiumConfig {
            guard: program.clone(),
            ..config
        };
        let engine = Chromium::start(config).await.unwrap();
        let guard = Self::find_guard(&program).unwrap();
        Self {
            engine,
            program,
            guard,
            _folder: folder,
        }
    }

    pub(crate) fn find_guard(program: &Path) -> Option<Process> {
        Process::all()
            .into_iter()
            .find(|p| Path::new(&p.command[0]) == program)
    }

    /// Waits until the browser that died was replaced.
    pub(crate) async fn wait_for_restart(&mut self) {
        let (program, old) = (&self.program, &self.guard);
        let is_new = || Self::find_guard(program).filter(|guard| guard != old);
        eventually("another guard runs", || is_new().is_some()).await;
        self.guard = is_new().unwrap();
    }

    pub(crate) fn tree(&self) -> Vec<Process> {
        Process::tree(self.guard.pid)
    }

    pub(crate) fn browser(&self) -> Process {
        let tree = self.tree();
        tree.into_iter()
            .find(|p| p.parent == self.guard.pid)
            .unwrap()
    }

    pub(crate) fn renderers(&self) -> HashSet<Process> {
        self.tree()
            .into_iter()
            .filter(|p| p.is("--type=renderer"))
            .collect()
    }

    pub(crate) fn profile(&self) -> PathBuf {
        let at = self
            .guard
            .command
            .iter()
            .position(|argument| argument == "browser-guard")
            .unwrap();
        PathBuf::from(&self.guard.command[at + 1])
    }

    pub(crate) async fn load(&self, source: &str) -> Contract {
        Contract::try_load(&self.engine, Limits::default(), source)
            .await
            .unwrap()
    }
}
