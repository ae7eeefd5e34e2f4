//! `/metrics` of both programs, and the alerts, dashboard and document that use its names.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::support::client::Client;
use crate::support::farm::Farm;
use crate::support::programs;
use crate::support::scrape::Scrape;
use crate::support::wait::{self, DEFAULT_LIMIT};

const CONTRACT: &str = "{
    echo: (a) => a,
    fails: () => { throw new Error('on purpose') },
    spins: () => { for (;;); },
}";

/// A farm whose worker has an HTTP port, and a client of that port.
async fn farm(env: &[(&str, &str)]) -> (Farm, Client) {
    let port = programs::free_port();
    let mut builder = Farm::builder()
        .env("EXECUTION_WORKER_PORT", &port.to_string())
        .env("CHROMIUM_SPARE_PAGES", "0");
    for (name, value) in env {
        builder = builder.env(name, value);
    }
    (builder.start().await, Client::new(port))
}

#[tokio::test]
async fn requests_and_calls_are_counted() {
    let (farm, worker_client) = farm(&[("EXECUTE_TIMEOUT_MS", "300")]).await;
    let client = farm.client();
    client.must_load("abcd", CONTRACT).await;
    for number in 0..3 {
        client.execute("abcd", "echo", &json!(number)).await.data();
    }
    let thrown = client.call("abcd", "fails").await;
    thrown.error(500, "execution_failed");
    let unknown = client.call("other", "echo").await;
    unknown.error(404, "contract_not_loaded");
    let overrun = client.call("abcd", "spins").await;
    overrun.error(504, "execution_timeout");
    // The page is recreated meanwhile.
    client.execute("abcd", "echo", &json!(1)).await.data();

    let (api, worker) = (Scrape::of(client).await, Scrape::of(&worker_client).await);
    check_api(&api);
    check_worker(&worker);
    // No label contains a contract's address, so their number does not grow.
    let names_it = |series: &&String| series.contains("abcd");
    let mut all = api.values.keys().chain(worker.values.keys());
    assert_eq!(all.find(names_it), None);
    let with_contracts = worker_client.get("/metrics?contracts=true").await.body;
    assert!(
        with_contracts.contains("{contract=\"abcd\""),
        "{with_contracts}"
    );
    assert_eq!(
        worker_client.get("/metrics?contracts=some").await.status,
        400
    );
    farm.stop().await;
}

fn check_api(api: &Scrape) {
    // Only the overrun ended without an answer of the contract or a mistake of the caller.
    assert_eq!(api.count("execution_api_contracts_unanswered"), 1);
    let execute = "/execute/{contractAddress}/{method}";
    for (route, status, code, count) in [
        ("/loadSmartContract", 204, "ok", 1),
        (execute, 200, "ok", 4),
        (execute, 500, "execution_failed", 1),
        (execute, 404, "contract_not_loaded", 1),
        (execute, 504, "execution_timeout", 1),
    ] {
        let labels = format!("route=\"{route}\",status=\"{status}\",code=\"{code}\"");
        let series = format!("execution_api_requests_total{{{labels}}}");
        assert_eq!(api.count(&series), count, "{series}");
    }
    let took = format!("execution_api_request_duration_seconds_count{{route=\"{execute}\"}}");
    for (series, count) in [
        (took.as_str(), 7),
        ("execution_api_queue_wait_seconds_count", 6),
        ("execution_api_queue_available", 1),
        ("execution_api_requests_in_flight", 0),
    ] {
        assert_eq!(api.count(series), count, "{series}");
    }
    for (series, least) in [
        (
            "execution_api_route_cache_lookups_total{outcome=\"hit\"}",
            4,
        ),
        ("execution_inbox_frame_size_count", 6),
        ("process_resident_memory_bytes", 1 << 20),
    ] {
        assert!(api.count(series) >= least, "{series}");
    }
}

fn check_worker(worker: &Scrape) {
    let javascript = "engine=\"javascript\"";
    for (name, label, count) in [
        ("calls_total", "outcome=\"ok\"", 4),
        ("calls_total", "outcome=\"execution_failed\"", 1),
        ("calls_total", "outcome=\"execution_timeout\"", 1),
        ("contracts", "state=\"ready\"", 1),
        ("contracts", "state=\"restarting\"", 0),
        ("sandbox_losses_total", "cause=\"timeout\"", 1),
        ("sandbox_losses_total", "cause=\"crash\"", 0),
        ("sandbox_losses_total", "cause=\"unresponsive\"", 0),
    ] {
        let series = format!("execution_worker_{name}{{{javascript},{label}}}");
        assert_eq!(worker.count(&series), count, "{series}");
    }
    for (name, count) in [
        ("execute_duration_seconds_count", 6),
        ("queue_wait_seconds_count", 6),
        ("load_duration_seconds_count", 1),
        ("sandbox_restarts_total", 1),
    ] {
        let series = format!("execution_worker_{name}{{{javascript}}}");
        assert_eq!(worker.count(&series), count, "{series}");
    }
    for (name, count) in [
        ("browsers", 1),
        ("pages", 1),
        ("browser_restarts_total", 0),
        ("calls_waiting", 0),
        ("capacity", 64),
        ("duplicate_jobs_total", 0),
        ("lease_held", 1),
        ("draining", 0),
    ] {
        assert_eq!(
            worker.count(&format!("execution_worker_{name}")),
            count,
            "{name}"
        );
    }
}

