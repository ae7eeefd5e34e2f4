//! The guarded child process: starts a guard with its browser, and ends both.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::process::{Child, ChildStderr, ChildStdin, Command};
use tokio::time::timeout;

use super::cgroup::Cgroup;
use super::error::{LAUNCH_LIMIT, LaunchError};
use super::find::find;
use super::flags::flags;
use super::guard::{CGROUP, GUARD};
use crate::chromium::config::ChromiumConfig;

/// The time limit for the guard to end everything. After it, the worker kills the guard.
const END_LIMIT: Duration = Duration::from_secs(10);
/// How much of Chromium's output is kept for an error message, in bytes.
const LOG_TAIL: usize = 4096;

/// A guard with its browser. Dropping it ends them as well, but without waiting.
#[derive(Debug)]
pub(crate) struct GuardedChild {
    guard: Child,
    /// The guard ends its browser when this pipe closes.
    pipe: Option<ChildStdin>,
    profile: PathBuf,
    cgroup: Option<Cgroup>,
}

/// A browser that listens.
#[derive(Debug)]
pub(crate) struct StartedChild {
    pub(crate) child: GuardedChild,
    /// The address of the browser's debugger.
    pub(crate) address: String,
    /// Everything that the browser prints from now on.
    pub(crate) stderr: ChildStderr,
}

impl GuardedChild {
    /// Starts a guard and its browser, and waits until the browser listens.
    pub(crate) async fn start(config: &ChromiumConfig) -> Result<StartedChild, LaunchError> {
        let chromium = find(config.executable.as_deref())?;
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
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(LaunchError::Guard)?;
        let pipe = guard.stdin.take();
        let stderr = guard.stderr.take();
        let child = Self {
            guard,
            pipe,
            profile,
            cgroup,
        };
        let mut stderr = stderr.expect("stderr is piped");
        match read_address(&mut stderr).await {
            Ok(address) => Ok(StartedChild {
                child,
                address,
                stderr,
            }),
            Err(error) => {
                child.end().await;
                Err(error)
            }
        }
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
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
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

/// Reads the debugger's address from the first lines that the browser prints.
async fn read_address(stderr: &mut ChildStderr) -> Result<String, LaunchError> {
    let mut said = String::new();
    let reading = async {
        let mut buffer = [0; 2048];
        loop {
            let length = stderr.read(&mut buffer).await?;
            if length == 0 {
                return Ok::<_, std::io::Error>(None);
            }
            said.push_str(&String::from_utf8_lossy(&buffer[..length]));
            if let Some(address) = find_address(&said) {
                return Ok(Some(address.to_owned()));
            }
        }
    };
    let outcome = timeout(LAUNCH_LIMIT, reading).await;
    let tail = || {
        said[said.floor_char_boundary(said.len().saturating_sub(LOG_TAIL))..]
            .trim()
            .into()
    };
    match outcome {
        Ok(Ok(Some(address))) => Ok(address),
        Ok(Ok(None)) if said.contains("No usable sandbox") => Err(LaunchError::NoSandbox(tail())),
        Ok(Ok(None)) => Err(LaunchError::Ended(tail())),
        Ok(Err(error)) => Err(LaunchError::Guard(error)),
        Err(_) => Err(LaunchError::TooSlow(tail())),
    }
}

/// The address in a line such as `DevTools listening on ws://127.0.0.1:1234/devtools/browser/ID`.
fn find_address(said: &str) -> Option<&str> {
    let (_, rest) = said.split_once("DevTools listening on ")?;
    let (address, _) = rest.split_once('\n')?;
    Some(address.trim())
}

/// Logs the browser's output until the browser ends. Without a reader the browser could block.
pub(crate) async fn log_output(mut stderr: ChildStderr) {
    let mut buffer = [0; 2048];
    while let Ok(length @ 1..) = stderr.read(&mut buffer).await {
        let said = String::from_utf8_lossy(&buffer[..length]);
        tracing::debug!(said = said.trim_end(), "chromium output");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_read_only_from_a_complete_line() {
        let line = "[1:2] noise\n\nDevTools listening on ws://127.0.0.1:1/devtools/browser/a-b\n";
        assert_eq!(
            find_address(line),
            Some("ws://127.0.0.1:1/devtools/browser/a-b")
        );
        assert_eq!(find_address(line.trim_end()), None);
        assert_eq!(find_address("noise\n"), None);
    }
}
