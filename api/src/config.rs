//! What an operator can set, by environment variables; checked before anything starts.

use std::time::Duration;

use shared::protocol::job::EngineKind;
use shared::queue::reaper::ReaperConfig;
use shared::service::config::{ConfigError, Env, RedisConfig};
use shared::service::telemetry::traces::TraceConfig;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// The api's configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// `REDIS_URL`, `REDIS_PREFIX`.
    pub redis: RedisConfig,
    /// `EXECUTION_API_HOST`: the address to listen on, by default 127.0.0.1.
    pub host: String,
    /// `EXECUTION_API_PORT`: by default 9000, as the original service's; 0 takes a free one.
    pub port: u16,
    /// `EXECUTION_ENGINE`: the engine of a load that names none, by default javascript.
    pub engine: EngineKind,
    /// `EXECUTE_BODY_LIMIT_BYTES`: the largest argument, by default 1 MiB.
    pub execute_body_limit: usize,
    /// `LOAD_BODY_LIMIT_BYTES`: the largest load request, by default 64 MiB.
    pub load_body_limit: usize,
    /// `HEADERS_TIMEOUT_MS`: how long a connection may take to bring the whole head of a request,
    /// idle time before it included, by default 60 s, as in Node.js, the original service's server.
    pub headers_timeout: Duration,
    /// `BODY_TIMEOUT_MS`: how long a request's body may take to arrive, by default 30 s.
    pub body_timeout: Duration,
    /// `EXECUTE_DEADLINE_MS`: from a call's acceptance to its answer, waiting included, by
    /// default 10 s.
    pub execute_deadline: Duration,
    /// `LOAD_DEADLINE_MS`: the same for loads and unloads, by default 30 s.
    pub load_deadline: Duration,
    /// `MAX_IN_FLIGHT`: loads, calls and unloads under way at once, by default 4096.
    pub max_in_flight: usize,
    /// `MAX_IN_FLIGHT_PER_CONTRACT`: calls of one contract under way at once, by default 1024.
    pub max_in_flight_per_contract: usize,
    /// `REAP_GRACE_MS`, `QUARANTINE_MS`.
    pub reaper: ReaperConfig,
    /// `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub traces: TraceConfig,
    /// `SHUTDOWN_GRACE_MS`: how long requests under way may take to finish after SIGTERM, by
    /// default 20 s.
    pub shutdown_grace: Duration,
}

impl Config {
    /// Reads the variables.
    pub fn from_env(env: Env) -> Result<Self, ConfigError> {
        Ok(Self {
            redis: RedisConfig::from_env(env)?,
            host: env
                .text("EXECUTION_API_HOST")
                .unwrap_or_else(|| "127.0.0.1".to_owned()),
            port: env.parse("EXECUTION_API_PORT", 9000)?,
            engine: env.parse("EXECUTION_ENGINE", EngineKind::Javascript)?,
            execute_body_limit: env.number("EXECUTE_BODY_LIMIT_BYTES", MIB, 1..=256 * MIB)?,
            load_body_limit: env.number("LOAD_BODY_LIMIT_BYTES", 64 * MIB, 1..=512 * MIB)?,
            headers_timeout: env.millis("HEADERS_TIMEOUT_MS", 60_000, 100..=3_600_000)?,
            body_timeout: env.millis("BODY_TIMEOUT_MS", 30_000, 100..=600_000)?,
            execute_deadline: env.millis("EXECUTE_DEADLINE_MS", 10_000, 100..=600_000)?,
            load_deadline: env.millis("LOAD_DEADLINE_MS", 30_000, 1_000..=3_600_000)?,
            max_in_flight: env.number("MAX_IN_FLIGHT", 4096, 1..=1_000_000)?,
            max_in_flight_per_contract: env.number(
                "MAX_IN_FLIGHT_PER_CONTRACT",
                1024,
                1..=1_000_000,
            )?,
            reaper: ReaperConfig::from_env(env)?,
            traces: TraceConfig::from_env(env)?,
            shutdown_grace: env.millis("SHUTDOWN_GRACE_MS", 20_000, 0..=3_600_000)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_original_services_settings_are_understood() {
        let env = Env::table(|name| match name {
            "EXECUTION_ENGINE" => Some("nodejs".to_owned()),
            "EXECUTION_API_PORT" => Some("8080".to_owned()),
            _ => None,
        });
        let config = Config::from_env(env).unwrap();
        assert_eq!((config.engine, config.port), (EngineKind::Javascript, 8080));
    }

    #[test]
    fn an_unknown_engine_is_refused_by_name() {
        let env = Env::table(|name| (name == "EXECUTION_ENGINE").then(|| "python".to_owned()));
        let error = Config::from_env(env).unwrap_err().to_string();
        assert_eq!(
            error,
            "EXECUTION_ENGINE=python: must be javascript or docker"
        );
    }
}
