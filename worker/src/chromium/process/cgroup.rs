//! A memory cgroup around each browser, where the system lets this worker make one.
//!
//! It is the last of the limits of memory: the kernel ends the fattest renderer before the machine
//! suffers. Version 1 and 2 are understood. The group is below the worker's own, so whatever bounds
//! the worker bounds its browsers as well. Who joins it is the `guard`'s business.
//!
//! Version 2 lets no group have both processes and children with a limit. So the worker steps into a
//! leaf of its group, and the browsers' groups are made beside that:
//!
//! ```text
//! worker.service ─┬─ worker                          the leaf, with the worker in it
//!                 └─ execution-worker-chromium-...   a browser
//! ```

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Where cgroups are mounted.
const MOUNT: &str = "/sys/fs/cgroup";

/// The leaf that the worker steps into, or was put into by its service manager.
const LEAF: &str = "worker";

/// Why there is no cgroup.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CgroupError {
    /// No version of the memory controller was found.
    #[error("this process is in no memory cgroup")]
    None,
    /// Whoever else is there would have to leave it, too.
    #[error("the worker shares its cgroup with other processes")]
    Shared,
    /// The system does not allow it.
    #[error("{0}: {1}")]
    Io(PathBuf, io::Error),
}

/// One group. It must be empty when it is removed.
#[derive(Debug)]
pub(crate) struct Cgroup {
    path: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

impl Cgroup {
    /// Makes a group of this name for so many MiB.
    pub(crate) fn create(name: &str, limit_mb: u32) -> Result<Self, CgroupError> {
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        Self::create_below(Path::new(MOUNT), &own, name, limit_mb)
    }

    fn create_below(
        mount: &Path,
        own: &str,
        name: &str,
        limit_mb: u32,
    ) -> Result<Self, CgroupError> {
        let (version, own) = parent(own).ok_or(CgroupError::None)?;
        let own = mount.join(own);
        let path = match version {
            Version::One => own,
            Version::Two => above_the_leaf(own)?,
        };
        let path = path.join(name);
        fs::create_dir(&path).map_err(|error| CgroupError::Io(path.clone(), error))?;
        let group = Self { path };
        if let Err(error) = group.limit(version, u64::from(limit_mb) << 20) {
            group.remove();
            return Err(error);
        }
        Ok(group)
    }

    fn limit(&self, version: Version, bytes: u64) -> Result<(), CgroupError> {
        let bytes = bytes.to_string();
        let (memory, swap, no_swap) = match version {
            Version::One => (
                "memory.limit_in_bytes",
                "memory.memsw.limit_in_bytes",
                bytes.as_str(),
            ),
            Version::Two => ("memory.max", "memory.swap.max", "0"),
        };
        write(&self.path.join(memory), &bytes)?;
        // Not every kernel counts swap.
        _ = write(&self.path.join(swap), no_swap);
        Ok(())
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes it; what is gone already, or still busy, is left alone.
    pub(crate) fn remove(&self) {
        remove(&self.path);
    }
}

/// The group that browsers' groups of version 2 are made in, with this process in a leaf of it.
fn above_the_leaf(own: PathBuf) -> Result<PathBuf, CgroupError> {
    let home = match own.parent() {
        Some(home) if own.ends_with(LEAF) => home.to_owned(),
        _ => {
            step_into_leaf(&own)?;
            own
        }
    };
    write(&home.join("cgroup.subtree_control"), "+memory")?;
    Ok(home)
}

fn step_into_leaf(own: &Path) -> Result<(), CgroupError> {
    // Only the machine's root group has no type, and may have both.
    if !own.join("cgroup.type").exists() {
        return Ok(());
    }
    let members = fs::read_to_string(own.join("cgroup.procs"))
        .map_err(|error| CgroupError::Io(own.to_owned(), error))?;
    let this = std::process::id().to_string();
    if members.lines().any(|member| member != this) {
        return Err(CgroupError::Shared);
    }
    let leaf = own.join(LEAF);
    if let Err(error) = fs::create_dir(&leaf)
        && error.kind() != io::ErrorKind::AlreadyExists
    {
        return Err(CgroupError::Io(leaf, error));
    }
    write(&leaf.join("cgroup.procs"), &this)
}

/// Removes an empty group.
pub(crate) fn remove(path: &Path) {
    if let Err(error) = fs::remove_dir(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::debug!(%error, path = %path.display(), "a cgroup stays for now");
    }
}

/// Puts the calling process, and what comes of it, into a group.
pub(crate) fn join(path: &Path) -> io::Result<()> {
    fs::write(path.join("cgroup.procs"), "0")
}

fn write(path: &Path, text: &str) -> Result<(), CgroupError> {
    fs::write(path, text).map_err(|error| CgroupError::Io(path.to_owned(), error))
}

/// The group that this process is in, below the mount, from `/proc/self/cgroup`.
fn parent(own: &str) -> Option<(Version, PathBuf)> {
    let mut unified = None;
    for line in own.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?.trim_start_matches('/'));
        if controllers.split(',').any(|name| name == "memory") {
            return Some((Version::One, Path::new("memory").join(path)));
        }
        if controllers.is_empty() {
            unified = Some((Version::Two, PathBuf::from(path)));
        }
    }
    unified
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_group_is_found_in_both_versions() {
        let one = "9:name=systemd:/\n4:cpu,memory:/a/b\n0::/\n";
        assert_eq!(parent(one), Some((Version::One, "memory/a/b".into())));
        let two = "0::/system.slice/worker.service\n";
        let expected = (Version::Two, "system.slice/worker.service".into());
        assert_eq!(parent(two), Some(expected));
        assert_eq!(parent(""), None);
    }

    /// A tree of files as the kernel shows it.
    fn pretend(group: &Path, members: &str) {
        fs::create_dir_all(group).unwrap();
        fs::write(group.join("cgroup.type"), "domain\n").unwrap();
        fs::write(group.join("cgroup.procs"), members).unwrap();
    }

    fn holds(group: &Path, file: &str) -> String {
        fs::read_to_string(group.join(file)).unwrap()
    }

    #[test]
    fn in_version_2_the_worker_steps_aside() {
        let mount = tempfile::tempdir().unwrap();
        let service = mount.path().join("worker.service");
        let this = std::process::id().to_string();
        pretend(&service, &format!("{this}\n"));
        // What is written over a file of the kernel is a command to it; here it stays.
        let create = |own: &str, name: &str| Cgroup::create_below(mount.path(), own, name, 64);
        let first = create("0::/worker.service\n", "a").unwrap();
        assert_eq!(first.path(), service.join("a"));
        assert_eq!(holds(&service.join(LEAF), "cgroup.procs"), this);
        assert_eq!(holds(&service, "cgroup.subtree_control"), "+memory");
        assert_eq!(holds(first.path(), "memory.max"), (64 << 20).to_string());
        // From then on, or where a service manager has put it into that leaf.
        let second = create("0::/worker.service/worker\n", "b").unwrap();
        assert_eq!(second.path(), service.join("b"));
        assert!(!service.join(LEAF).join(LEAF).exists());
    }

    #[test]
    fn in_version_2_nobody_else_is_moved() {
        let mount = tempfile::tempdir().unwrap();
        let session = mount.path().join("session");
        pretend(&session, "1\n");
        let error = Cgroup::create_below(mount.path(), "0::/session\n", "a", 64).unwrap_err();
        assert!(matches!(error, CgroupError::Shared), "{error}");
        assert!(!session.join(LEAF).exists());
    }
}
