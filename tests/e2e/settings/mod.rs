//! A program that cannot work reports why and ends at once. Every setting is documented, and the
//! compose files pass it to the programs.

mod documented;

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::support::process::Process;
use crate::support::programs;
use crate::support::redis_server::RedisServer;
use crate::support::wait::DEFAULT_LIMIT;
use documented::{declared_in, variables};

/// Starts a program that must end with an error, and returns its output.
async fn refuses(mut command: Command, env: &[(&str, &str)], folder: &Path) -> String {
    command.env("TMPDIR", folder).envs(env.iter().copied());
    let mut process = Process::start("refuses", command, folder);
    let status = process.end(DEFAULT_LIMIT).await;
    let log = process.log();
    assert!(
        status.code().is_some_and(|code| code != 0),
        "{env:?}: {status}: {log}"
    );
    assert!(!log.contains("panicked"), "{env:?}: {log}");
    log
}

/// Invalid values of settings of both programs.
const WRONG_FOR_BOTH: [(&str, &str); 10] = [
    ("REDIS_URL", "nonsense"),
    ("REDIS_URL", "http://127.0.0.1:6379"),
    ("REDIS_PREFIX", "a*"),
    ("SHUTDOWN_GRACE_MS", "-1"),
    ("REAP_GRACE_MS", "never"),
    ("QUARANTINE_MS", "1"),
    ("SCHEDULING", "realtime"),
    ("RUST_LOG", "info,=loud"),
    ("LOG_FORMAT", "xml"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://collector"),
];

/// Invalid values of settings of the api.
const WRONG_FOR_API: [(&str, &str); 17] = [
    ("METRICS_BY_TENANT", "some"),
    ("AUTH", "keys,none"),
    ("AUTH", "on"),
    ("CORS_ORIGINS", "*"),
    ("CORS_ORIGINS", "https://a.example/path"),
    ("EXECUTION_API_PORT", "80a"),
    ("EXECUTION_API_PORT", "65536"),
    ("EXECUTION_API_HOST", "not a host"),
    ("EXECUTION_ENGINE", "perl"),
    ("EXECUTE_BODY_LIMIT_BYTES", "1M"),
    ("LOAD_BODY_LIMIT_BYTES", "-5"),
    ("EXECUTE_DEADLINE_MS", "soon"),
    ("LOAD_DEADLINE_MS", "0x10"),
    ("HEADERS_TIMEOUT_MS", "1m"),
    ("BODY_TIMEOUT_MS", "0"),
    ("MAX_IN_FLIGHT", "0"),
    ("MAX_IN_FLIGHT_PER_CONTRACT", "none"),
];

/// Invalid values of settings of the worker.
const WRONG_FOR_WORKER: [(&str, &str); 34] = [
    ("WORKER_CAPACITY", "many"),
    ("EXECUTION_WORKER_PORT", "9o"),
    ("METRICS_BY_CONTRACT", "some"),
    ("CONTRACT_QUEUE_LIMIT", "0"),
    ("EXECUTE_TIMEOUT_MS", "2s"),
    ("RESULT_LIMIT_BYTES", "1.5"),
    ("CHROMIUM_PROCESSES", "0"),
    ("CHROMIUM_SPARE_PAGES", "-1"),
    ("CHROMIUM_HEAP_MB", "all"),
    ("CHROMIUM_CONTRACT_MB", "1"),
    ("CHROMIUM_BROWSER_MB", "1"),
    ("CHROMIUM_CGROUP_MB", "-1"),
    ("IDLE_CPU_MS", "0"),
    ("LOAD_TIMEOUT_MS", "1"),
    ("WORKER_ENGINES", "javascript,python"),
    ("CONTAINER_LOAD_TIMEOUT_MS", "25s"),
    ("CONTAINER_PROBE_TIMEOUT_MS", "1"),
    ("CONTAINER_STOP_GRACE_SECONDS", "-1"),
    ("CONTAINER_CONCURRENCY", "0"),
    ("CONTAINER_TAR_LIMIT_BYTES", "0"),
    ("CONTAINER_SUBNETS", "10.0.0.0"),
    ("CONTAINER_ALLOW_EGRESS", "perhaps"),
    ("CONTAINER_MAX_DEATHS", "0"),
    ("CONTAINER_SWEEP_MS", "1"),
    ("CONTAINER_MEMORY_MB", "1"),
    ("CONTAINER_CPUS", "0"),
    ("CONTAINER_PIDS", "1"),
    ("CONTAINER_FILES", "1"),
    ("CONTAINER_TMP_MB", "0"),
    ("CONTAINER_SHM_MB", "0"),
    ("CONTAINER_LOG_KB", "0"),
    ("CONTAINER_READONLY", "mostly"),
    ("CONTAINER_INIT", "mostly"),
    ("CONTAINER_NEW_PRIVILEGES", "some"),
];

#[tokio::test]
async fn a_wrong_variable_is_named() {
    let folder = TempDir::new().unwrap();
    // No Redis listens there: a program that connected first would not name the variable.
    let nowhere = format!("redis://127.0.0.1:{}", programs::free_port());
    let for_api = WRONG_FOR_BOTH
        .iter()
        .chain(&WRONG_FOR_API)
        .map(|setting| (programs::api(), setting));
    let for_worker = WRONG_FOR_BOTH
        .iter()
        .chain(&WRONG_FOR_WORKER)
        .map(|setting| (programs::worker(), setting));
    for (command, (name, value)) in for_api.chain(for_worker) {
        let log = refuses(
            command,
            &[("REDIS_URL", &nowhere), (name, value)],
            folder.path(),
        )
        .await;
        assert!(log.contains(name), "{name}={value}: {log}");
    }
}

#[tokio::test]
async fn a_browser_that_cannot_be_started_is_named() {
    let folder = TempDir::new().unwrap();
    let mut redis = RedisServer::start(folder.path()).await;
    for (name, value) in [
        ("CHROMIUM_PATH", "/no/such/browser"),
        ("CHROMIUM_UIDS", "0-9"),
    ] {
        let env = [("REDIS_URL", redis.url()), (name, value.to_owned())];
        let env = env.each_ref().map(|(name, value)| (*name, value.as_str()));
        let log = refuses(programs::worker(), &env, folder.path()).await;
        assert!(log.contains(name), "{name}={value}: {log}");
        assert_eq!(redis.workers("exec:").await, Vec::<String>::new());
    }
    redis.process().terminate().await;
}

#[tokio::test]
async fn a_redis_that_cannot_be_reached_is_named() {
    let folder = TempDir::new().unwrap();
    let nowhere = format!("redis://127.0.0.1:{}", programs::free_port());
    for command in [programs::api(), programs::worker()] {
        let env = [("REDIS_URL", nowhere.as_str()), ("EXECUTION_API_PORT", "0")];
        let log = refuses(command, &env, folder.path()).await;
        assert!(log.contains("Redis"), "{log}");
    }
}

#[tokio::test]
async fn a_redis_that_would_evict_calls_is_refused() {
    let folder = TempDir::new().unwrap();
    let port = programs::free_port();
    let mut redis = RedisServer::start_on(port, "allkeys-lru", folder.path()).await;
    let url = redis.url();
    for command in [programs::api(), programs::worker()] {
        let env = [("REDIS_URL", url.as_str()), ("EXECUTION_API_PORT", "0")];
        let log = refuses(command, &env, folder.path()).await;
        assert!(log.contains("noeviction"), "{log}");
    }
    redis.process().terminate().await;
}

#[tokio::test]
async fn a_port_that_is_taken_is_named() {
    let folder = TempDir::new().unwrap();
    let mut redis = RedisServer::start(folder.path()).await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let env = [
        ("REDIS_URL", redis.url()),
        ("EXECUTION_API_PORT", port.clone()),
    ];
    let env = env.each_ref().map(|(name, value)| (*name, value.as_str()));
    let log = refuses(programs::api(), &env, folder.path()).await;
    assert!(log.contains(&port), "{log}");
    redis.process().terminate().await;
}

#[tokio::test]
async fn all_wrong_variables_are_named_at_once() {
    let folder = TempDir::new().unwrap();
    let wrong = [
        ("SHUTDOWN_GRACE_MS", "-1"),
        ("LOG_FORMAT", "xml"),
        ("QUARANTINE_MS", "1"),
    ];
    for command in [programs::api(), programs::worker()] {
        let log = refuses(command, &wrong, folder.path()).await;
        for (name, value) in wrong {
            assert!(log.contains(&format!("{name}={value}: ")), "{log}");
        }
    }
}

#[tokio::test]
async fn the_log_starts_with_version_commit_and_settings_but_without_secrets() {
    let folder = TempDir::new().unwrap();
    let nowhere = format!("redis://me:planted@127.0.0.1:{}", programs::free_port());
    for command in [programs::api(), programs::worker()] {
        let env = [
            ("REDIS_URL", nowhere.as_str()),
            ("REGISTRY_PASSWORD", "planted"),
            ("LOG_FORMAT", "json"),
            ("EXECUTION_API_PORT", "0"),
            ("QUARANTINE_SM", "1"),
        ];
        let log = refuses(command, &env, folder.path()).await;
        assert!(!log.contains("planted"), "{log}");
        let lines: Vec<serde_json::Value> = log
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect();
        let start = &lines[0];
        assert_eq!(start["message"], "starting", "{log}");
        assert_eq!(start["version"], env!("CARGO_PKG_VERSION"), "{log}");
        assert!(
            start["commit"]
                .as_str()
                .is_some_and(|commit| commit.len() > 6),
            "{log}"
        );
        let settings = start["settings"].as_str().expect("settings are a text");
        assert!(settings.contains("LOG_FORMAT=json"), "{log}");
        assert!(settings.contains("QUARANTINE_MS=600000"), "{log}");
        let warnings: Vec<_> = lines
            .iter()
            .filter(|line| line["level"] == "WARN")
            .collect();
        let [warning] = warnings.as_slice() else {
            panic!("expected one warning: only QUARANTINE_SM is unknown: {log}");
        };
        assert_eq!(warning["variable"], "QUARANTINE_SM", "{log}");
        assert_eq!(warning["nearest"], "QUARANTINE_MS", "{log}");
    }
}

#[tokio::test]
async fn help_lists_every_setting_and_version_names_the_commit() {
    for (program, source) in [
        (programs::api as fn() -> _, "api/src"),
        (programs::worker, "worker/src"),
    ] {
        let output = |argument: &str| {
            let output = program()
                .arg(argument)
                .output()
                .expect("the program is built");
            assert!(output.status.success(), "{output:?}");
            String::from_utf8(output.stdout).expect("the output is text")
        };
        let documented = variables(&output("--help"));
        let mut declared_names = declared_in(source);
        declared_names.extend(declared_in("shared/src"));
        let undocumented: Vec<_> = declared_names.difference(&documented).collect();
        assert!(undocumented.is_empty(), "{source}: {undocumented:?}");
        let version = output("--version");
        assert!(
            version.contains(concat!(env!("CARGO_PKG_VERSION"), " (")),
            "{version}"
        );
    }
}
