//! What an operator can set, by environment variables; checked before anything starts.

mod chromium;

use std::time::Duration;

use shared::protocol::job::EngineKind;
use shared::queue::{QUEUE_SETTINGS, ReaperConfig, RedisConfig};
use shared::service::config::{Group, Program, Reader, Setting};
use shared::service::process::{PROCESS_SETTINGS, shutdown_grace};
use shared::service::telemetry::traces::{TRACE_SETTINGS, TraceConfig};

use crate::chromium::ChromiumConfig;
use crate::docker::{CONTAINER_SETTINGS, DOCKER_SETTINGS, DockerConfig};
use crate::sandbox::CallLimits;

const MIB: u32 = 1024 * 1024;

const HOST: Setting = Setting::new(
    "EXECUTION_WORKER_HOST",
    "127.0.0.1",
    "The address of /metrics, /healthz and /readyz.",
);
// Not set by default, so that several workers on one machine need no ports of their own.
const PORT: Setting = Setting::optional(
    "EXECUTION_WORKER_PORT",
    "none: they are not served",
    "The port of /metrics, /healthz and /readyz; 0 takes a free one.",
);
const METRICS_BY_CONTRACT: Setting = Setting::new(
    "METRICS_BY_CONTRACT",
    "false",
    "Whether metrics have the address of each contract as a label.",
);
const WORKER_ENGINES: Setting = Setting::new(
    "WORKER_ENGINES",
    "javascript,docker",
    "The engines that the worker offers. Docker is left out where no daemon answers.",
);
const WORKER_CAPACITY: Setting = Setting::new(
    "WORKER_CAPACITY",
    "64",
    "Contracts that the worker may own at once. A JavaScript contract takes about 13 MB.",
);
const CONTRACT_QUEUE_LIMIT: Setting = Setting::new(
    "CONTRACT_QUEUE_LIMIT",
    "4096",
    "Calls of one contract that may wait; beyond that, 503.",
);
// The limit of the original service.
const EXECUTE_TIMEOUT_MS: Setting =
    Setting::new("EXECUTE_TIMEOUT_MS", "2000", "How long one call may run.");
const RESULT_LIMIT_BYTES: Setting = Setting::new(
    "RESULT_LIMIT_BYTES",
    "1048576",
    "The largest result of a call (1 MiB of JSON).",
);

const OPERATOR_SETTINGS: Group = Group {
    title: "Metrics and health",
    settings: &[HOST, PORT, METRICS_BY_CONTRACT],
};

const CONTRACT_SETTINGS: Group = Group {
    title: "Contracts and calls",
    settings: &[
        WORKER_ENGINES,
        WORKER_CAPACITY,
        CONTRACT_QUEUE_LIMIT,
        EXECUTE_TIMEOUT_MS,
        RESULT_LIMIT_BYTES,
    ],
};

/// The variables of the api, and of the attack suite, which may share the environment.
const OTHER_VARIABLES: [&str; 20] = [
    "JWT_",
    "AUTH",
    "ADMIN_KEY_FILE",
    "CORS_ORIGINS",
    "METRICS_BY_TENANT",
    "EXECUTION_API_",
    "EXECUTION_ENGINE",
    "EXECUTE_DEADLINE_MS",
    "EXECUTE_BODY_LIMIT_BYTES",
    "LOAD_DEADLINE_MS",
    "LOAD_BODY_LIMIT_BYTES",
    "HEADERS_TIMEOUT_MS",
    "BODY_TIMEOUT_MS",
    "MAX_IN_FLIGHT",
    "MAX_IN_FLIGHT_PER_CONTRACT",
    "MAX_LOADS_IN_FLIGHT",
    "MAX_BODY_BYTES_IN_FLIGHT",
    "MAX_CONNECTIONS",
    "EXECUTABLES_LIMIT_BYTES",
    "ATTACK_SUITE_LAYERS_OFF",
];

