//! What an operator can set about containers, by environment variables.

use std::time::Duration;

use bollard::auth::DockerCredentials;
use secrecy::{ExposeSecret, SecretString};
use shared::protocol::job::{EffectiveLimits, Limits};
use shared::service::config::{Group, Reader, Setting};

use super::allowed::AllowedImages;
use super::subnets::Range;
use crate::sandbox::CallLimits;

const MIB: u64 = 1024 * 1024;

const DOCKER_HOST: Setting = Setting::new(
    "DOCKER_HOST",
    "unix:///var/run/docker.sock",
    "The Docker daemon. It must run on the same host: contracts are called at the addresses of \
     their containers.",
);
const REGISTRY_HOST: Setting = Setting::new(
    "REGISTRY_HOST",
    "docker.io",
    "The registry that the credentials belong to; they are sent to no other.",
);
const REGISTRY_USERNAME: Setting = Setting::optional(
    "REGISTRY_USERNAME",
    "none: images are pulled without credentials",
    "The user of the registry.",
);
const REGISTRY_PASSWORD: Setting = Setting::optional(
    "REGISTRY_PASSWORD",
    "none",
    "The password of the registry's user.",
)
.secret();
// Less than the api waits, so that the caller learns the reason.
const CONTAINER_LOAD_TIMEOUT_MS: Setting = Setting::new(
    "CONTAINER_LOAD_TIMEOUT_MS",
    "25000",
    "From the start of a load until the container listens, a pull included.",
);
const CONTAINER_PROBE_TIMEOUT_MS: Setting = Setting::new(
    "CONTAINER_PROBE_TIMEOUT_MS",
    "1000",
    "How long a container may take to answer HEAD / after a call ran over its limit. One that \
     does not answer is recreated.",
);
const CONTAINER_STOP_GRACE_SECONDS: Setting = Setting::new(
    "CONTAINER_STOP_GRACE_SECONDS",
    "1",
    "From SIGTERM to SIGKILL, in seconds.",
);
const CONTAINER_CONCURRENCY: Setting = Setting::new(
    "CONTAINER_CONCURRENCY",
    "16",
    "Calls of one contract that run at once. A contract can ask for fewer.",
);
// None by default: a reference makes the daemon ask an address, or run what is on the host.
const CONTAINER_IMAGES: Setting = Setting::optional(
    "CONTAINER_IMAGES",
    "none: images are loaded as tars only",
    "The images that contracts may name, as patterns separated by commas.",
);
const CONTAINER_TAR_LIMIT_BYTES: Setting = Setting::new(
    "CONTAINER_TAR_LIMIT_BYTES",
    "536870912",
    "The largest image tar, unpacked, and the most that its layers may take on disk (512 MiB).",
);
const CONTAINER_SUBNETS: Setting = Setting::new(
    "CONTAINER_SUBNETS",
    "10.213.0.0/16",
    "The range from which every contract gets a network of eight addresses. The host must not \
     use it otherwise.",
);
const CONTAINER_ALLOW_EGRESS: Setting = Setting::new(
    "CONTAINER_ALLOW_EGRESS",
    "false",
    "Whether a contract may ask for the outside network with limits.network.",
);
const CONTAINER_MAX_DEATHS: Setting = Setting::new(
    "CONTAINER_MAX_DEATHS",
    "5",
    "Deaths of a container within a minute after which its contract is quarantined.",
);
const CONTAINER_SWEEP_MS: Setting = Setting::new(
    "CONTAINER_SWEEP_MS",
    "10000",
    "How often the worker removes what dead workers left with the daemon.",
);
const CONTAINER_USER: Setting = Setting::optional(
    "CONTAINER_USER",
    "the user that the image names",
    "The user that a contract runs as.",
);
const CONTAINER_RUNTIME: Setting = Setting::optional(
    "CONTAINER_RUNTIME",
    "the daemon's own",
    "An OCI runtime that the daemon knows, such as runsc (gVisor).",
);
const CONTAINER_MEMORY_MB: Setting = Setting::new(
    "CONTAINER_MEMORY_MB",
    "256",
    "Memory of a container; there is no swap beyond it.",
);
const CONTAINER_CPUS: Setting =
    Setting::new("CONTAINER_CPUS", "0.5", "Processor cores of a container.");
const CONTAINER_PIDS: Setting = Setting::new(
    "CONTAINER_PIDS",
    "128",
    "Processes and threads of a container.",
);
const CONTAINER_TMP_MB: Setting = Setting::new(
    "CONTAINER_TMP_MB",
    "32",
    "The size of /tmp and of each volume; both are in memory.",
);
const CONTAINER_SHM_MB: Setting = Setting::new("CONTAINER_SHM_MB", "16", "The size of /dev/shm.");
const CONTAINER_FILES: Setting =
    Setting::new("CONTAINER_FILES", "1024", "Open files of one process.");
