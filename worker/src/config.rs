//! What an operator can set, by environment variables; checked before anything starts.

use std::path::PathBuf;
use std::time::Duration;

use shared::protocol::job::EngineKind;
use shared::queue::reaper::ReaperConfig;
use shared::service::config::{ConfigError, Env, RedisConfig};
use shared::service::telemetry::traces::TraceConfig;

use crate::chromium::{self, ChromiumConfig, Layers};
use crate::docker::DockerConfig;
use crate::sandbox::CallLimits;

const MIB: u32 = 1024 * 1024;

/// The worker's configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// `REDIS_URL`, `REDIS_PREFIX`.
    pub redis: RedisConfig,
    /// `EXECUTION_WORKER_HOST`: where an operator can ask, by default 127.0.0.1.
    pub host: String,
    /// `EXECUTION_WORKER_PORT`: 0 takes a free one; nobody can ask when it is not set, which is the
    /// default, so that several workers need no ports of their own.
    pub port: Option<u16>,
    /// `METRICS_BY_CONTRACT`: whether metrics tell contracts apart, by default not.
    pub metrics_by_contract: bool,
    /// `WORKER_CAPACITY`: contracts hosted at once, by default 64. A JavaScript contract takes
    /// about 13 MB.
    pub capacity: usize,
    /// `CONTRACT_QUEUE_LIMIT`: calls of one contract that may wait, by default 4096.
    pub queue_limit: usize,
    /// `SHUTDOWN_GRACE_MS`: how long calls under way may take to finish after SIGTERM, by default
    /// 20 s.
    pub shutdown_grace: Duration,
    /// `REAP_GRACE_MS`, `QUARANTINE_MS`.
    pub reaper: ReaperConfig,
    /// `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub traces: TraceConfig,
    /// The JavaScript sandbox, if `WORKER_ENGINES` (by default `javascript,docker`) names it.
    pub chromium: Option<ChromiumConfig>,
    /// The sandbox of images, if `WORKER_ENGINES` names it. It is left out where no daemon can be
    /// reached, unless it is the only one.
    pub docker: Option<DockerConfig>,
}

impl Config {
    /// Reads the variables.
    pub fn from_env(env: Env) -> Result<Self, ConfigError> {
        let engines = engines(env)?;
        let calls = CallLimits {
            time: env.millis("EXECUTE_TIMEOUT_MS", 2000, 10..=600_000)?,
            result: env.number("RESULT_LIMIT_BYTES", MIB, 4..=64 * MIB)?,
        };
        let offered = |engine| engines.contains(&engine);
        Ok(Self {
            redis: RedisConfig::from_env(env)?,
            host: env
                .text("EXECUTION_WORKER_HOST")
                .unwrap_or_else(|| "127.0.0.1".to_owned()),
            port: env
                .text("EXECUTION_WORKER_PORT")
                .map(|_| env.parse("EXECUTION_WORKER_PORT", 0))
                .transpose()?,
            metrics_by_contract: env.parse("METRICS_BY_CONTRACT", false)?,
            capacity: env.number("WORKER_CAPACITY", 64, 1..=10_000)?,
            queue_limit: env.number("CONTRACT_QUEUE_LIMIT", 4096, 1..=1_000_000)?,
            shutdown_grace: env.millis("SHUTDOWN_GRACE_MS", 20_000, 0..=3_600_000)?,
            reaper: ReaperConfig::from_env(env)?,
            traces: TraceConfig::from_env(env)?,
            chromium: offered(EngineKind::Javascript)
                .then(|| chromium_config(env, calls))
                .transpose()?,
            docker: offered(EngineKind::Docker)
                .then(|| DockerConfig::from_env(env, calls))
                .transpose()?,
        })
    }
}

fn engines(env: Env) -> Result<Vec<EngineKind>, ConfigError> {
    const NAME: &str = "WORKER_ENGINES";
    let Some(text) = env.text(NAME) else {
        return Ok(EngineKind::ALL.to_vec());
    };
    let mut engines = Vec::new();
    for name in text.split(',') {
        let engine = name.trim().parse();
        let engine = engine.map_err(|reason: String| ConfigError::new(NAME, &text, reason))?;
        if !engines.contains(&engine) {
            engines.push(engine);
        }
    }
    Ok(engines)
}

/// `CHROMIUM_PATH` (by default found), `CHROMIUM_USER` (`nobody`, only used by root),
/// `CHROMIUM_PROCESSES` (one for every four cores, at most 4), `CHROMIUM_SPARE_PAGES` (1),
/// `LOAD_TIMEOUT_MS` (5000); per contract `CHROMIUM_HEAP_MB` (128),
/// `CHROMIUM_CONTRACT_MB` (512, outside the heap) and `IDLE_CPU_MS` (500); per browser
/// `CHROMIUM_BROWSER_MB` (1024, its own process) and `CHROMIUM_CGROUP_MB` (4096, all of it; 0 is none).
fn chromium_config(env: Env, calls: CallLimits) -> Result<ChromiumConfig, ConfigError> {
    let executable = env.text("CHROMIUM_PATH").map(PathBuf::from);
    let path = || env.text("CHROMIUM_PATH").unwrap_or_default();
    chromium::find(executable.as_deref())
        .map_err(|error| ConfigError::new("CHROMIUM_PATH", path(), error))?;
    let user = env
        .text("CHROMIUM_USER")
        .unwrap_or_else(|| "nobody".to_owned());
    chromium::check_user(&user)
        .map_err(|error| ConfigError::new("CHROMIUM_USER", user.clone(), error))?;
    Ok(ChromiumConfig {
        executable,
        user,
        browsers: env.number("CHROMIUM_PROCESSES", processes(), 1..=64)?,
        spare_pages: env.number("CHROMIUM_SPARE_PAGES", 1, 0..=64)?,
        heap_mb: env.number("CHROMIUM_HEAP_MB", 128, 16..=4096)?,
        call_limit: calls.time,
        load_limit: env.millis("LOAD_TIMEOUT_MS", 5000, 100..=600_000)?,
        result_limit: calls.result,
        contract_mb: env.number("CHROMIUM_CONTRACT_MB", 512, 16..=65_536)?,
        browser_mb: env.number("CHROMIUM_BROWSER_MB", 1024, 128..=65_536)?,
        cgroup_mb: env.number("CHROMIUM_CGROUP_MB", 4096, 0..=1_048_576)?,
        idle_cpu: env.millis("IDLE_CPU_MS", 500, 10..=600_000)?,
        layers: Layers::from_env(env)?,
        ..ChromiumConfig::default()
    })
}

/// How many browsers share the contracts: more of them lose fewer pages at once, and each one has
/// a thread of its own for all the messages of its pages.
fn processes() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    cores.div_ceil(4).min(4)
}
