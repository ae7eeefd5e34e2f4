//! Two network namespaces joined by one veth pair: the farm is in one, the packet monitor in the
//! other.
//!
//! ```text
//! thread of the shard: 10.91.0.1 ──exs-farm═══exs-wit── 10.91.0.2 and every other address: monitor
//! ```
//!
//! Nothing else is connected, so nothing leaves the machine, whatever a control lets through. Both
//! namespaces belong to threads. They end with their threads, and the veth pair ends with them.

use std::fs;
use std::io;
use std::process::Command;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::gettid;

use super::monitor::Monitor;

/// The monitor's addresses, also as the name server.
pub(super) const V4: &str = "10.91.0.2";
pub(super) const V6: &str = "fd91::2";
/// Other addresses that end at the monitor: the metadata service, documentation, "the internet".
pub(super) const METADATA: &str = "169.254.169.254";
pub(super) const OUTSIDE: &str = "198.51.100.7";

/// Why the namespaces could not be set up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NamespaceError {
    #[error("{0}: {1}")]
    System(&'static str, nix::Error),
    #[error("{0}: {1}")]
    Io(&'static str, io::Error),
    #[error("ip {0}: {1}")]
    Ip(String, String),
    #[error("the packet monitor has ended")]
    Monitor,
}

/// Moves the calling thread into a namespace whose only link ends at a monitor. Every thread and
/// process that it starts from now on is in that namespace too.
pub(crate) fn enter() -> Result<Monitor, NamespaceError> {
    let monitor = Monitor::start()?;
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)
        .map_err(|error| NamespaceError::System("unshare", error))?;
    resolve_by(V4)?;
    ip("link set lo up")?;
    let thread = monitor.thread();
    ip(&format!(
        "link add exs-farm type veth peer name exs-wit netns {thread}"
    ))?;
    ip("address add 10.91.0.1/24 dev exs-farm")?;
    ip("address add fd91::1/64 dev exs-farm nodad")?;
    ip("link set exs-farm up")?;
    monitor.open()?;
    ip(&format!("route add default via {V4}"))?;
    ip(&format!("-6 route add default via {V6}"))?;
    Ok(monitor)
}

/// Runs in the monitor's thread and moves it into its own namespace.
pub(super) fn leave() -> Result<i32, NamespaceError> {
    unshare(CloneFlags::CLONE_NEWNET).map_err(|error| NamespaceError::System("unshare", error))?;
    Ok(gettid().as_raw())
}

/// Runs in the monitor's thread once the link exists, and adds every address to it.
pub(super) fn add_addresses() -> Result<(), NamespaceError> {
    ip(&format!("address add {V4}/24 dev exs-wit"))?;
    ip(&format!("address add {METADATA}/32 dev exs-wit"))?;
    ip(&format!("address add {OUTSIDE}/32 dev exs-wit"))?;
    ip(&format!("address add {V6}/64 dev exs-wit nodad"))?;
    ip("link set exs-wit up")
}

fn ip(arguments: &str) -> Result<(), NamespaceError> {
    let output = Command::new("ip")
        .args(arguments.split(' '))
        .output()
        .map_err(|error| NamespaceError::Io("ip cannot be run (iproute2)", error))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(NamespaceError::Ip(
        arguments.to_owned(),
        said.trim().to_owned(),
    ))
}

/// Makes the monitor the name server, in this thread's view of the file system only.
fn resolve_by(server: &str) -> Result<(), NamespaceError> {
    const NONE: Option<&str> = None;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(NONE, "/", NONE, private, NONE)
        .map_err(|error| NamespaceError::System("making mounts private", error))?;
    let file = tempfile::NamedTempFile::new()
        .map_err(|error| NamespaceError::Io("a temporary file", error))?;
    fs::write(file.path(), format!("nameserver {server}\n"))
        .map_err(|error| NamespaceError::Io("a temporary file", error))?;
    readable(file.path()).map_err(|error| NamespaceError::Io("a temporary file", error))?;
    // The mount keeps the file's content after its name is removed.
    mount(
        Some(file.path()),
        "/etc/resolv.conf",
        NONE,
        MsFlags::MS_BIND,
        NONE,
    )
    .map_err(|error| NamespaceError::System("mounting resolv.conf", error))
}

/// The browsers run as another user.
fn readable(path: &std::path::Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o644))
}
