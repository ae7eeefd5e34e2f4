//! The api's log lines about requests.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::client::send;
use crate::support::farm::Farm;
use crate::support::wait::{self, DEFAULT_LIMIT};

const CONTRACT: &str = "{
    echo: (a) => a,
    fails: () => { throw new Error('on purpose') },
    waits: () => new Promise((resolve) => setTimeout(resolve, 3000)),
}";

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

/// All lines of a log about requests that failed.
fn failures(log: &str) -> Vec<Value> {
    let line = |line: &str| serde_json::from_str::<Value>(line).expect("every line is JSON");
    let mut lines: Vec<_> = log.lines().map(line).collect();
    lines.retain(|line| line["message"] == "request failed");
    lines
}

/// What an operator needs to go on is in one line, without a setting. Requests that succeed have
/// none.
#[tokio::test]
async fn a_failed_request_has_one_line_with_its_cause() {
    let farm = Farm::builder().env("LOG_FORMAT", "json").start().await;
    let client = farm.client();
    client.must_load("abcd", CONTRACT).await;
    client.execute("abcd", "echo", &json!(1)).await.data();
    assert_eq!(lines(&farm), Vec::<Value>::new());

    let request = client.request(Method::POST, "/execute/abcd/fails");
    let request = request.header("x-request-id", "thrown");
    let thrown = send(request.json(&json!("a secret"))).await;
    thrown.error(500, "execution_failed");
    let invalid = json!({ "contractAddress": "Broken", "executable": "{" });
    let request = client.request(Method::POST, "/loadSmartContract");
    let request = request.header("x-request-id", "invalid").json(&invalid);
    send(request).await.error(422, "invalid_executable");

    let found = failures(&farm.apis[0].log());
    let [thrown_line, invalid_line] = &found[..] else {
        panic!("{found:#?}")
    };
    let owner = client.owner("abcd").await.expect("it has an owner");
    let expected = json!({
        "level": "INFO", "target": "request", "id": "thrown", "method": "POST",
        "path": "/execute/abcd/fails", "route": "/execute/{contractAddress}/{method}",
        "contract": "abcd", "status": 500, "code": "execution_failed",
        "error": "Error: on purpose", "worker": owner, "generation": thrown.generation(),
    });
    for (field, value) in expected.as_object().expect("it was made as one") {
        assert_eq!(&thrown_line[field], value, "{field} of {thrown_line}");
    }
    assert!(
        thrown_line["duration_ms"].as_f64().is_some(),
        "{thrown_line}"
    );
    assert!(
        !thrown_line.to_string().contains("a secret"),
        "{thrown_line}"
    );
    assert_eq!(invalid_line["id"], "invalid");
    assert_eq!(invalid_line["contract"], "broken", "{invalid_line}");
    assert_eq!(invalid_line["code"], "invalid_executable", "{invalid_line}");
    farm.stop().await;
}

/// A worker's lines about a request carry the id that its caller has.
#[tokio::test]
async fn lines_of_workers_name_the_request() {
    let farm = Farm::builder()
        .env("LOG_FORMAT", "json")
        .env("EXECUTE_TIMEOUT_MS", "20000")
        .env("EXECUTE_DEADLINE_MS", "40000")
        .start()
        .await;
    let client = farm.client();
    let loads = json!({ "contractAddress": "abcd", "executable": CONTRACT });
    let request = client.request(Method::POST, "/loadSmartContract");
    let request = request.header("x-request-id", "the-load").json(&loads);
    send(request).await.is_no_content();
    let request = client.request(Method::POST, "/execute/abcd/waits");
    let request = request.header("x-request-id", "the-loss");
    let call = tokio::spawn(send(request));
    wait::until_true("the call to run", DEFAULT_LIMIT, async || {
        client.contract("abcd").await["queueDepth"] == 1
    })
    .await;
    let log = wait::until("the loss of its page", DEFAULT_LIMIT, async || {
        for page in farm.renderers(0) {
            page.kill();
        }
        let log = farm.workers[0].log();
        log.contains("\"requests\":\"the-loss\"").then_some(log)
    })
    .await;
    // It is run again in another page.
    assert!([200, 500].contains(&call.await.expect("it is answered").status));
    let line = |message: &str| {
        let lines = log.lines().map(serde_json::from_str::<Value>);
        let mut lines = lines.map(|line| line.expect("every line is JSON"));
        let found = lines.find(|line| line["message"] == message);
        found.unwrap_or_else(|| panic!("{message}: {log}"))
    };
    assert_eq!(line("contract loaded")["span"]["id"], "the-load");
    let lost = log.lines().find(|line| line.contains("the-loss"));
    assert!(
        lost.is_some_and(|line| line.contains("sandbox lost")),
        "{log}"
    );
    farm.stop().await;
}
