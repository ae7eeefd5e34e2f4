//! The trace of one request through both programs, as a collector receives it.

use reqwest::Method;
use serde_json::json;

use crate::support::client::{Client, send};
use crate::support::collector::{Collector, Span};
use crate::support::farm::{Builder, Farm};
use crate::support::wait::{self, DEFAULT_LIMIT};

const CONTRACT: &str = "{ echo: (a) => a, fails: () => { throw new Error('on purpose') } }";
const CALLER: &str = "b7ad6b7169203331";

/// Configures a farm that exports its spans after 50 ms.
fn exporting(builder: Builder, collector: &Collector) -> Builder {
    builder
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.url)
        .env("OTEL_BSP_SCHEDULE_DELAY", "50")
}

async fn call(client: &Client, method: &str, trace: &str, flags: &str) {
    let request = client.request(Method::POST, &format!("/execute/abcd/{method}"));
    let request = request.header("traceparent", format!("00-{trace}-{CALLER}-{flags}"));
    send(request.json(&json!(1))).await;
}

/// The spans of a trace, once there are `count`.
async fn spans(collector: &Collector, trace: &str, count: usize) -> Vec<Span> {
    let what = format!("{count} spans of {trace}");
    wait::until(&what, DEFAULT_LIMIT, async || {
        Some(collector.of(trace)).filter(|spans| spans.len() >= count)
    })
    .await
}

fn of<'a>(spans: &'a [Span], service: &str) -> &'a Span {
    let found = spans.iter().find(|span| span.service == service);
    found.unwrap_or_else(|| panic!("none of {service} in {spans:#?}"))
}

#[tokio::test]
async fn a_callers_trace_continues_in_both_programs() {
    let collector = Collector::start().await;
    let farm = exporting(Farm::builder(), &collector).start().await;
    let client = farm.client();
    client.must_load("abcd", CONTRACT).await;
    let good = "0af7651916cd43dd8448eb211c80319c";
    call(client, "echo", good, "01").await;
    let seen = spans(&collector, good, 2).await;
    let (api, worker) = (of(&seen, "execution-api"), of(&seen, "execution-worker"));
    assert_eq!((api.parent.as_str(), &worker.parent), (CALLER, &api.id));
    assert_eq!(
        (api.name.as_str(), worker.name.as_str()),
        ("request", "execute")
    );
    assert_eq!(api.attribute("http.response.status_code"), "200");
    assert_eq!(
        api.attribute("http.route"),
        "/execute/{contractAddress}/{method}"
    );
    assert_eq!(worker.attribute("execution.contract"), "abcd");
    assert_eq!(worker.attribute("execution.method"), "echo");
    assert!(!api.failed && !worker.failed, "{seen:#?}");

    let bad = "1af7651916cd43dd8448eb211c80319c";
    call(client, "fails", bad, "01").await;
    let seen = spans(&collector, bad, 2).await;
    assert!(seen.iter().all(|span| span.failed), "{seen:#?}");
    let codes: Vec<_> = seen
        .iter()
        .map(|span| span.attribute("error.type"))
        .collect();
    assert_eq!(codes, ["execution_failed"; 2]);

    // A caller may ask not to sample a trace. A later span is exported later.
    let unwanted = "2af7651916cd43dd8448eb211c80319c";
    call(client, "echo", unwanted, "00").await;
    let wanted = "3af7651916cd43dd8448eb211c80319c";
    call(client, "echo", wanted, "01").await;
    spans(&collector, wanted, 2).await;
    assert_eq!(collector.of(unwanted).len(), 0);
    farm.stop().await;
}

#[tokio::test]
async fn a_trace_passes_an_api_that_exports_nothing() {
    let collector = Collector::start().await;
    let mut farm = Farm::builder().workers(0).start().await;
    let endpoint = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url.as_str()),
        ("OTEL_BSP_SCHEDULE_DELAY", "50"),
    ];
    farm.spawn_worker(&endpoint);
    wait::until_true("the worker to join", DEFAULT_LIMIT, async || {
        farm.all_run();
        farm.client().workers().await.len() == 1
    })
    .await;
    farm.client().must_load("abcd", CONTRACT).await;
    let trace = "4af7651916cd43dd8448eb211c80319c";
    call(farm.client(), "echo", trace, "01").await;
    let seen = spans(&collector, trace, 1).await;
    assert_eq!(of(&seen, "execution-worker").parent, CALLER);
    farm.stop().await;
}

#[tokio::test]
async fn an_unreachable_collector_does_not_affect_calls() {
    let gone = Collector::start().await;
    let farm = exporting(Farm::builder(), &gone).start().await;
    drop(gone);
    let client = farm.client();
    client.must_load("abcd", CONTRACT).await;
    for number in 0..5 {
        assert_eq!(
            client.execute("abcd", "echo", &json!(number)).await.data(),
            json!(number)
        );
    }
    farm.stop().await;
}
