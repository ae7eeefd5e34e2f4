//! What an operator can set about containers, by environment variables.

use std::time::Duration;

use bollard::auth::DockerCredentials;
use shared::service::config::{ConfigError, Env};

use super::subnets::Range;
use crate::sandbox::CallLimits;

const MIB: u64 = 1024 * 1024;

/// How containers are made, and the limits of what runs in them.
#[derive(Debug, Clone)]
pub struct DockerConfig {
    /// `DOCKER_HOST`: the daemon, by default `unix:///var/run/docker.sock`. It must run on the
    /// same host: contracts are called at their containers' addresses.
    pub host: String,
    /// How long one call may run: `EXECUTE_TIMEOUT_MS`, as for JavaScript.
    pub call_limit: Duration,
    /// How many bytes one result may have: `RESULT_LIMIT_BYTES`, as for JavaScript.
    pub result_limit: usize,
    /// `CONTAINER_LOAD_TIMEOUT_MS`: from the start of a load until the container listens, a pull
    /// included, by default 25 s: less than the api waits, so that the caller is told the reason.
    pub load_limit: Duration,
    /// `CONTAINER_PROBE_TIMEOUT_MS`: how long a container may take to answer `HEAD /` after a call
    /// ran over its limit, by default 1 s. One that does not is made anew.
    pub probe_limit: Duration,
    /// `CONTAINER_STOP_GRACE_SECONDS`: from SIGTERM to SIGKILL, by default 1.
    pub stop_grace: i32,
    /// `CONTAINER_CONCURRENCY`: calls of one contract that run at once, by default 16. A contract
    /// can ask for fewer.
    pub concurrency: usize,
    /// `CONTAINER_TAR_LIMIT_BYTES`: how large an image tar may be, unpacked, by default 512 MiB.
    pub tar_limit: u64,
    /// `CONTAINER_SUBNETS`: the range out of which every contract gets a network of eight
    /// addresses, by default `10.213.0.0/16`. The host must have no other use for it.
    pub subnets: Range,
    /// `CONTAINER_ALLOW_EGRESS`: whether a contract may ask for the outside network with
    /// `limits.network`, by default no.
    pub allow_egress: bool,
    /// `CONTAINER_MAX_DEATHS`: how often a container may die within a minute before its contract
    /// is quarantined, by default 5.
    pub max_deaths: usize,
    /// `CONTAINER_SWEEP_MS`: how often it is looked for what dead workers left, by default 10 s.
    pub sweep: Duration,
    /// `REGISTRY_HOST` (by default docker.io), `REGISTRY_USERNAME`, `REGISTRY_PASSWORD`: the
    /// credentials of one registry.
    pub registry: Option<Registry>,
    /// What a container may do and use.
    pub privileges: Privileges,
}

/// Credentials, sent with pulls from this registry only.
#[derive(Debug, Clone)]
pub struct Registry {
    /// Its host, as image references name it.
    pub host: String,
    /// User and password.
    pub credentials: DockerCredentials,
}

/// The bounds of one container. The defaults are the least that a server of HTTP needs.
#[derive(Debug, Clone)]
pub struct Privileges {
    /// `CONTAINER_USER`: whom the contract runs as, by default whom the image names.
    pub user: Option<String>,
    /// `CONTAINER_RUNTIME`: an OCI runtime that the daemon knows, such as `runsc` (gVisor).
    pub runtime: Option<String>,
    /// `CONTAINER_MEMORY_MB`: by default 256; there is no swap beyond it.
    pub memory: u64,
    /// `CONTAINER_CPUS`: by default 0.5 of a core.
    pub cpus: f64,
    /// `CONTAINER_PIDS`: processes and threads, by default 128.
    pub pids: u32,
    /// `CONTAINER_TMP_MB`: the size of /tmp and of each volume, in memory, by default 32.
    pub tmp: u64,
    /// `CONTAINER_SHM_MB`: the size of /dev/shm, by default 16.
    pub shm: u64,
    /// `CONTAINER_FILES`: open files of one process, by default 1024.
    pub files: u32,
    /// `CONTAINER_LOG_KB`: how much of its output the daemon keeps, by default 1024.
    pub log_kb: u32,
    /// `CONTAINER_READONLY`: whether the root file system is read-only, by default yes.
    pub readonly: bool,
    /// `CONTAINER_INIT`: whether an init reaps the contract's orphans, by default yes.
    pub init: bool,
    /// `CONTAINER_CAPABILITIES`: capabilities kept, separated by commas, by default none.
    pub capabilities: Vec<String>,
    /// `CONTAINER_NEW_PRIVILEGES`: whether setuid programs work, by default no.
    pub new_privileges: bool,
}

