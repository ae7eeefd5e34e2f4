//! A program that cannot work says why, and ends at once. And what an operator can set is told, and
//! reaches the programs through the compose files.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
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

/// What neither program can work with.
const WRONG_FOR_BOTH: [(&str, &str); 9] = [
    ("REDIS_URL", "nonsense"),
    ("REDIS_URL", "http://127.0.0.1:6379"),
    ("REDIS_PREFIX", "a*"),
    ("SHUTDOWN_GRACE_MS", "-1"),
    ("REAP_GRACE_MS", "never"),
    ("QUARANTINE_MS", "1"),
    ("RUST_LOG", "info,=loud"),
    ("LOG_FORMAT", "xml"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://collector"),
];

/// What an api cannot work with.
const WRONG_FOR_API: [(&str, &str); 12] = [
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

/// What a worker cannot work with.
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
    // Nobody listens there: a program that tried to connect first would not name the variable.
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
            panic!("one variable is unknown, the other program's are not: {log}");
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
        let told = variables(&output("--help"));
        let mut asked = asked_for(source);
        asked.extend(asked_for("shared/src"));
        let untold: Vec<_> = asked.difference(&told).collect();
        assert!(untold.is_empty(), "{source}: {untold:?}");
        let version = output("--version");
        assert!(
            version.contains(concat!(env!("CARGO_PKG_VERSION"), " (")),
            "{version}"
        );
    }
}

/// What the SDK of traces reads by itself.
const OF_THE_SDK: [&str; 6] = [
    "OTEL_TRACES_SAMPLER",
    "OTEL_TRACES_SAMPLER_ARG",
    "OTEL_RESOURCE_ATTRIBUTES",
    "OTEL_BSP_SCHEDULE_DELAY",
    "OTEL_BSP_MAX_QUEUE_SIZE",
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
];

/// What a service of the compose files does not pass on, by the beginning of its name, and why.
const NOT_PASSED: [(&str, &str, &str); 13] = [
    (
        "api",
        "EXECUTION_API_",
        "the image listens where the port is published from",
    ),
    (
        "api",
        "OTEL_SERVICE_NAME",
        "one name for all programs would be wrong",
    ),
    ("worker", "OTEL_SERVICE_NAME", "as for the api"),
    ("worker", "CHROMIUM_PATH", "the image has one browser"),
    ("worker", "CHROMIUM_USER", "the worker is not root"),
    ("worker", "CONTAINER_", "it offers no Docker contracts"),
    ("worker", "REGISTRY_", "it offers no Docker contracts"),
    ("worker", "DOCKER_HOST", "it offers no Docker contracts"),
    ("worker-docker", "OTEL_SERVICE_NAME", "as for the api"),
    ("worker-docker", "CHROMIUM_", "it offers no JavaScript"),
    (
        "worker-docker",
        "DOCKER_HOST",
        "the socket is mounted at its usual place",
    ),
    (
        "worker-docker",
        "LOAD_TIMEOUT_MS",
        "it offers no JavaScript",
    ),
    ("worker-docker", "IDLE_CPU_MS", "it offers no JavaScript"),
];

#[test]
fn every_variable_is_told() {
    let told: BTreeSet<_> = ["README.md", "docs/docker.md"]
        .iter()
        .flat_map(|file| variables(&read(file)))
        .collect();
    let asked: BTreeSet<_> = ["api/src", "worker/src", "shared/src"]
        .iter()
        .flat_map(|folder| asked_for(folder))
        .collect();
    assert!(asked.len() > 50, "{asked:?}");
    let untold: Vec<_> = asked.difference(&told).collect();
    assert!(untold.is_empty(), "in neither document: {untold:?}");
}

#[test]
fn every_variable_reaches_the_containers() {
    for (service, file, folder) in [
        ("api", "docker-compose.yml", "api/src"),
        ("worker", "docker-compose.yml", "worker/src"),
        ("worker-docker", "docker-compose.docker.yml", "worker/src"),
    ] {
        let passed = passed(&read(file), service);
        let mut asked = asked_for(folder);
        asked.extend(asked_for("shared/src"));
        asked.extend(OF_THE_SDK.map(str::to_owned));
        let excused = |name: &str| {
            NOT_PASSED
                .iter()
                .any(|(whose, start, _)| *whose == service && name.starts_with(start))
        };
        for name in asked {
            // An excuse for what is passed on would be a lie.
            assert_ne!(passed.contains(&name), excused(&name), "{service}: {name}");
        }
    }
}

#[test]
fn every_line_of_the_example_has_an_effect() {
    let files = ["docker-compose.yml", "docker-compose.docker.yml"].map(read);
    let known: BTreeSet<_> = files.iter().flat_map(|text| variables(text)).collect();
    let example = read(".env.example");
    let settings: Vec<_> = example
        .lines()
        .filter_map(|line| line.strip_prefix('#')?.split_once('='))
        .map(|(name, _)| name.to_owned())
        .collect();
    assert!(settings.len() > 10, "{settings:?}");
    let useless: Vec<_> = settings
        .iter()
        .filter(|&name| !known.contains(name))
        .collect();
    assert!(useless.is_empty(), "{useless:?}");
}

/// A file of the repository.
fn read(file: &str) -> String {
    let path = root().join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The settings that the sources in a folder, and below it, declare.
fn asked_for(folder: &str) -> BTreeSet<String> {
    let mut folders = vec![root().join(folder)];
    let mut asked = BTreeSet::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("the folder is there") {
            let path = entry.expect("a folder can be read").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).expect("a source is text");
                asked.extend(declared(&text).map(str::to_owned));
            }
        }
    }
    asked
}

/// The names of the settings that a source declares outside its tests.
fn declared(source: &str) -> impl Iterator<Item = &str> {
    let source = source.split("#[cfg(test)]").next().unwrap_or_default();
    let declarations = source.split("Setting::").skip(1);
    let names = declarations.filter_map(|text| text.split('"').nth(1));
    names.filter(|name| is_variable(name))
}

/// Everything in a text that looks like a variable.
fn variables(text: &str) -> BTreeSet<String> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .filter(|word| is_variable(word))
        .map(str::to_owned)
        .collect()
}

fn is_variable(word: &str) -> bool {
    let is_part = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    word.starts_with(|c: char| c.is_ascii_uppercase())
        && word.contains('_')
        && word.chars().all(is_part)
}

/// What a compose file sets or passes on to a service: by itself, and for all of them.
fn passed(file: &str, service: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut within = false;
    for line in file.lines() {
        let text = line.trim_start();
        let (indent, name) = (
            line.len() - text.len(),
            text.split(':').next().unwrap_or_default(),
        );
        if is_variable(name) {
            names.extend(within.then(|| name.to_owned()));
        } else if indent <= 2 && !text.is_empty() && !text.starts_with('#') {
            within = name == service || name == "x-environment";
        }
    }
    names
}
