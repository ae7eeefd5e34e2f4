//! The generator of closed-loop load, `wrk`: a number of connections, each of which calls again as
//! soon as it is answered.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;

const SCRIPT: &str = include_str!("requests.lua");

/// The text before the figures in the output of `requests.lua`.
const OUTPUT_PREFIX: &str = "figures ";

/// How a request may fail: the names of wrk's counts.
const ERRORS: [&str; 5] = ["connect", "read", "write", "status", "timeout"];

/// wrk and the files that it reads.
pub(crate) struct Wrk {
    folder: TempDir,
}

/// A load: what is called, and how much.
pub(crate) struct Load<'a> {
    /// `HOST:PORT`
    pub(crate) at: &'a str,
    /// Called in turn.
    pub(crate) paths: &'a [String],
    /// JSON.
    pub(crate) body: &'a str,
    pub(crate) connections: u32,
    /// Whole seconds.
    pub(crate) span: Duration,
    /// What the requests prove themselves with, if the farm asks for it.
    pub(crate) key: Option<&'a str>,
}

/// The result of a load.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    pub(crate) calls: f64,
    /// Calls per second.
    pub(crate) rate: f64,
    /// Milliseconds.
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
    /// The failed requests, if there were any.
    pub(crate) errors: Option<String>,
}

impl Wrk {
    pub(crate) fn new() -> Self {
        let folder = TempDir::with_prefix("execution-bench-").expect("a folder can be made");
        std::fs::write(folder.path().join("requests.lua"), SCRIPT).expect("its own folder");
        Self { folder }
    }

    /// Runs a load for its span.
    pub(crate) async fn run(&self, load: &Load<'_>) -> Run {
        let body = self.body(load.body);
        let key = load.key.map(|key| format!("Authorization: Bearer {key}"));
        let header = key.into_iter().flat_map(|header| ["-H".to_owned(), header]);
        let output = Command::new("wrk")
            .args(header)
            .arg("-t1")
            .arg(format!("-c{}", load.connections))
            .arg(format!("-d{}s", load.span.as_secs()))
            .arg("--latency")
            .arg("-s")
            .arg(self.folder.path().join("requests.lua"))
            .arg(format!("http://{}/", load.at))
            .arg("--")
            .arg(body)
            .args(load.paths)
            .kill_on_drop(true)
            .output()
            .await
            .unwrap_or_else(|error| panic!("wrk: {error}; `scripts/setup --bench` installs it"));
        let text = String::from_utf8_lossy(&output.stdout);
        let figures = text
            .lines()
            .find_map(|line| line.strip_prefix(OUTPUT_PREFIX));
        let figures = figures.unwrap_or_else(|| panic!("wrk printed no figures: {output:?}"));
        Run::read(&serde_json::from_str(figures).expect("the script writes JSON"))
    }

    /// The file with this body. Its name is the body's length, which is unique among the bodies of
    /// a bench.
    fn body(&self, body: &str) -> PathBuf {
        let file = self.folder.path().join(body.len().to_string());
        // Another load may read the file at this moment, so an existing file is not rewritten.
        if !file.exists() {
            std::fs::write(&file, body).expect("its own folder");
        }
        file
    }
}

impl Run {
    /// The mean of two runs of the same load.
    pub(crate) fn and(&self, other: &Self) -> Self {
        let errors = [&self.errors, &other.errors].into_iter().flatten();
        let errors: Vec<&str> = errors.map(String::as_str).collect();
        Self {
            calls: self.calls + other.calls,
            rate: f64::midpoint(self.rate, other.rate),
            p50: f64::midpoint(self.p50, other.p50),
            p90: f64::midpoint(self.p90, other.p90),
            p99: f64::midpoint(self.p99, other.p99),
            max: self.max.max(other.max),
            errors: (!errors.is_empty()).then(|| errors.join(", ")),
        }
    }

    fn read(figures: &Value) -> Self {
        let number = |name: &str| figures[name].as_f64().expect("the script prints it");
        let ms = |name: &str| number(name) / 1e3;
        let errors = ERRORS.iter().filter(|name| number(name) > 0.0);
        let errors: Vec<_> = errors
            .map(|name| format!("{} {name}", figures[name]))
            .collect();
        Self {
            calls: number("calls"),
            rate: number("calls") / (number("us") / 1e6),
            p50: ms("p50"),
            p90: ms("p90"),
            p99: ms("p99"),
            max: ms("max"),
            errors: (!errors.is_empty()).then(|| errors.join(", ")),
        }
    }
}
