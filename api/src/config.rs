//! What an operator can set, by environment variables; checked before anything starts.

use std::time::Duration;

use shared::protocol::job::EngineKind;
use shared::queue::timing::{LONGEST_LOAD_DEADLINE, millis};
use shared::queue::{QUEUE_SETTINGS, ReaperConfig, RedisConfig};
use shared::service::config::{Group, Program, Reader, Setting};
use shared::service::process::{PROCESS_SETTINGS, shutdown_grace};
use shared::service::telemetry::traces::{TRACE_SETTINGS, TraceConfig};

use crate::access::{ACCESS_SETTINGS, AccessConfig};
use crate::edge::Origins;

const MIB: usize = 1024 * 1024;

const HOST: Setting = Setting::new(
    "EXECUTION_API_HOST",
    "127.0.0.1",
    "The address to listen on.",
);
// The port of the original service.
const PORT: Setting = Setting::new(
    "EXECUTION_API_PORT",
    "9000",
    "The port to listen on; 0 takes a free one.",
);
const METRICS_HOST: Setting = Setting::new(
    "EXECUTION_API_METRICS_HOST",
    "127.0.0.1",
    "The address of the listener that EXECUTION_API_METRICS_PORT opens.",
);
const METRICS_PORT: Setting = Setting::optional(
    "EXECUTION_API_METRICS_PORT",
    "none: /metrics is served to callers",
    "The port of a listener for /metrics, /healthz and /readyz; 0 takes a free one. Callers cannot \
     read /metrics then.",
);
const METRICS_BY_TENANT: Setting = Setting::new(
    "METRICS_BY_TENANT",
    "false",
    "Whether metrics carry each tenant's name as a label.",
);
// Longer than the 60 s after which common load balancers close idle connections: a server that is
// first may close one just when a request is sent on it.
const HEADERS_TIMEOUT_MS: Setting = Setting::new(
    "HEADERS_TIMEOUT_MS",
    "75000",
    "How long a connection may be idle, or take to send the head of a request.",
);
const CORS_ORIGINS: Setting = Setting::optional(
    "CORS_ORIGINS",
    "none",
    "The web origins whose pages may use the api, such as https://console.example, separated by commas.",
);
const BODY_TIMEOUT_MS: Setting = Setting::new(
    "BODY_TIMEOUT_MS",
    "30000",
    "How long the body of a request may take to arrive.",
);
const MAX_CONNECTIONS: Setting = Setting::new(
    "MAX_CONNECTIONS",
    "8192",
    "Connections open at once. Beyond that, a client that keeps its connection waiting loses it.",
);
// The compose files give an api 512 MiB: the rest is for what is made from the bodies.
const MAX_BODY_BYTES_IN_FLIGHT: Setting = Setting::optional(
    "MAX_BODY_BYTES_IN_FLIGHT",
    "201326592 (192 MiB), or three times the largest body",
    "Bytes of all request bodies in flight, two thirds of them for loads. Beyond that, bodies wait.",
);
const ENGINE: Setting = Setting::new(
    "EXECUTION_ENGINE",
    "javascript",
    "The engine of a load that names none: javascript or docker.",
);
const EXECUTE_DEADLINE_MS: Setting = Setting::new(
    "EXECUTE_DEADLINE_MS",
    "10000",
    "From the acceptance of a call to its response, waiting included.",
);
const LOAD_DEADLINE_MS: Setting = Setting::new(
    "LOAD_DEADLINE_MS",
    "30000",
    "The same for loads and unloads.",
);
const EXECUTE_BODY_LIMIT_BYTES: Setting = Setting::new(
    "EXECUTE_BODY_LIMIT_BYTES",
    "1048576",
    "The largest argument of a call (1 MiB).",
);
const LOAD_BODY_LIMIT_BYTES: Setting = Setting::new(
    "LOAD_BODY_LIMIT_BYTES",
    "67108864",
    "The largest load request (64 MiB).",
);
const MAX_IN_FLIGHT: Setting = Setting::new(
    "MAX_IN_FLIGHT",
    "4096",
    "Loads, calls and unloads in flight at once; beyond that, 503.",
);
const MAX_LOADS_IN_FLIGHT: Setting = Setting::new(
    "MAX_LOADS_IN_FLIGHT",
    "256",
    "Loads in flight at once; beyond that, 503.",
);
const MAX_IN_FLIGHT_PER_CONTRACT: Setting = Setting::new(
    "MAX_IN_FLIGHT_PER_CONTRACT",
    "1024",
    "Calls of one contract in flight at once; beyond that, 503.",
);

const EXECUTABLES_LIMIT_BYTES: Setting = Setting::new(
    "EXECUTABLES_LIMIT_BYTES",
    "268435456",
    "What the executables of all contracts may take in Redis (256 MiB); beyond that, 503 for loads.",
);