/// The program, for `--help` and `--version`.
pub const PROGRAM: Program = Program {
    name: "execution-worker",
    about: "A worker of the execution service: owns contracts and runs their calls in sandboxes",
    version: env!("CARGO_PKG_VERSION"),
    commit: env!("COMMIT"),
    groups: &[
        OPERATOR_SETTINGS,
        CONTRACT_SETTINGS,
        chromium::SETTINGS,
        DOCKER_SETTINGS,
        CONTAINER_SETTINGS,
        QUEUE_SETTINGS,
        PROCESS_SETTINGS,
        TRACE_SETTINGS,
    ],
    others: &OTHER_VARIABLES,
};

/// The worker's configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// `REDIS_URL`, `REDIS_PREFIX`.
    pub redis: RedisConfig,
    /// `EXECUTION_WORKER_HOST`.
    pub host: String,
    /// `EXECUTION_WORKER_PORT`.
    pub port: Option<u16>,
    /// `METRICS_BY_CONTRACT`.
    pub metrics_by_contract: bool,
    /// `WORKER_CAPACITY`.
    pub capacity: usize,
    /// `CONTRACT_QUEUE_LIMIT`.
    pub queue_limit: usize,
    /// `SHUTDOWN_GRACE_MS`.
    pub shutdown_grace: Duration,
    /// `REAP_GRACE_MS`, `QUARANTINE_MS`.
    pub reaper: ReaperConfig,
    /// `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub traces: TraceConfig,
    /// The JavaScript engine, if `WORKER_ENGINES` names it.
    pub chromium: Option<ChromiumConfig>,
    /// The engine of images, if `WORKER_ENGINES` names it. It is left out where no daemon answers,
    /// unless it is the only one.
    pub docker: Option<DockerConfig>,
}

impl Config {
    /// Reads the settings. Those of an engine that is not offered are ignored.
    pub fn read(reader: &mut Reader) -> Self {
        let host = reader.string(&HOST);
        let port = reader.parse_optional(&PORT);
        let metrics_by_contract = reader.parse(&METRICS_BY_CONTRACT);
        let engines = engines(reader);
        let capacity = reader.number(&WORKER_CAPACITY, 1..=10_000);
        let queue_limit = reader.number(&CONTRACT_QUEUE_LIMIT, 1..=1_000_000);
        let calls = CallLimits {
            time: reader.millis(&EXECUTE_TIMEOUT_MS, 10..=600_000),
            result: reader.number(&RESULT_LIMIT_BYTES, 4..=64 * MIB),
        };
        let offered = |engine| engines.contains(&engine);
        Self {
            host,
            port,
            metrics_by_contract,
            capacity,
            queue_limit,
            chromium: offered(EngineKind::Javascript).then(|| chromium::read(reader, calls)),
            docker: offered(EngineKind::Docker).then(|| DockerConfig::read(reader, calls)),
            redis: RedisConfig::read(reader),
            reaper: ReaperConfig::read(reader),
            shutdown_grace: shutdown_grace(reader),
            traces: TraceConfig::read(reader),
        }
    }
}

fn engines(reader: &mut Reader) -> Vec<EngineKind> {
    let text = reader.string(&WORKER_ENGINES);
    let mut engines = Vec::new();
    for name in text.split(',') {
        match name.trim().parse::<EngineKind>() {
            Ok(engine) if engines.contains(&engine) => {}
            Ok(engine) => engines.push(engine),
            Err(reason) => reader.refuse(&WORKER_ENGINES, &text, reason),
        }
    }
    engines
}

#[cfg(test)]
mod tests {
    use shared::service::config::Env;
    use shared::service::scheduling::Scheduling;
    use shared::service::telemetry::LogConfig;

    use super::*;

    #[test]
    fn every_default_is_valid() {
        let mut reader = Reader::new(Env::table(|name| {
            (name == "CHROMIUM_PATH").then(|| "/proc/self/exe".to_owned())
        }));
        LogConfig::read(&mut reader);
        Scheduling::read(&mut reader);
        let config = Config::read(&mut reader);
        assert!(config.chromium.is_some() && config.docker.is_some());
        let effective = reader.effective();
        for setting in PROGRAM.settings() {
            let is_shown = effective.contains(&format!("{}=", setting.name));
            let has_default = matches!(setting.default, shared::service::config::Value::Text(_));
            assert!(is_shown || !has_default, "{}: {effective}", setting.name);
        }
    }
}
