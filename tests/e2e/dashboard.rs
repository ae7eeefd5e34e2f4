//! The dashboard: Prometheus scrapes a farm that works, and every panel has something to show.
//!
//! `make test-alerts` installs Prometheus and runs this module; `make test` does not.

use std::fs;
use std::path::Path;
use std::process::Command;

use reqwest::{Method, Url};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::client::{Client, try_send};
use crate::support::farm::Farm;
use crate::support::process::Process;
use crate::support::programs;
use crate::support::wait::{self, DEFAULT_LIMIT};

const CONTRACT: &str = "{
    echo: (a) => a,
    fails: () => { throw new Error('on purpose') },
    spins: () => { for (;;); },
}";

/// A Prometheus that scrapes one api and one worker every second.
struct Prometheus {
    process: Process,
    client: Client,
    _folder: TempDir,
}

impl Prometheus {
    async fn start(api: u16, worker: u16) -> Self {
        let folder = TempDir::with_prefix("execution-prometheus-").expect("a folder can be made");
        let path = |name: &str| folder.path().join(name);
        let job = |name, port| {
            json!({
                "job_name": name,
                "scrape_interval": "1s",
                "static_configs": [{"targets": [format!("127.0.0.1:{port}")]}],
            })
        };
        // JSON is YAML.
        let jobs = [job("execution-api", api), job("execution-worker", worker)];
        let settings = json!({ "scrape_configs": jobs }).to_string();
        fs::write(path("settings.yml"), settings).expect("the folder can be written");
        let port = programs::free_port();
        let mut command = Command::new("prometheus");
        command
            .arg(format!("--config.file={}", path("settings.yml").display()))
            .arg(format!("--storage.tsdb.path={}", path("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"));
        let mut process = Process::start("prometheus", command, folder.path());
        let client = Client::new(port);
        wait::until_true("Prometheus to be ready", DEFAULT_LIMIT, async || {
            assert!(process.ended().is_none(), "{}", process.log());
            let ready = try_send(client.request(Method::GET, "/-/ready")).await;
            ready.is_ok_and(|answer| answer.status == 200)
        })
        .await;
        Self {
            process,
            client,
            _folder: folder,
        }
    }

    /// The values that an expression has now, one for each series.
    async fn values(&self, expression: &str) -> Vec<f64> {
        let parameters = [("query", expression)];
        let url = Url::parse_with_params(&self.client.url("/api/v1/query"), parameters);
        let url = url.expect("the address of Prometheus is one");
        let path = format!("{}?{}", url.path(), url.query().unwrap_or_default());
        let answer = try_send(self.client.request(Method::GET, &path)).await;
        let answer = answer.expect("Prometheus answers");
        assert_eq!(answer.status, 200, "{expression}: {answer:?}");
        let result = answer.json()["data"]["result"].take();
        let series = result.as_array().expect("a list of series");
        let value = |one: &Value| one["value"][1].as_str()?.parse().ok();
        series.iter().filter_map(value).collect()
    }
}

/// The title and the expression of everything that the dashboard shows.
fn panels() -> Vec<(String, String)> {
    let file =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/grafana/execution-service.json");
    let text = fs::read_to_string(file).expect("the dashboard is there");
    let dashboard: Value = serde_json::from_str(&text).expect("the dashboard is JSON");
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let mut found = Vec::new();
    for panel in dashboard["panels"].as_array().expect("it has panels") {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let expression = text(&target["expr"]).replace("$__rate_interval", "30s");
            found.push((text(&panel["title"]), expression));
        }
    }
    found
}

/// What makes every kind of figure: a load, calls, failures, a page that is replaced.
async fn work(client: &Client) {
    client.must_load("next", CONTRACT).await;
    client.unload("next").await.is_no_content();
    for number in 0..20 {
        client.execute("abcd", "echo", &json!(number)).await.data();
    }
    let thrown = client.call("abcd", "fails").await;
    thrown.error(500, "execution_failed");
    let overrun = client.call("abcd", "spins").await;
    overrun.error(504, "execution_timeout");
}

#[tokio::test]
async fn every_panel_of_the_dashboard_shows_figures() {
    let port = programs::free_port();
    let farm = Farm::builder()
        .env("EXECUTION_WORKER_PORT", &port.to_string())
        .env("EXECUTE_TIMEOUT_MS", "300")
        .start()
        .await;
    let mut prometheus = Prometheus::start(farm.client().port(), port).await;
    farm.client().must_load("abcd", CONTRACT).await;
    let panels = panels();
    assert!(panels.len() > 30, "{panels:?}");
    wait::until_none(DEFAULT_LIMIT, async || {
        work(farm.client()).await;
        let mut without = Vec::new();
        for (title, expression) in &panels {
            let values = prometheus.values(expression).await;
            if values.is_empty() || !values.iter().all(|value| value.is_finite()) {
                without.push(format!("{title}: {expression}: {values:?}"));
            }
        }
        without
    })
    .await;
    prometheus.process.terminate().await;
    farm.stop().await;
}
