//! The guarded child process: starts a guard with its browser, and ends both.

use std::future::pending;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::process::{Child, ChildStderr, ChildStdin, Command};
use tokio::time::timeout;

use super::cgroup::Cgroup;
use super::error::LaunchError;
use super::find::find;
use super::flags::flags;
use super::guard::{CGROUP, GUARD};
use crate::chromium::config::ChromiumConfig;

/// The time limit for the guard to end everything. After it, the worker kills the guard.
const END_LIMIT: Duration = Duration::from_secs(10);
/// How much of Chromium's output is kept for an error message, in bytes.
const LOG_TAIL: usize = 4096;
/// How long the output of a browser that has ended is read.
const OUTPUT_LIMIT: Duration = Duration::from_secs(1);

/// A guard with its browser. Dropping it ends them as well, but without waiting.
#[derive(Debug)]
pub(crate) struct GuardedChild {
    guard: Child,
    /// The guard ends its browser when this pipe closes.
    pipe: Option<ChildStdin>,
    profile: PathBuf,
    cgroup: Option<Cgroup>,
}

/// A guard that was started. Its browser starts meanwhile.
#[derive(Debug)]
pub(crate) struct StartedChild {
    pub(crate) child: GuardedChild,
    /// The worker's end of the browser's debugging pipe.
    pub(crate) pipe: UnixStream,
    pub(crate) output: BrowserOutput,
}

impl GuardedChild {
    /// Starts a guard, which starts its browser.
    pub(crate) fn start(config: &ChromiumConfig) -> Result<StartedChild, LaunchError> {
        let chromium = find(config.executable.as_deref())?;
        let (ours, theirs) = debugging_pipe().map_err(LaunchError::Guard)?;
        let name = format!(
            "execution-worker-chromium-{}",
            uuid::Uuid::new_v4().simple()
        );
        let profile = std::env::temp_dir().join(&name);
        let cgroup = create_cgroup(&name, config.cgroup_mb);
        let joined = cgroup.iter().map(|cgroup| (CGROUP, cgroup.path()));
        let mut guard = Command::new(&config.guard)
            .arg(GUARD)
            .arg(&profile)
            .arg(config.uids.to_string())
            .arg(chromium)
            .args(flags(&profile, config.heap_mb, &config.layers))
            // The worker's environment holds secrets, which a browser must not see.
            .env_clear()
            .envs(joined)
            .stdin(Stdio::piped())
            .stdout(theirs)
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(LaunchError::Guard)?;
        let pipe = guard.stdin.take();
        let stderr = guard.stderr.take().expect("stderr is piped");
        let child = Self {
            guard,
            pipe,
            profile,
            cgroup,
        };
        Ok(StartedChild {
            child,
            pipe: ours,
            output: BrowserOutput::new(stderr),
        })
    }

    /// Waits for the guard to end by itself; after that no process of the browser is left. Cancel
    /// safe.
    pub(crate) async fn ended(&mut self) {
        if let Err(error) = self.guard.wait().await {
            tracing::warn!(%error, "waiting for a browser guard failed");
        }
    }

    /// Ends the browser and everything that belongs to it.
    pub(crate) async fn end(mut self) {
        drop(self.pipe.take());
        if timeout(END_LIMIT, self.ended()).await.is_err() {
            tracing::warn!("browser guard did not end in time; killing it");
            if let Err(error) = self.guard.kill().await {
                tracing::warn!(%error, "killing a browser guard failed");
            }
        }
        // The guard has removed both, unless it was killed.
        self.cgroup.iter().for_each(Cgroup::remove);
        match tokio::fs::remove_dir_all(&self.profile).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%error, profile = %self.profile.display(), "profile folder could not be removed");
            }
            _ => {}
        }
    }
}

/// Creates a cgroup with this memory limit; none where the limit is 0 or the system refuses.
fn create_cgroup(name: &str, limit_mb: u32) -> Option<Cgroup> {
    let limit_mb = Some(limit_mb).filter(|limit| *limit > 0)?;
    match Cgroup::create(name, limit_mb) {
        Ok(cgroup) => Some(cgroup),
        Err(error) => {
            tracing::info!(%error, "browser runs without a memory cgroup; the other limits apply");
            None
        }
    }
}

/// Both ends of a browser's debugging pipe: the worker's, and the one that the guard passes on. No
/// other child inherits either.
fn debugging_pipe() -> io::Result<(UnixStream, OwnedFd)> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    Ok((UnixStream::from_std(ours)?, theirs.into()))
}

/// What the browser prints. It must be read, or the browser could block.
#[derive(Debug)]
pub(crate) struct BrowserOutput {
    stderr: ChildStderr,
    /// The end of it.
    tail: String,
}

impl BrowserOutput {
    fn new(stderr: ChildStderr) -> Self {
        Self {
            stderr,
            tail: String::new(),
        }
    }

    /// Logs the output until its end, which comes when the browser ends. Cancel safe.
    pub(crate) async fn log(&mut self) {
        let mut buffer = [0; 2048];
        while let Ok(length @ 1..) = self.stderr.read(&mut buffer).await {
            let said = String::from_utf8_lossy(&buffer[..length]);
            tracing::debug!(said = said.trim_end(), "chromium output");
            self.tail.push_str(&said);
            let excess = self.tail.len().saturating_sub(LOG_TAIL);
            self.tail.drain(..self.tail.ceil_char_boundary(excess));
        }
    }

    /// Runs a task while the output is logged.
    pub(crate) async fn while_logging<T>(&mut self, task: impl Future<Output = T>) -> T {
        let log = async {
            self.log().await;
            pending().await
        };
        tokio::select! {
            outcome = task => outcome,
            outcome = log => outcome,
        }
    }

    /// The end of the output, once the browser has ended.
    pub(crate) async fn into_tail(mut self) -> String {
        if timeout(OUTPUT_LIMIT, self.log()).await.is_err() {
            tracing::debug!("another process keeps the browser's output open");
        }
        self.tail.trim().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_end_of_the_output_is_kept() {
        let printing = format!("yes | head -c {}; echo the end >&2", 4 * LOG_TAIL);
        let mut child = Command::new("sh")
            .args(["-c", &format!("({printing}) >&2")])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BrowserOutput::new(child.stderr.take().unwrap());
        let tail = output.into_tail().await;
        assert!(
            tail.ends_with("y\nthe end") && tail.len() <= LOG_TAIL,
            "{tail}"
        );
        child.wait().await.unwrap();
    }
}