const HTTP_SETTINGS: Group = Group {
    title: "HTTP",
    settings: &[
        HOST,
        PORT,
        METRICS_HOST,
        METRICS_PORT,
        METRICS_BY_TENANT,
        HEADERS_TIMEOUT_MS,
        BODY_TIMEOUT_MS,
        CORS_ORIGINS,
        MAX_CONNECTIONS,
        MAX_BODY_BYTES_IN_FLIGHT,
    ],
};

const CALL_SETTINGS: Group = Group {
    title: "Calls and loads",
    settings: &[
        ENGINE,
        EXECUTE_DEADLINE_MS,
        LOAD_DEADLINE_MS,
        EXECUTE_BODY_LIMIT_BYTES,
        LOAD_BODY_LIMIT_BYTES,
        MAX_IN_FLIGHT,
        MAX_IN_FLIGHT_PER_CONTRACT,
        MAX_LOADS_IN_FLIGHT,
        EXECUTABLES_LIMIT_BYTES,
    ],
};

/// The variables of the worker, which may share the environment.
const WORKER_VARIABLES: [&str; 10] = [
    "EXECUTION_WORKER_",
    "METRICS_BY_CONTRACT",
    "WORKER_",
    "CONTRACT_QUEUE_LIMIT",
    "EXECUTE_TIMEOUT_MS",
    "LOAD_TIMEOUT_MS",
    "RESULT_LIMIT_BYTES",
    "CHROMIUM_",
    "IDLE_CPU_MS",
    "CONTAINER_",
];

/// The program, for `--help` and `--version`.
pub const PROGRAM: Program = Program {
    name: "execution-api",
    about: "The stateless HTTP API of the execution service",
    version: env!("CARGO_PKG_VERSION"),
    commit: env!("COMMIT"),
    groups: &[
        HTTP_SETTINGS,
        ACCESS_SETTINGS,
        CALL_SETTINGS,
        QUEUE_SETTINGS,
        PROCESS_SETTINGS,
        TRACE_SETTINGS,
    ],
    others: &WORKER_VARIABLES,
};

/// The api's configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// `REDIS_URL`, `REDIS_PREFIX`.
    pub redis: RedisConfig,
    /// `AUTH`, `ADMIN_KEY_FILE`.
    pub access: AccessConfig,
    /// `EXECUTION_API_HOST`.
    pub host: String,
    /// `EXECUTION_API_PORT`.
    pub port: u16,
    /// `EXECUTION_API_METRICS_HOST`.
    pub metrics_host: String,
    /// `EXECUTION_API_METRICS_PORT`.
    pub metrics_port: Option<u16>,
    /// `METRICS_BY_TENANT`.
    pub metrics_by_tenant: bool,
    /// `EXECUTION_ENGINE`.
    pub engine: EngineKind,
    /// `EXECUTE_BODY_LIMIT_BYTES`.
    pub execute_body_limit: usize,
    /// `LOAD_BODY_LIMIT_BYTES`.
    pub load_body_limit: usize,
    /// `HEADERS_TIMEOUT_MS`.
    pub headers_timeout: Duration,
    /// `CORS_ORIGINS`.
    pub cors_origins: Origins,
    /// `BODY_TIMEOUT_MS`.
    pub body_timeout: Duration,
    /// `MAX_CONNECTIONS`.
    pub max_connections: usize,
    /// `MAX_BODY_BYTES_IN_FLIGHT`: of calls and unloads.
    pub call_bytes: usize,
    /// `MAX_BODY_BYTES_IN_FLIGHT`: of loads.
    pub load_bytes: usize,
    /// `EXECUTE_DEADLINE_MS`.
    pub execute_deadline: Duration,
    /// `LOAD_DEADLINE_MS`.
    pub load_deadline: Duration,
    /// `MAX_IN_FLIGHT`.
    pub max_in_flight: usize,
    /// `MAX_IN_FLIGHT_PER_CONTRACT`.
    pub max_in_flight_per_contract: usize,
    /// `MAX_LOADS_IN_FLIGHT`.
    pub max_loads_in_flight: usize,
    /// `EXECUTABLES_LIMIT_BYTES`.
    pub executables_limit: u64,
    /// `REAP_GRACE_MS`, `QUARANTINE_MS`.
    pub reaper: ReaperConfig,
    /// `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub traces: TraceConfig,
    /// `SHUTDOWN_GRACE_MS`.
    pub shutdown_grace: Duration,
}

