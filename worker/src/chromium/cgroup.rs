//! A memory cgroup around each browser, where the system lets this worker make one.
//!
//! It is the last of the limits of memory: the kernel ends the fattest renderer before the machine
//! suffers. Version 1 and 2 are understood. The group is a child of the worker's own, so whatever
//! bounds the worker bounds its browsers as well. Who joins it is the `guard`'s business.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Where cgroups are mounted.
const MOUNT: &str = "/sys/fs/cgroup";

/// Why there is no cgroup.
#[derive(Debug, thiserror::Error)]
pub(super) enum CgroupError {
    /// No version of the memory controller was found.
    #[error("this process is in no memory cgroup")]
    None,
    /// The system does not allow it.
    #[error("{0}: {1}")]
    Io(PathBuf, io::Error),
}

/// One group. It must be empty when it is removed.
#[derive(Debug)]
pub(super) struct Cgroup {
    path: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

impl Cgroup {
    /// Makes a group of this name for so many MiB.
    pub(super) fn create(name: &str, limit_mb: u32) -> Result<Self, CgroupError> {
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let (version, parent) = parent(&own).ok_or(CgroupError::None)?;
        let path = Path::new(MOUNT).join(parent);
        if version == Version::Two {
            // Refused where the parent has processes of its own, the worker above all: then a service
            // manager must have delegated a group to it.
            write(&path.join("cgroup.subtree_control"), "+memory")?;
        }
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
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes it; what is gone already, or still busy, is left alone.
    pub(super) fn remove(&self) {
        remove(&self.path);
    }
}

/// Removes an empty group.
pub(super) fn remove(path: &Path) {
    if let Err(error) = fs::remove_dir(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::debug!(%error, path = %path.display(), "a cgroup stays for now");
    }
}

/// Puts the calling process, and what comes of it, into a group.
pub(super) fn join(path: &Path) -> io::Result<()> {
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
}
