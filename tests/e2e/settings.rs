//! A program that cannot work says why, and ends at once.

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::support::process::Process;
use crate::support::programs;
use crate::support::redis_server::RedisServer;
use crate::support::wait::PATIENCE;

/// Starts a program that must end with an error, and gives what it printed.
async fn refuses(mut command: Command, env: &[(&str, &str)], folder: &Path) -> String {
    command.env("TMPDIR", folder).envs(env.iter().copied());
    let mut process = Process::start("refuses", command, folder);
    let status = process.end(PATIENCE).await;
    let log = process.log();
    assert!(
        status.code().is_some_and(|code| code != 0),
        "{env:?}: {status}: {log}"
    );
    assert!(!log.contains("panicked"), "{env:?}: {log}");
    log
}

#[tokio::test]
async fn a_wrong_variable_is_named() {
    let folder = TempDir::new().unwrap();
    // Nobody listens there: a program that tried to connect first would not name the variable.
    let nowhere = format!("redis://127.0.0.1:{}", programs::free_port());
    let both = [
        ("REDIS_URL", "nonsense"),
        ("REDIS_URL", "http://127.0.0.1:6379"),
        ("REDIS_PREFIX", "a*"),
        ("SHUTDOWN_GRACE_MS", "-1"),
        ("LOG_FORMAT", "xml"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://collector"),
    ];
    let api = [
        ("EXECUTION_API_PORT", "80a"),
        ("EXECUTION_API_PORT", "65536"),
        ("EXECUTION_API_HOST", "not a host"),
        ("EXECUTION_ENGINE", "perl"),
        ("EXECUTE_BODY_LIMIT_BYTES", "1M"),
        ("LOAD_BODY_LIMIT_BYTES", "-5"),
        ("EXECUTE_DEADLINE_MS", "soon"),
        ("LOAD_DEADLINE_MS", "0x10"),
        ("MAX_IN_FLIGHT", "0"),
    ];
    let worker = [
        ("WORKER_CAPACITY", "many"),
        ("EXECUTION_WORKER_PORT", "9o"),
        ("METRICS_BY_CONTRACT", "some"),
        ("CONTRACT_QUEUE_LIMIT", "0"),
        ("EXECUTE_TIMEOUT_MS", "2s"),
        ("RESULT_LIMIT_BYTES", "1.5"),
        ("CHROMIUM_PROCESSES", "0"),
        ("CHROMIUM_HEAP_MB", "all"),
    ];
    let for_api = both
        .iter()
        .chain(&api)
        .map(|setting| (programs::api(), setting));
    let for_worker = both
        .iter()
        .chain(&worker)
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
        ("CHROMIUM_USER", "no-such-user"),
    ] {
        let env = [("REDIS_URL", redis.url()), (name, value.to_owned())];
        let env = env.each_ref().map(|(name, value)| (*name, value.as_str()));
        let log = refuses(programs::worker(), &env, folder.path()).await;
        assert!(log.contains(name), "{name}={value}: {log}");
        assert_eq!(redis.workers("exec:").await, Vec::<String>::new());
    }
    redis.process.terminate().await;
}

#[tokio::test]
async fn a_redis_that_is_not_there_is_named() {
    let folder = TempDir::new().unwrap();
    let nowhere = format!("redis://127.0.0.1:{}", programs::free_port());
    for command in [programs::api(), programs::worker()] {
        let env = [("REDIS_URL", nowhere.as_str()), ("EXECUTION_API_PORT", "0")];
        let log = refuses(command, &env, folder.path()).await;
        assert!(log.contains("Redis"), "{log}");
    }
}

#[tokio::test]
async fn a_redis_that_would_throw_calls_away_is_refused() {
    let folder = TempDir::new().unwrap();
    let port = programs::free_port();
    let mut redis = RedisServer::start_on(port, "allkeys-lru", folder.path()).await;
    let url = redis.url();
    for command in [programs::api(), programs::worker()] {
        let env = [("REDIS_URL", url.as_str()), ("EXECUTION_API_PORT", "0")];
        let log = refuses(command, &env, folder.path()).await;
        assert!(log.contains("noeviction"), "{log}");
    }
    redis.process.terminate().await;
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
    redis.process.terminate().await;
}
