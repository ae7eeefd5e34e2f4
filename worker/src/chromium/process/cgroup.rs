//! A memory cgroup around each browser, where the system allows this worker to create one.
//!
//! It is the last of the memory limits: the kernel kills the largest renderer before the machine
//! runs out of memory. Versions 1 and 2 are supported. The group is below the worker's own, so
//! every limit of the worker applies to its browsers as well. The `guard` lets the browser join it.
//!
//! In version 2 a group cannot have both processes and children with limits. So the worker moves
//! into a leaf of its group, and creates the browsers' groups beside that leaf:
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

/// The leaf that the worker moves into, unless its service manager has already put it there.
const LEAF: &str = "worker";

/// Why no cgroup was created.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CgroupError {
    /// Neither version of the memory controller is in use.
    #[error("the worker is in no memory cgroup")]
    None,
    /// The other processes in the worker's group would have to move as well.
    #[error("the worker shares its cgroup with other processes")]
    Shared,
    /// The system does not allow it.
    #[error("{0}: {1}")]
    Io(PathBuf, io::Error),
}

/// One group. Only an empty group can be removed.
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
    /// Creates a group of this name with this limit.
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
        let (version, own) = own_group(own).ok_or(CgroupError::None)?;
        let own = mount.join(own);
        let path = match version {
            Version::One => own,
            Version::Two => prepare_parent(own)?,
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
        // Fails on kernels that do not count swap; the memory limit applies all the same.
        _ = write(&self.path.join(swap), no_swap);
        Ok(())
    }

    /// The group's folder.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the group if it exists and is empty.
    pub(crate) fn remove(&self) {
        remove(&self.path);
    }
}

/// Returns the group in which browsers' groups of version 2 are created, after this process has
/// moved into a leaf of it.
fn prepare_parent(own: PathBuf) -> Result<PathBuf, CgroupError> {
    let parent = match own.parent() {
        Some(parent) if own.ends_with(LEAF) => parent.to_owned(),
        _ => {
            move_into_leaf(&own)?;
            own
        }
    };
    write(&parent.join("cgroup.subtree_control"), "+memory")?;
    Ok(parent)
}

fn move_into_leaf(own: &Path) -> Result<(), CgroupError> {
    // Only the machine's root group has no type. It may have both processes and limited children.
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

/// Removes a group if it exists and is empty.
pub(crate) fn remove(path: &Path) {
    if let Err(error) = fs::remove_dir(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::debug!(%error, path = %path.display(), "cgroup could not be removed");
    }
}

/// Moves the calling process into a group; its later children will be in it, too.
pub(crate) fn join(path: &Path) -> io::Result<()> {
    fs::write(path.join("cgroup.procs"), "0")
}

fn write(path: &Path, text: &str) -> Result<(), CgroupError> {
    fs::write(path, text).map_err(|error| CgroupError::Io(path.to_owned(), error))
}

/// The path of this process's own group below the mount, read from `/proc/self/cgroup`.
fn own_group(own: &str) -> Option<(Version, PathBuf)> {
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
        assert_eq!(own_group(one), Some((Version::One, "memory/a/b".into())));
        let two = "0::/system.slice/worker.service\n";
        let expected = (Version::Two, "system.slice/worker.service".into());
        assert_eq!(own_group(two), Some(expected));
        assert_eq!(own_group(""), None);
    }

    /// Creates the files that the kernel shows for a group.
    fn fake_group(group: &Path, members: &str) {
        fs::create_dir_all(group).unwrap();
        fs::write(group.join("cgroup.type"), "domain\n").unwrap();
        fs::write(group.join("cgroup.procs"), members).unwrap();
    }

    fn content(group: &Path, file: &str) -> String {
        fs::read_to_string(group.join(file)).unwrap()
    }

    #[test]
    fn in_version_2_the_worker_moves_into_a_leaf() {
        let mount = tempfile::tempdir().unwrap();
        let service = mount.path().join("worker.service");
        let this = std::process::id().to_string();
        fake_group(&service, &format!("{this}\n"));
        // To the kernel a write to these files is a command; in this test it just stays there.
        let create = |own: &str, name: &str| Cgroup::create_below(mount.path(), own, name, 64);
        let first = create("0::/worker.service\n", "a").unwrap();
        assert_eq!(first.path(), service.join("a"));
        assert_eq!(content(&service.join(LEAF), "cgroup.procs"), this);
        assert_eq!(content(&service, "cgroup.subtree_control"), "+memory");
        assert_eq!(content(first.path(), "memory.max"), (64 << 20).to_string());
        // The same for later browsers, and where a service manager chose the leaf.
        let second = create("0::/worker.service/worker\n", "b").unwrap();
        assert_eq!(second.path(), service.join("b"));
        assert!(!service.join(LEAF).join(LEAF).exists());
    }

    #[test]
    fn in_version_2_other_processes_are_not_moved() {
        let mount = tempfile::tempdir().unwrap();
        let session = mount.path().join("session");
        fake_group(&session, "1\n");
        let error = Cgroup::create_below(mount.path(), "0::/session\n", "a", 64).unwrap_err();
        assert!(matches!(error, CgroupError::Shared), "{error}");
        assert!(!session.join(LEAF).exists());
    }
}
