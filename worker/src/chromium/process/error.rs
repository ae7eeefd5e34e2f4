//! Why a browser did not start. The texts are for the operator who installs the worker.

use std::path::PathBuf;
use std::time::Duration;

/// The time limit for a browser's first reply, and again for the worker to examine it.
pub(crate) const LAUNCH_LIMIT: Duration = Duration::from_secs(20);

/// Why a browser did not start.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// Chromium is not installed on this machine.
    #[error(
        "Chromium was not found in {tried}; install chromium-headless-shell or set CHROMIUM_PATH"
    )]
    NotFound {
        /// The paths that were tried.
        tried: String,
    },
    /// The configured path is a script.
    #[error("{0} is a shell script that starts Chromium; set CHROMIUM_PATH to the program itself")]
    Script(PathBuf),
    /// The guard could not be started.
    #[error("the browser's guard process could not be started: {0}")]
    Guard(std::io::Error),
    /// Chromium's sandbox does not work here. Running without it is not supported.
    #[error(
        "Chromium's sandbox cannot start: unprivileged user namespaces must be allowed (in a \
         container, by a seccomp profile that permits clone, unshare and chroot). Chromium said: {0}"
    )]
    NoSandbox(String),
    /// Chromium runs, but its renderer is not confined as required.
    #[error(
        "Chromium's sandbox is incomplete: {0}. Unprivileged user namespaces and seccomp filters must \
         be allowed (in a container, by a seccomp profile that permits clone, unshare and chroot; on \
         Ubuntu 23.10 and later, by an AppArmor profile for Chromium or \
         kernel.apparmor_restrict_unprivileged_userns=0). The worker does not run JavaScript without it"
    )]
    Unconfined(String),
    /// Chromium ended before it replied.
    #[error("Chromium ended while it was started. It said: {0}")]
    Ended(String),
    /// Chromium did not reply in time.
    #[error("Chromium did not reply within {LAUNCH_LIMIT:?}. It said: {0}")]
    TooSlow(String),
    /// Chromium replies, but its debugger cannot be used.
    #[error("the connection to Chromium failed: {0}")]
    Connect(String),
}

impl LaunchError {
    /// Completes the error with the end of what Chromium printed.
    pub(crate) fn with_output(self, said: String) -> Self {
        match self {
            Self::Ended(_) if said.contains("No usable sandbox") => Self::NoSandbox(said),
            Self::Ended(_) => Self::Ended(said),
            Self::TooSlow(_) => Self::TooSlow(said),
            other => other,
        }
    }
}
