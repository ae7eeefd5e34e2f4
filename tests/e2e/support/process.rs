//! One child process: its output goes to a file, and its end is always awaited.

use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::wait;

/// A started program. Dropped while it runs, it is killed.
pub(crate) struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    /// Whether it was told to end.
    told: bool,
}

impl Process {
    /// Starts `command`; what it prints goes to `FOLDER/NAME.log`.
    pub(crate) fn start(name: &str, mut command: Command, folder: &Path) -> Self {
        let log = folder.join(format!("{name}.log"));
        let out = File::create(&log).expect("the farm's folder can be written");
        let err = out.try_clone().expect("a file handle can be duplicated");
        let child = command
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        Self {
            name: name.to_owned(),
            child,
            log,
            told: false,
        }
    }

    /// The name it was started with.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> i32 {
        self.child
            .id()
            .try_into()
            .expect("Linux' process ids fit an i32")
    }

    /// Sends `signal`; to a process that has ended, nothing.
    pub(crate) fn signal(&mut self, signal: Signal) {
        self.told = true;
        if self.ended().is_none() {
            kill(Pid::from_raw(self.pid()), signal).expect("an own child can be signalled");
        }
    }

    /// How it ended, or none while it runs.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child
            .try_wait()
            .expect("an own child can be waited for")
    }

    /// How it ended though nobody told it to, or none.
    pub(crate) fn ended_early(&mut self) -> Option<ExitStatus> {
        self.ended().filter(|_| !self.told)
    }

    /// Waits for its end.
    pub(crate) async fn end(&mut self, limit: Duration) -> ExitStatus {
        let what = format!("the end of {}", self.name);
        wait::until(&what, limit, async || self.ended()).await
    }

    /// Asks it to end (SIGTERM) and waits.
    ///
    /// # Panics
    /// When it does not end well: exit code 0, by itself.
    pub(crate) async fn terminate(&mut self) {
        self.signal(Signal::SIGTERM);
        let status = self.end(wait::PATIENCE).await;
        assert!(
            status.success(),
            "{} ended with {:?}, signal {:?}",
            self.name,
            status.code(),
            status.signal()
        );
    }

    /// Kills it (SIGKILL) and waits.
    pub(crate) async fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        self.end(wait::PATIENCE).await;
    }

    /// Everything that it has printed.
    pub(crate) fn log(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