const CONTAINER_LOG_KB: Setting = Setting::new(
    "CONTAINER_LOG_KB",
    "1024",
    "How much of a container's output the daemon keeps.",
);
const CONTAINER_READONLY: Setting = Setting::new(
    "CONTAINER_READONLY",
    "true",
    "Whether the root file system is read-only.",
);
const CONTAINER_INIT: Setting = Setting::new(
    "CONTAINER_INIT",
    "true",
    "Whether an init process reaps orphaned processes.",
);
const CONTAINER_CAPABILITIES: Setting = Setting::optional(
    "CONTAINER_CAPABILITIES",
    "none",
    "Capabilities that a container keeps, separated by commas.",
);
const CONTAINER_NEW_PRIVILEGES: Setting = Setting::new(
    "CONTAINER_NEW_PRIVILEGES",
    "false",
    "Whether setuid programs work.",
);

/// The settings of the Docker engine.
pub const DOCKER_SETTINGS: Group = Group {
    title: "Docker contracts",
    settings: &[
        DOCKER_HOST,
        REGISTRY_HOST,
        REGISTRY_USERNAME,
        REGISTRY_PASSWORD,
        CONTAINER_LOAD_TIMEOUT_MS,
        CONTAINER_PROBE_TIMEOUT_MS,
        CONTAINER_STOP_GRACE_SECONDS,
        CONTAINER_CONCURRENCY,
        CONTAINER_IMAGES,
        CONTAINER_TAR_LIMIT_BYTES,
        CONTAINER_SUBNETS,
        CONTAINER_ALLOW_EGRESS,
        CONTAINER_MAX_DEATHS,
        CONTAINER_SWEEP_MS,
    ],
};

/// The settings of each container.
pub const CONTAINER_SETTINGS: Group = Group {
    title: "What a container may do and use",
    settings: &[
        CONTAINER_USER,
        CONTAINER_RUNTIME,
        CONTAINER_MEMORY_MB,
        CONTAINER_CPUS,
        CONTAINER_PIDS,
        CONTAINER_TMP_MB,
        CONTAINER_SHM_MB,
        CONTAINER_FILES,
        CONTAINER_LOG_KB,
        CONTAINER_READONLY,
        CONTAINER_INIT,
        CONTAINER_CAPABILITIES,
        CONTAINER_NEW_PRIVILEGES,
    ],
};

/// How containers are created, and the limits of what runs in them.
#[derive(Debug, Clone)]
pub struct DockerConfig {
    /// `DOCKER_HOST`.
    pub host: String,
    /// `EXECUTE_TIMEOUT_MS`, `RESULT_LIMIT_BYTES`, as for JavaScript.
    pub calls: CallLimits,
    /// `CONTAINER_LOAD_TIMEOUT_MS`.
    pub load_limit: Duration,
    /// `CONTAINER_PROBE_TIMEOUT_MS`.
    pub probe_limit: Duration,
    /// `CONTAINER_STOP_GRACE_SECONDS`.
    pub stop_grace: i32,
    /// `CONTAINER_CONCURRENCY`.
    pub concurrency: u32,
    /// `CONTAINER_IMAGES`.
    pub images: AllowedImages,
    /// `CONTAINER_TAR_LIMIT_BYTES`.
    pub tar_limit: u64,
    /// `CONTAINER_SUBNETS`.
    pub subnets: Range,
    /// `CONTAINER_ALLOW_EGRESS`.
    pub allow_egress: bool,
    /// `CONTAINER_MAX_DEATHS`.
    pub max_deaths: usize,
    /// `CONTAINER_SWEEP_MS`.
    pub sweep: Duration,
    /// `REGISTRY_HOST`, `REGISTRY_USERNAME`, `REGISTRY_PASSWORD`.
    pub registry: Option<Registry>,
    /// What a container may do and use.
    pub privileges: Privileges,
}

/// Credentials, sent with pulls from this registry only.
#[derive(Debug, Clone)]
pub struct Registry {
    /// Its host, as image references name it.
    pub host: String,
    /// The user.
    pub username: String,
    /// The user's password.
    pub password: Option<SecretString>,
}