impl DockerConfig {
    /// Reads the variables.
    pub fn from_env(env: Env, calls: CallLimits) -> Result<Self, ConfigError> {
        Ok(Self {
            host: env
                .text("DOCKER_HOST")
                .unwrap_or_else(|| "unix:///var/run/docker.sock".to_owned()),
            call_limit: calls.time,
            result_limit: calls.result as usize,
            load_limit: env.millis("CONTAINER_LOAD_TIMEOUT_MS", 25_000, 100..=3_600_000)?,
            probe_limit: env.millis("CONTAINER_PROBE_TIMEOUT_MS", 1000, 10..=60_000)?,
            stop_grace: env.number("CONTAINER_STOP_GRACE_SECONDS", 1, 0..=600)?,
            concurrency: env.number("CONTAINER_CONCURRENCY", 16, 1..=4096)?,
            tar_limit: env.number("CONTAINER_TAR_LIMIT_BYTES", 512 * MIB, 1..=MIB << 20)?,
            subnets: env.parse("CONTAINER_SUBNETS", Range::default())?,
            allow_egress: env.parse("CONTAINER_ALLOW_EGRESS", false)?,
            max_deaths: env.number("CONTAINER_MAX_DEATHS", 5, 1..=1000)?,
            sweep: env.millis("CONTAINER_SWEEP_MS", 10_000, 100..=3_600_000)?,
            registry: registry(env),
            privileges: Privileges::from_env(env)?,
        })
    }
}

impl Privileges {
    fn from_env(env: Env) -> Result<Self, ConfigError> {
        let capabilities = env.text("CONTAINER_CAPABILITIES").unwrap_or_default();
        Ok(Self {
            user: env.text("CONTAINER_USER"),
            runtime: env.text("CONTAINER_RUNTIME"),
            // Docker itself refuses less than 6 MB.
            memory: env.number("CONTAINER_MEMORY_MB", 256, 6..=1 << 20)? * MIB,
            cpus: env.number("CONTAINER_CPUS", 0.5, 0.01..=1024.0)?,
            pids: env.number("CONTAINER_PIDS", 128, 4..=1 << 20)?,
            tmp: env.number("CONTAINER_TMP_MB", 32, 1..=1 << 20)? * MIB,
            shm: env.number("CONTAINER_SHM_MB", 16, 1..=1 << 20)? * MIB,
            files: env.number("CONTAINER_FILES", 1024, 16..=1 << 20)?,
            log_kb: env.number("CONTAINER_LOG_KB", 1024, 4..=1 << 20)?,
            readonly: env.parse("CONTAINER_READONLY", true)?,
            init: env.parse("CONTAINER_INIT", true)?,
            capabilities: capabilities
                .split(',')
                .map(|name| name.trim().to_owned())
                .filter(|name| !name.is_empty())
                .collect(),
            new_privileges: env.parse("CONTAINER_NEW_PRIVILEGES", false)?,
        })
    }
}

fn registry(env: Env) -> Option<Registry> {
    let host = env
        .text("REGISTRY_HOST")
        .unwrap_or_else(|| "docker.io".to_owned());
    let credentials = DockerCredentials {
        username: Some(env.text("REGISTRY_USERNAME")?),
        password: env.text("REGISTRY_PASSWORD"),
        serveraddress: Some(host.clone()),
        ..DockerCredentials::default()
    };
    Some(Registry { host, credentials })
}
