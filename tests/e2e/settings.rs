//! A program that cannot work reports why and ends at once. Every setting is documented, and the
//! compose files pass it to the programs.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::support::process::Process;
use crate::support::programs;
use crate::support::redis_server::RedisServer;
use crate::support::wait::DEFAULT_LIMIT;

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

/// Invalid values of settings of the api.
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

/// Variables that the tracing SDK reads by itself.
const READ_BY_THE_SDK: [&str; 6] = [
    "OTEL_TRACES_SAMPLER",
    "OTEL_TRACES_SAMPLER_ARG",
    "OTEL_RESOURCE_ATTRIBUTES",
    "OTEL_BSP_SCHEDULE_DELAY",
    "OTEL_BSP_MAX_QUEUE_SIZE",
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
];

/// Variables that a compose service does not pass on, by the start of their name, with the reason.
const NOT_PASSED_ON: [(&str, &str, &str); 13] = [
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
fn every_variable_is_documented() {
    let text = read("docs/configuration.md");
    let documented = variables(&text);
    let declared_names: BTreeSet<_> = ["api/src", "worker/src", "shared/src"]
        .iter()
        .flat_map(|folder| declared_in(folder))
        .collect();
    assert!(declared_names.len() > 50, "{declared_names:?}");
    let undocumented: Vec<_> = declared_names.difference(&documented).collect();
    assert!(
        undocumented.is_empty(),
        "not in docs/configuration.md: {undocumented:?}"
    );

    let mut known = declared_names;
    known.extend(READ_BY_THE_SDK.map(str::to_owned));
    for file in ["docker-compose.yml", "docker-compose.docker.yml"] {
        known.extend(variables(&read(file)));
    }
    let unknown: Vec<_> = documented.difference(&known).collect();
    assert!(
        unknown.is_empty(),
        "in docs/configuration.md, but read by nothing: {unknown:?}"
    );
}

#[test]
fn every_default_is_documented() {
    let text = read("docs/configuration.md");
    let defaults: Vec<_> = ["api/src", "worker/src", "shared/src"]
        .iter()
        .flat_map(|folder| sources(folder))
        .flat_map(|source| defaults(&source))
        .collect();
    assert!(defaults.len() > 40, "{defaults:?}");
    for (name, default) in defaults {
        let row = format!("| `{name}` | ");
        let cell = text.lines().find_map(|line| line.strip_prefix(&row));
        let documented = cell.and_then(|cell| cell.split(' ').next());
        let documented = documented.map(|word| word.trim_matches('`'));
        assert_eq!(documented, Some(default.as_str()), "{name}");
    }
}

#[test]
fn every_variable_reaches_the_containers() {
    for (service, file, folder) in [
        ("api", "docker-compose.yml", "api/src"),
        ("worker", "docker-compose.yml", "worker/src"),
        ("worker-docker", "docker-compose.docker.yml", "worker/src"),
    ] {
        let passed = passed(&read(file), service);
        let mut declared_names = declared_in(folder);
        declared_names.extend(declared_in("shared/src"));
        declared_names.extend(READ_BY_THE_SDK.map(str::to_owned));
        let excused = |name: &str| {
            NOT_PASSED_ON
                .iter()
                .any(|(whose, start, _)| *whose == service && name.starts_with(start))
        };
        for name in declared_names {
            // A variable must be either passed on or excused, not both.
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

/// The content of a file of the repository.
fn read(file: &str) -> String {
    let path = root().join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The settings that the sources in a folder and below it declare.
fn declared_in(folder: &str) -> BTreeSet<String> {
    let sources = sources(folder);
    let names = sources.iter().flat_map(|source| declared(source));
    names.map(str::to_owned).collect()
}

/// The texts of the sources in a folder and below it.
fn sources(folder: &str) -> Vec<String> {
    let mut folders = vec![root().join(folder)];
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("the folder is there") {
            let path = entry.expect("a folder can be read").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                sources.push(std::fs::read_to_string(&path).expect("a source is text"));
            }
        }
    }
    sources
}

/// The settings that a source declares with a fixed default, and that default.
fn defaults(source: &str) -> Vec<(String, String)> {
    let source = source.split("#[cfg(test)]").next().unwrap_or_default();
    let declarations = source.split("Setting::new(").skip(1);
    let pairs = declarations.filter_map(|text| {
        let mut texts = text.split('"').skip(1).step_by(2);
        Some((texts.next()?.to_owned(), texts.next()?.to_owned()))
    });
    pairs.filter(|(name, _)| is_variable(name)).collect()
}

/// The names of the settings that a source declares outside its tests.
fn declared(source: &str) -> impl Iterator<Item = &str> {
    let source = source.split("#[cfg(test)]").next().unwrap_or_default();
    let declarations = source.split("Setting::").skip(1);
    let names = declarations.filter_map(|text| text.split('"').nth(1));
    names.filter(|name| is_variable(name))
}

/// Every word in a text that has the form of a variable.
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

/// The variables that a compose file sets or passes on to a service, directly or for all services.
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
