//! Where this worker runs: on the Docker host, or in a container of the same daemon. That decides
//! how it reaches the networks of its contracts.

/// Where this worker runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Location {
    /// On the daemon's host.
    Host,
    /// In this container of the same daemon.
    Container(String),
}

impl Location {
    /// What the log says.
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Host => "host",
            Self::Container(id) => id,
        }
    }
}

/// Detects where this worker runs.
pub(super) async fn detect(daemon: &bollard::Docker) -> Location {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let Some(id) = container_id(&mounts) else {
        return Location::Host;
    };
    // A container in the host's network cannot join another network, and does not need to.
    match daemon.inspect_container(id, None).await {
        Ok(found) => {
            let mode = found.host_config.and_then(|host| host.network_mode);
            if mode.as_deref() == Some("host") {
                Location::Host
            } else {
                Location::Container(id.to_owned())
            }
        }
        Err(_) => Location::Host,
    }
}

/// The id of the container that this process runs in. Docker mounts /etc/hostname from a folder
/// with that name. Other mounts prove nothing: the host sees those of all its containers.
fn container_id(mounts: &str) -> Option<&str> {
    mounts.lines().find_map(|mount| {
        // `ID PARENT DEVICE ROOT POINT ...`
        let mut fields = mount.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        let (_, rest) = root.split_once("/containers/")?;
        let id = rest.get(..64)?;
        (point == "/etc/hostname" && id.bytes().all(|b| b.is_ascii_hexdigit())).then_some(id)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn container_id_is_read_from_the_mounts() {
        let id = "0123456789abcdef".repeat(4);
        let folder = format!("/var/lib/docker/containers/{id}");
        let inside = format!("1 2 0:3 / / rw\n1 2 8:1 {folder}/hostname /etc/hostname rw");
        assert_eq!(container_id(&inside), Some(id.as_str()));
        let outside = format!("1 2 0:3 / {folder}/mounts/shm rw");
        assert_eq!(container_id(&outside), None);
        assert_eq!(container_id("1 2 8:1 / / rw"), None);
        assert_eq!(
            container_id("1 2 8:1 /containers/short /etc/hostname rw"),
            None
        );
    }
}
