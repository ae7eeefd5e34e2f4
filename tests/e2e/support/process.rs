//! One child process. Its output goes to a file, and its exit is always awaited.

use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;

use super::wait;

/// A started program. Dropping it while it runs kills it.
pub(crate) struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    /// Whether the test has sent it a signal.
    signalled: bool,
}

impl Process {
    /// Starts `command` with its output in `FOLDER/NAME.log`.
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
            signalled: false,
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

    /// Sends `signal`. A no-op if the process has ended.
    pub(crate) fn signal(&mut self, signal: Signal) {
        self.signalled = true;
        if self.ended().is_none() {
            kill(Pid::from_raw(self.pid()), signal).expect("an own child can be signalled");
        }
    }

    /// Waits until SIGSTOP has stopped all of its threads. On a busy machine, the signal alone
    /// lets them run for some more milliseconds.
    pub(crate) fn wait_until_stopped(&self) {
        let until = WaitPidFlag::WSTOPPED | WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
        waitid(Id::Pid(Pid::from_raw(self.pid())), until).expect("an own child can be waited for");
    }

    /// Its exit status, or none while it runs.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child
            .try_wait()
            .expect("an own child can be waited for")
    }

    /// Its exit status if it ended without a signal from the test.
    pub(crate) fn ended_without_signal(&mut self) -> Option<ExitStatus> {
        self.ended().filter(|_| !self.signalled)
    }

    /// Waits for its end.
    pub(crate) async fn end(&mut self, limit: Duration) -> ExitStatus {
        let what = format!("the end of {}", self.name);
        wait::until(&what, limit, async || self.ended()).await
    }

    /// Sends SIGTERM and waits.
    ///
    /// # Panics
    /// Unless it exits by itself with code 0.
    pub(crate) async fn terminate(&mut self) {
        self.signal(Signal::SIGTERM);
        let status = self.end(wait::DEFAULT_LIMIT).await;
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
        self.end(wait::DEFAULT_LIMIT).await;
    }

    /// Everything that it has printed.
    pub(crate) fn log(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // This fails only when the process has already ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