/// Callers need not see the metrics, and whoever scrapes them need not be able to call.
#[tokio::test]
async fn metrics_can_have_a_listener_of_their_own() {
    let port = programs::free_port();
    let builder = Farm::builder().env("EXECUTION_API_METRICS_PORT", &port.to_string());
    let farm = builder.start().await;
    let (client, metrics) = (farm.client(), Client::new(port));
    client.get("/metrics").await.error(404, "route_not_found");
    client.must_load("abcd", CONTRACT).await;
    let scrape = Scrape::of(&metrics).await;
    assert!(
        scrape
            .values
            .keys()
            .any(|name| name.contains("/loadSmartContract")),
        "{scrape:?}"
    );
    for path in ["/healthz", "/readyz"] {
        assert_eq!(metrics.get(path).await.status, 200, "{path}");
        assert_eq!(client.get(path).await.status, 200, "{path}");
    }
    for path in ["/contracts", "/workers", "/docs"] {
        metrics.get(path).await.error(404, "route_not_found");
    }
    farm.stop().await;
}

#[tokio::test]
async fn an_outage_is_counted() {
    let (mut farm, worker) = farm(&[]).await;
    let ready = worker.get("/readyz").await;
    assert_eq!((ready.status, ready.body.as_str()), (200, "ready\n"));
    farm.redis.process().kill().await;
    wait::until_true("the outage to be counted", DEFAULT_LIMIT, async || {
        let api = Scrape::of(farm.client()).await;
        let errors = api.count("execution_redis_errors_total{kind=\"connection\"}");
        errors > 0 && api.count("execution_api_queue_available") == 0
    })
    .await;
    wait::until_true(
        "the worker to say that it may not act",
        DEFAULT_LIMIT,
        async || worker.get("/readyz").await.status == 503,
    )
    .await;
    let scrape = Scrape::of(&worker).await;
    assert_eq!(scrape.count("execution_worker_lease_held"), 0);
    assert_eq!(worker.get("/healthz").await.status, 200);
    farm.restart_redis().await;
    wait::until_true("the worker to be ready again", DEFAULT_LIMIT, async || {
        worker.get("/readyz").await.status == 200
    })
    .await;
    farm.stop_ignoring_keys().await;
}

#[tokio::test]
async fn alerts_dashboard_and_document_name_existing_metrics() {
    let by_name = [
        ("METRICS_BY_CONTRACT", "true"),
        ("METRICS_BY_TENANT", "true"),
    ];
    let (farm, worker) = farm(&by_name).await;
    let client = farm.client();
    client.must_load("abcd", CONTRACT).await;
    client.execute("abcd", "echo", &json!(1)).await.data();
    // Whoever scrapes may decide otherwise.
    let shown = worker.get("/metrics?contracts=false").await.body;
    let (api, worker) = (Scrape::of(client).await, Scrape::of(&worker).await);
    let series = "execution_worker_contract_calls_total{contract=\"abcd\",engine=\"javascript\"}";
    assert_eq!(worker.count(series), 1);
    assert!(!shown.contains(series), "{shown}");

    // Not all codes and routes have occurred by now, so the description is checked too.
    let description = client.get("/openapi.json").await.body;
    for file in ["deploy/grafana", "deploy/prometheus"].map(files).concat() {
        let text = std::fs::read_to_string(&file).unwrap();
        for name in names(&text) {
            let exists = api.has(&name) || worker.has(&name);
            assert!(exists, "{}: there is no {name}", file.display());
        }
        for (label, value) in selected(&text) {
            let pair = format!("{label}=\"{value}\"");
            let mut series = api.values.keys().chain(worker.values.keys());
            let exists = series.any(|series| series.contains(&pair))
                || description.contains(&format!("\"{value}\""));
            assert!(exists, "{}: nothing has {pair}", file.display());
        }
    }
    let document = std::fs::read_to_string(root().join("docs/metrics.md")).unwrap();
    let documented = names(&document);
    let existing: BTreeSet<_> = api
        .kinds
        .keys()
        .chain(worker.kinds.keys())
        .cloned()
        .collect();
    assert_eq!(documented, existing);
    farm.stop().await;
}

/// The root folder of the repository.
fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests
        .parent()
        .expect("the package is in the repository")
        .to_owned()
}

fn files(folder: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root().join(folder)).expect("the folder is there");
    let files: Vec<_> = entries
        .map(|entry| entry.expect("a folder can be read").path())
        .collect();
    assert!(!files.is_empty(), "nothing in {folder}");
    files
}

/// Every word in a text that has the form of a metric's name.
fn names(text: &str) -> BTreeSet<String> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .filter(|word| {
            ["execution_api_", "execution_worker_", "process_"]
                .iter()
                .chain(&SHARED_PREFIXES)
                .any(|prefix| word.starts_with(prefix))
        })
        .map(str::to_owned)
        .collect()
}

/// The labels that queries select by, one pair for each value: `label="value"`,
/// `label=~"this|that"`.
fn selected(text: &str) -> BTreeSet<(String, String)> {
    let text = text.replace("\\\"", "\"").replace("=~\"", "=\"");
    let parts: Vec<_> = text.split("=\"").collect();
    let pairs = parts.windows(2).flat_map(|pair| {
        let name = pair[0].trim_end_matches('!');
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let label = name.rsplit(|c| !word(c)).next().unwrap_or_default();
        let values = pair[1].split('"').next().unwrap_or_default();
        values
            .split('|')
            .map(|value| (label.to_owned(), value.to_owned()))
    });
    pairs.collect()
}

/// The prefixes of the metrics of both programs. Words such as `execution_failed` are no metrics.
const SHARED_PREFIXES: [&str; 6] = [
    "execution_redis_",
    "execution_registry_",
    "execution_inbox_",
    "execution_reap",
    "execution_dead_letters_",
    "execution_quarantines_",
];
