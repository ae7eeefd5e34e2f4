//! Least privilege: the settings with which every container is created.

use std::collections::HashMap;

use bollard::models::{
    ContainerCreateBody, HealthConfig, HostConfig, HostConfigLogConfig, ResourcesUlimits,
    RestartPolicy, RestartPolicyNameEnum,
};

use super::config::{DockerConfig, Privileges};
use super::image::Image;

/// A DNS resolver address within the container at which nothing listens. Without it, the daemon
/// would resolve names for the contract, from outside the contract's network.
const NO_RESOLVER: &str = "127.0.0.1";

/// The request that creates a container of `image`.
pub(super) fn container(
    config: &DockerConfig,
    image: &Image,
    network: &str,
    labels: HashMap<String, String>,
    egress: bool,
) -> ContainerCreateBody {
    let privileges = &config.privileges;
    ContainerCreateBody {
        image: Some(image.pin.id.clone()),
        labels: Some(labels),
        user: privileges.user.clone(),
        // Nothing reads the result of the image's own health check.
        healthcheck: Some(HealthConfig {
            test: Some(vec!["NONE".to_owned()]),
            ..HealthConfig::default()
        }),
        stop_timeout: Some(config.stop_grace.into()),
        host_config: Some(host(privileges, image, network, egress)),
        ..ContainerCreateBody::default()
    }
}

fn host(privileges: &Privileges, image: &Image, network: &str, egress: bool) -> HostConfig {
    let memory = signed(privileges.memory);
    HostConfig {
        network_mode: Some(network.to_owned()),
        dns: (!egress).then(|| vec![NO_RESOLVER.to_owned()]),
        runtime: privileges.runtime.clone(),
        cap_drop: Some(vec!["ALL".to_owned()]),
        cap_add: Some(privileges.capabilities.clone()),
        security_opt: Some(security(privileges)),
        privileged: Some(false),
        readonly_rootfs: Some(privileges.readonly),
        tmpfs: Some(tmpfs(privileges, image)),
        ipc_mode: Some("private".to_owned()),
        shm_size: Some(signed(privileges.shm)),
        memory: Some(memory),
        // Equal to the memory limit, which means no swap.
        memory_swap: Some(memory),
        nano_cpus: Some(nano(privileges.cpus)),
        pids_limit: Some(privileges.pids.into()),
        ulimits: Some(vec![ulimit("nofile", privileges.files), ulimit("core", 0)]),
        init: Some(privileges.init),
        log_config: Some(log(privileges)),
        // The worker restarts dead containers itself, after it has read their output.
        restart_policy: Some(RestartPolicy {
            name: Some(RestartPolicyNameEnum::NO),
            maximum_retry_count: None,
        }),
        auto_remove: Some(false),
        ..HostConfig::default()
    }
}

fn security(privileges: &Privileges) -> Vec<String> {
    if privileges.new_privileges {
        Vec::new()
    } else {
        vec!["no-new-privileges".to_owned()]
    }
}

/// Mounts memory at /tmp and at every volume. A volume would otherwise be writable disk, in spite
/// of the read-only root file system.
fn tmpfs(privileges: &Privileges, image: &Image) -> HashMap<String, String> {
    let options = format!("rw,noexec,nosuid,nodev,size={}", privileges.tmp);
    image
        .volumes
        .iter()
        .map(String::as_str)
        .chain(["/tmp"])
        .map(|folder| (folder.to_owned(), options.clone()))
        .collect()
}

fn log(privileges: &Privileges) -> HostConfigLogConfig {
    let options = [
        ("max-size", format!("{}k", privileges.log_kb)),
        ("max-file", "1".to_owned()),
        ("compress", "false".to_owned()),
    ];
    HostConfigLogConfig {
        typ: Some("local".to_owned()),
        config: Some(options.map(|(name, value)| (name.to_owned(), value)).into()),
    }
}

fn ulimit(name: &str, limit: u32) -> ResourcesUlimits {
    ResourcesUlimits {
        name: Some(name.to_owned()),
        soft: Some(limit.into()),
        hard: Some(limit.into()),
    }
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the configuration allows 1024 cores at most"
)]
fn nano(cpus: f64) -> i64 {
    (cpus * 1e9) as i64
}
