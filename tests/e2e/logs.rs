//! The api's log lines about requests.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::client::send;
use crate::support::farm::Farm;
use crate::support::wait::{self, DEFAULT_LIMIT};

const CONTRACT: &str = "{ echo: (a) => a }";

/// The log lines about execute requests, as JSON.
fn lines(farm: &Farm) -> Vec<Value> {
    let log = farm.apis[0].log();
    let line = |line: &str| serde_json::from_str::<Value>(line).expect("every line is JSON");
    let mut lines: Vec<_> = log.lines().map(line).collect();
    lines.retain(|line| {
        let path = line["path"].as_str();
        line["target"] == "request" && path.is_some_and(|path| path.starts_with("/execute/"))
    });
    lines
}

#[tokio::test]
async fn each_request_has_one_log_line_at_debug_level() {
    let farm = Farm::builder()
        .env("LOG_FORMAT", "json")
        .env("RUST_LOG", "info,request=debug")
        .start()
        .await;
    let client = farm.client();
    client.must_load("abcd", CONTRACT).await;
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let request = client
        .request(Method::POST, "/execute/abcd/echo")
        .header("x-request-id", "first")
        .header("traceparent", format!("00-{trace}-b7ad6b7169203331-01"));
    send(request.json(&json!("a secret"))).await.data();
    let request = client.request(Method::POST, "/execute/other/echo");
    send(request.header("x-request-id", "second"))
        .await
        .error(404, "contract_not_loaded");

    let lines = wait::until("two lines", DEFAULT_LIMIT, async || {
        Some(lines(&farm)).filter(|lines| lines.len() >= 2)
    })
    .await;
    let [first, second] = &lines[..] else {
        panic!("{lines:#?}")
    };
    assert_eq!(first["id"], "first");
    assert_eq!(first["method"], "POST");
    assert_eq!(first["path"], "/execute/abcd/echo");
    assert_eq!(
        (&first["status"], &first["code"]),
        (&json!(200), &json!("ok"))
    );
    assert_eq!(first["trace_id"], trace);
    assert!(
        first["duration_ms"].as_f64().is_some_and(|ms| ms > 0.0),
        "{first}"
    );
    assert!(!first.to_string().contains("secret"), "{first}");
    assert_eq!(second["id"], "second");
    assert_eq!(
        (&second["status"], &second["code"]),
        (&json!(404), &json!("contract_not_loaded"))
    );
    assert_eq!(second.get("trace_id"), None);
    farm.stop().await;
}

#[tokio::test]
async fn requests_are_not_logged_by_default() {
    let farm = Farm::builder().env("LOG_FORMAT", "json").start().await;
    let client = farm.client();
    client.must_load("abcd", CONTRACT).await;
    client.execute("abcd", "echo", &json!(1)).await.data();
    farm.client().unload("abcd").await.is_no_content();
    assert_eq!(lines(&farm), Vec::<Value>::new());
    farm.stop().await;
}