/// The bounds of one container. The defaults are the least that an HTTP server needs.
#[derive(Debug, Clone)]
pub struct Privileges {
    /// `CONTAINER_USER`.
    pub user: Option<String>,
    /// `CONTAINER_RUNTIME`.
    pub runtime: Option<String>,
    /// `CONTAINER_MEMORY_MB`, in bytes.
    pub memory: u64,
    /// `CONTAINER_CPUS`.
    pub cpus: f64,
    /// `CONTAINER_PIDS`.
    pub pids: u32,
    /// `CONTAINER_TMP_MB`, in bytes.
    pub tmp: u64,
    /// `CONTAINER_SHM_MB`, in bytes.
    pub shm: u64,
    /// `CONTAINER_FILES`.
    pub files: u32,
    /// `CONTAINER_LOG_KB`.
    pub log_kb: u32,
    /// `CONTAINER_READONLY`.
    pub readonly: bool,
    /// `CONTAINER_INIT`.
    pub init: bool,
    /// `CONTAINER_CAPABILITIES`.
    pub capabilities: Vec<String>,
    /// `CONTAINER_NEW_PRIVILEGES`.
    pub new_privileges: bool,
}

impl DockerConfig {
    /// The limits that a contract runs with which asks for `limits`. It can only lower those of the
    /// worker.
    pub(super) fn limits(&self, limits: &Limits) -> EffectiveLimits {
        let concurrency = limits.concurrency.unwrap_or(self.concurrency);
        EffectiveLimits {
            concurrency: Some(concurrency.clamp(1, self.concurrency)),
            network: Some(self.allow_egress && limits.network == Some(true)),
            ..self.calls.lowered_by(limits)
        }
    }

    /// Reads the settings.
    pub fn read(reader: &mut Reader, calls: CallLimits) -> Self {
        Self {
            host: reader.string(&DOCKER_HOST),
            calls,
            load_limit: reader.millis(&CONTAINER_LOAD_TIMEOUT_MS, 100..=3_600_000),
            probe_limit: reader.millis(&CONTAINER_PROBE_TIMEOUT_MS, 10..=60_000),
            stop_grace: reader.number(&CONTAINER_STOP_GRACE_SECONDS, 0..=600),
            concurrency: reader.number(&CONTAINER_CONCURRENCY, 1..=4096),
            images: reader.parse_optional(&CONTAINER_IMAGES).unwrap_or_default(),
            tar_limit: reader.number(&CONTAINER_TAR_LIMIT_BYTES, 1..=MIB << 20),
            subnets: reader.parse(&CONTAINER_SUBNETS),
            allow_egress: reader.parse(&CONTAINER_ALLOW_EGRESS),
            max_deaths: reader.number(&CONTAINER_MAX_DEATHS, 1..=1000),
            sweep: reader.millis(&CONTAINER_SWEEP_MS, 100..=3_600_000),
            registry: Registry::read(reader),
            privileges: Privileges::read(reader),
        }
    }
}

impl Privileges {
    fn read(reader: &mut Reader) -> Self {
        let capabilities = reader.text(&CONTAINER_CAPABILITIES).unwrap_or_default();
        Self {
            user: reader.text(&CONTAINER_USER),
            runtime: reader.text(&CONTAINER_RUNTIME),
            // Docker itself refuses less than 6 MB.
            memory: reader.number(&CONTAINER_MEMORY_MB, 6..=1 << 20) * MIB,
            cpus: reader.number(&CONTAINER_CPUS, 0.01..=1024.0),
            pids: reader.number(&CONTAINER_PIDS, 4..=1 << 20),
            tmp: reader.number(&CONTAINER_TMP_MB, 1..=1 << 20) * MIB,
            shm: reader.number(&CONTAINER_SHM_MB, 1..=1 << 20) * MIB,
            files: reader.number(&CONTAINER_FILES, 16..=1 << 20),
            log_kb: reader.number(&CONTAINER_LOG_KB, 4..=1 << 20),
            readonly: reader.parse(&CONTAINER_READONLY),
            init: reader.parse(&CONTAINER_INIT),
            capabilities: capabilities
                .split(',')
                .map(|name| name.trim().to_owned())
                .filter(|name| !name.is_empty())
                .collect(),
            new_privileges: reader.parse(&CONTAINER_NEW_PRIVILEGES),
        }
    }
}

impl Registry {
    fn read(reader: &mut Reader) -> Option<Self> {
        let host = reader.string(&REGISTRY_HOST);
        let password = reader.text(&REGISTRY_PASSWORD).map(SecretString::from);
        Some(Self {
            host,
            username: reader.text(&REGISTRY_USERNAME)?,
            password,
        })
    }

    /// What is sent with a pull.
    pub(super) fn credentials(&self) -> DockerCredentials {
        let password = self.password.as_ref();
        DockerCredentials {
            username: Some(self.username.clone()),
            password: password.map(|password| password.expose_secret().to_owned()),
            serveraddress: Some(self.host.clone()),
            ..DockerCredentials::default()
        }
    }
}
