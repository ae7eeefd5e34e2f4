//! Two network namespaces joined by one cable: the farm is in one, the witness in the other.
//!
//! ```text
//! thread of the lane: 10.91.0.1 ──exs-farm═══exs-wit── 10.91.0.2 and every other address: witness
//! ```
//!
//! Nothing else is connected, so nothing leaves the machine, whatever a control lets through. Both
//! namespaces belong to threads: they go with them, and with them the cable.

use std::fs;
use std::io;
use std::process::Command;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::gettid;

use super::witness::Witness;

/// Where the witness answers: itself, and as the name server.
pub(super) const V4: &str = "10.91.0.2";
pub(super) const V6: &str = "fd91::2";
/// Other addresses that end at the witness: the metadata service, documentation, "the internet".
pub(super) const METADATA: &str = "169.254.169.254";
pub(super) const OUTSIDE: &str = "198.51.100.7";

/// Why there are no namespaces.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StageError {
    #[error("{0}: {1}")]
    System(&'static str, nix::Error),
    #[error("{0}: {1}")]
    Io(&'static str, io::Error),
    #[error("ip {0}: {1}")]
    Ip(String, String),
    #[error("the witness has ended")]
    Witness,
}

/// Takes the calling thread, and every thread and process that it starts from now on, into a
/// namespace whose only cable ends at a witness.
pub(crate) fn enter() -> Result<Witness, StageError> {
    let witness = Witness::start()?;
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)
        .map_err(|error| StageError::System("unshare", error))?;
    resolve_by(V4)?;
    ip("link set lo up")?;
    let thread = witness.thread();
    ip(&format!(
        "link add exs-farm type veth peer name exs-wit netns {thread}"
    ))?;
    ip("address add 10.91.0.1/24 dev exs-farm")?;
    ip("address add fd91::1/64 dev exs-farm nodad")?;
    ip("link set exs-farm up")?;
    witness.open()?;
    ip(&format!("route add default via {V4}"))?;
    ip(&format!("-6 route add default via {V6}"))?;
    Ok(witness)
}

/// In the witness' thread: a namespace of its own.
pub(super) fn leave() -> Result<i32, StageError> {
    unshare(CloneFlags::CLONE_NEWNET).map_err(|error| StageError::System("unshare", error))?;
    Ok(gettid().as_raw())
}

/// In the witness' thread, once the cable is there: every address.
pub(super) fn furnish() -> Result<(), StageError> {
    ip(&format!("address add {V4}/24 dev exs-wit"))?;
    ip(&format!("address add {METADATA}/32 dev exs-wit"))?;
    ip(&format!("address add {OUTSIDE}/32 dev exs-wit"))?;
    ip(&format!("address add {V6}/64 dev exs-wit nodad"))?;
    ip("link set exs-wit up")
}

fn ip(arguments: &str) -> Result<(), StageError> {
    let output = Command::new("ip")
        .args(arguments.split(' '))
        .output()
        .map_err(|error| StageError::Io("ip cannot be run (iproute2)", error))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(StageError::Ip(arguments.to_owned(), said.trim().to_owned()))
}

/// Has names resolved by the witness, in this thread's view of the file system only.
fn resolve_by(server: &str) -> Result<(), StageError> {
    const NONE: Option<&str> = None;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(NONE, "/", NONE, private, NONE)
        .map_err(|error| StageError::System("making mounts private", error))?;
    let file = tempfile::NamedTempFile::new()
        .map_err(|error| StageError::Io("a temporary file", error))?;
    fs::write(file.path(), format!("nameserver {server}\n"))
        .map_err(|error| StageError::Io("a temporary file", error))?;
    readable(file.path()).map_err(|error| StageError::Io("a temporary file", error))?;
    // The mount keeps the file's content when its name is gone.
    mount(
        Some(file.path()),
        "/etc/resolv.conf",
        NONE,
        MsFlags::MS_BIND,
        NONE,
    )
    .map_err(|error| StageError::System("mounting resolv.conf", error))
}

/// The browsers run as another user.
fn readable(path: &std::path::Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o644))
}
