//! The settings that the programs declare are documented, with their defaults, and reach the
//! programs through the compose files.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Variables that the tracing SDK reads by itself.
const READ_BY_THE_SDK: [&str; 6] = [
    "OTEL_TRACES_SAMPLER",
    "OTEL_TRACES_SAMPLER_ARG",
    "OTEL_RESOURCE_ATTRIBUTES",
    "OTEL_BSP_SCHEDULE_DELAY",
    "OTEL_BSP_MAX_QUEUE_SIZE",
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
];

/// The variables of one word; other words in capitals are none.
const ONE_WORD: [&str; 3] = ["APIS", "AUTH", "WORKERS"];

/// Variables that a compose service does not pass on, by the start of their name, with the reason.
const NOT_PASSED_ON: [(&str, &str, &str); 14] = [
    (
        "api",
        "EXECUTION_API_HOST",
        "the image listens where the port is published from",
    ),
    ("api", "EXECUTION_API_PORT", "as for the address"),
    (
        "api",
        "OTEL_SERVICE_NAME",
        "one name for all programs would be wrong",
    ),
    ("worker", "OTEL_SERVICE_NAME", "as for the api"),
    ("worker", "CHROMIUM_PATH", "the image has one browser"),
    ("worker", "CHROMIUM_UIDS", "the worker is not root"),
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
pub(super) fn declared_in(folder: &str) -> BTreeSet<String> {
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
pub(super) fn variables(text: &str) -> BTreeSet<String> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .filter(|word| is_variable(word))
        .map(str::to_owned)
        .collect()
}

fn is_variable(word: &str) -> bool {
    let is_part = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    word.starts_with(|c: char| c.is_ascii_uppercase())
        && (word.contains('_') || ONE_WORD.contains(&word))
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