impl Config {
    /// Reads the settings.
    pub fn read(reader: &mut Reader) -> Self {
        let host = reader.string(&HOST);
        let execute_body_limit = reader.number(&EXECUTE_BODY_LIMIT_BYTES, 1..=256 * MIB);
        let load_body_limit = reader.number(&LOAD_BODY_LIMIT_BYTES, 1..=512 * MIB);
        let in_flight = body_bytes(reader, execute_body_limit.max(load_body_limit));
        let call_bytes = in_flight / 3;
        Self {
            execute_body_limit,
            load_body_limit,
            call_bytes,
            load_bytes: in_flight - call_bytes,
            max_connections: reader.number(&MAX_CONNECTIONS, 16..=1_000_000),
            max_loads_in_flight: reader.number(&MAX_LOADS_IN_FLIGHT, 1..=1_000_000),
            executables_limit: reader.number(&EXECUTABLES_LIMIT_BYTES, 1_024..=1 << 40),
            access: AccessConfig::read(reader, &host),
            host,
            port: reader.parse(&PORT),
            metrics_host: reader.string(&METRICS_HOST),
            metrics_by_tenant: reader.parse(&METRICS_BY_TENANT),
            metrics_port: reader.parse_optional(&METRICS_PORT),
            headers_timeout: reader.millis(&HEADERS_TIMEOUT_MS, 100..=3_600_000),
            cors_origins: reader.parse_optional(&CORS_ORIGINS).unwrap_or_default(),
            body_timeout: reader.millis(&BODY_TIMEOUT_MS, 100..=600_000),
            engine: reader.parse(&ENGINE),
            execute_deadline: reader.millis(&EXECUTE_DEADLINE_MS, 100..=600_000),
            load_deadline: reader.millis(&LOAD_DEADLINE_MS, 1_000..=millis(LONGEST_LOAD_DEADLINE)),
            max_in_flight: reader.number(&MAX_IN_FLIGHT, 1..=1_000_000),
            max_in_flight_per_contract: reader.number(&MAX_IN_FLIGHT_PER_CONTRACT, 1..=1_000_000),
            redis: RedisConfig::read(reader),
            reaper: ReaperConfig::read(reader),
            shutdown_grace: shutdown_grace(reader),
            traces: TraceConfig::read(reader),
        }
    }
}

/// The bytes of bodies in flight. One body of the `largest` size always fits into the part of its
/// kind, and into that of loads two, so that small loads pass a large one.
fn body_bytes(reader: &mut Reader, largest: usize) -> usize {
    let least = 3 * largest;
    let default = least.max(192 * MIB);
    reader.number_or(&MAX_BODY_BYTES_IN_FLIGHT, default, least..=64 * 1024 * MIB)
}

#[cfg(test)]
mod tests {
    use shared::service::config::Env;

    use super::*;

    #[test]
    fn settings_of_the_original_service_are_understood() {
        let mut reader = Reader::new(Env::table(|name| match name {
            "EXECUTION_ENGINE" => Some("nodejs".to_owned()),
            "EXECUTION_API_PORT" => Some("8080".to_owned()),
            _ => None,
        }));
        let config = Config::read(&mut reader);
        assert_eq!((config.engine, config.port), (EngineKind::Javascript, 8080));
        assert_eq!(reader.finish(), Ok(()));
    }

    /// A longer one could outlive the generation that an unload leaves.
    #[test]
    fn a_load_deadline_beyond_the_memory_of_unloads_is_refused() {
        let longest = |name: &str| (name == "LOAD_DEADLINE_MS").then(|| "3600000".to_owned());
        let too_long = |name: &str| (name == "LOAD_DEADLINE_MS").then(|| "3600001".to_owned());
        let is_accepted = |env| {
            let mut reader = Reader::new(env);
            Config::read(&mut reader);
            reader.finish().is_ok()
        };
        assert!(is_accepted(Env::table(longest)));
        assert!(!is_accepted(Env::table(too_long)));
    }

    #[test]
    fn the_bytes_of_bodies_follow_the_largest_body() {
        let mut reader = Reader::new(Env::table(|name| {
            (name == "LOAD_BODY_LIMIT_BYTES").then(|| "268435456".to_owned())
        }));
        let config = Config::read(&mut reader);
        assert_eq!(config.call_bytes, 256 * MIB);
        assert_eq!(config.load_bytes, 512 * MIB);
        let mut reader = Reader::new(Env::table(|name| {
            (name == "MAX_BODY_BYTES_IN_FLIGHT").then(|| "1000".to_owned())
        }));
        Config::read(&mut reader);
        let error = reader.finish().unwrap_err().to_string();
        let begin = "MAX_BODY_BYTES_IN_FLIGHT=1000: must be 201326592 to";
        assert!(error.starts_with(begin), "{error}");
    }

    #[test]
    fn an_unknown_engine_is_named_in_the_error() {
        let mut reader = Reader::new(Env::table(|name| {
            (name == "EXECUTION_ENGINE").then(|| "python".to_owned())
        }));
        Config::read(&mut reader);
        assert_eq!(
            reader.finish().unwrap_err().to_string(),
            "EXECUTION_ENGINE=python: must be javascript or docker"
        );
    }
}
