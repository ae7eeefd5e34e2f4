//! Following what contracts write to their consoles.

use std::time::Duration;

use futures::StreamExt;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::client::{Client, send};
use crate::support::farm::Farm;
use crate::support::wait;

const CONTRACT: &str = "{
    say(text) { console.log('said', text) },
    flood(n) { for (let i = 0; i < n; i += 1) console.log('line', i) },
    long(n) { for (let i = 0; i < n; i += 1) console.log(i, 'x'.repeat(1500)) },
    fails() { console.error('before'); throw Error('end') },
}";

/// Calls of `wait` are pending until `open` is called.
const GATED: &str = "let open, waiting = 0; const gate = new Promise((r) => { open = r });
const init = () => ({
    async wait() { waiting += 1; await gate; console.log('whose') },
    waiting: () => waiting,
    open() { open(); console.log('opened') },
})";

/// The texts of the lines that are kept.
async fn kept(client: &Client) -> Vec<String> {
    let mut reader = Follower::start(client, "", None).await;
    let mut lines = Vec::new();
    while let Some((_, _, data)) = reader.next().await {
        lines.push(data["line"].as_str().unwrap_or_default().to_owned());
    }
    lines
}

/// Loads the contract so that its lines are kept; returns the answer.
async fn load_keeping(client: &Client, logs: Value) -> crate::support::client::Answer {
    let body = json!({ "contractAddress": "abcd", "executable": CONTRACT, "logs": logs });
    client.post("/loadSmartContract", &body).await
}

/// A reader of the events of one contract.
struct Follower {
    text: String,
    body: futures::stream::BoxStream<'static, String>,
}

/// One event: its kind, its id, its data.
type Event = (String, String, Value);

impl Follower {
    async fn start(client: &Client, query: &str, last: Option<&str>) -> Self {
        let path = format!("/contracts/abcd/logs{query}");
        let mut request = client.request(Method::GET, &path);
        if let Some(last) = last {
            request = request.header("Last-Event-ID", last);
        }
        let response = request.send().await.expect("the api answers");
        assert_eq!(response.status(), 200);
        let kind = &response.headers()["content-type"];
        assert_eq!(kind, "text/event-stream");
        let body = response
            .bytes_stream()
            .filter_map(async |piece| Some(String::from_utf8_lossy(&piece.ok()?).into_owned()));
        Self {
            text: String::new(),
            body: body.boxed(),
        }
    }

    /// The next event; none at the end.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(end) = self.text.find("\n\n") {
                let event: String = self.text.drain(..end + 2).collect();
                let field = |name: &str| {
                    let mut lines = event.lines();
                    let line = lines.find_map(|line| line.strip_prefix(&format!("{name}: ")));
                    line.unwrap_or_default().to_owned()
                };
                let (kind, id, data) = (field("event"), field("id"), field("data"));
                // A heartbeat is a comment.
                if !kind.is_empty() {
                    return Some((kind, id, serde_json::from_str(&data).expect("JSON")));
                }
                continue;
            }
            let waiting = tokio::time::timeout(Duration::from_secs(30), self.body.next());
            self.text += &waiting.await.expect("an event in time")?;
        }
    }

    /// Calls a method until its line arrives: at first nobody may keep lines.
    async fn first(&mut self, client: &Client) -> Event {
        let calling = async {
            loop {
                client.execute("abcd", "say", &json!("hello")).await;
                wait::pass(Duration::from_millis(100)).await;
            }
        };
        tokio::select! {
            event = self.next() => event.expect("an event"),
            () = calling => unreachable!("it goes on"),
        }
    }
}

#[tokio::test]
async fn lines_of_calls_are_followed() {
    let farm = Farm::builder().apis(2).start().await;
    let client = farm.client();
    client.must_load("abcd", CONTRACT).await;
    let mut follower = Follower::start(&farm.clients[1], "?follow=true", None).await;
    let (kind, _, data) = follower.first(client).await;
    assert_eq!(
        (kind.as_str(), &data["method"]),
        ("line", &json!("say")),
        "{data}"
    );
    assert_eq!(data["line"], "said hello", "{data}");
    assert!(
        data["time"]
            .as_u64()
            .is_some_and(|time| time > 1_700_000_000_000),
        "{data}"
    );

    let request = client.request(Method::POST, "/execute/abcd/fails");
    send(request.header("x-request-id", "my-call"))
        .await
        .error(500, "execution_failed");
    let (id, data) = loop {
        let (_, id, data) = follower.next().await.expect("an event");
        if data["method"] == "fails" {
            break (id, data);
        }
    };
    assert_eq!(
        (&data["call"], &data["line"]),
        (&json!("my-call"), &json!("before")),
        "{data}"
    );

    // Another reader goes on where the first one was, and ends with what is kept.
    client.execute("abcd", "say", &json!("later")).await;
    let (_, _, data) = follower.next().await.expect("an event");
    assert_eq!(data["line"], "said later", "{data}");
    let mut other = Follower::start(client, "", Some(&id)).await;
    let (_, _, data) = other.next().await.expect("an event");
    assert_eq!(data["line"], "said later", "{data}");
    assert!(other.next().await.is_none());
    drop(follower);
    farm.stop().await;
}

#[tokio::test]
async fn a_reader_that_falls_behind_learns_of_the_gap() {
    let farm = Farm::start().await;
    let client = farm.client();
    client.must_load("abcd", CONTRACT).await;
    let mut follower = Follower::start(client, "?follow=true", None).await;
    let (_, id, _) = follower.first(client).await;
    for _ in 0..12 {
        client.execute("abcd", "flood", &json!(150)).await;
    }
    let last = wait::until("the last line", Duration::from_secs(30), async || {
        let lines = kept(client).await;
        let is_done = lines.len() == 1000 && lines.last().is_some_and(|line| line == "line 149");
        is_done.then_some(lines)
    })
    .await;
    // A call keeps its last 100 lines, and says how many there were before.
    assert!(
        last.iter().any(|line| line == "(50 lines dropped)"),
        "{last:?}"
    );
    let mut late = Follower::start(client, "", Some(&id)).await;
    let (kind, _, data) = late.next().await.expect("an event");
    assert_eq!((kind.as_str(), &data["after"]), ("gap", &json!(id)));
    farm.stop().await;
}

#[tokio::test]
async fn a_contract_that_nobody_follows_keeps_no_lines() {
    let farm = Farm::start().await;
    let client = farm.client();
    client.must_load("abcd", CONTRACT).await;
    client.execute("abcd", "say", &json!("unheard")).await;
    let mut reader = Follower::start(client, "?follow=false", None).await;
    assert!(reader.next().await.is_none());
    let wrong = client.request(Method::GET, "/contracts/abcd/logs");
    let wrong = send(wrong.header("Last-Event-ID", "x")).await;
    wrong.error(400, "invalid_request");
    client
        .get("/contracts/other/logs")
        .await
        .error(404, "contract_not_loaded");
    // A follower ends with its contract.
    let mut follower = Follower::start(client, "?follow=true", None).await;
    client.unload("abcd").await.is_no_content();
    assert!(follower.next().await.is_none());
    farm.stop().await;
}

#[tokio::test]
async fn a_contract_may_keep_its_last_lines_without_a_follower() {
    let farm = Farm::start().await;
    let client = farm.client();
    for wrong in [json!("all"), json!(true), json!(["keep"])] {
        let refused = load_keeping(client, wrong).await;
        let error = refused.error(400, "invalid_request");
        assert!(error["fields"]["logs"].is_string(), "{error}");
    }
    load_keeping(client, json!("keep")).await.is_no_content();
    assert_eq!(client.contract("abcd").await["logs"], "keep");
    client.execute("abcd", "say", &json!("hello")).await;
    wait::until("the line", wait::DEFAULT_LIMIT, async || {
        (kept(client).await == ["said hello"]).then_some(())
    })
    .await;
    // Lines are bounded in number, and in bytes.
    for _ in 0..12 {
        client.execute("abcd", "flood", &json!(100)).await;
    }
    wait::until("a thousand lines", wait::DEFAULT_LIMIT, async || {
        let lines = kept(client).await;
        (lines.len() == 1000 && lines[999] == "line 99").then_some(())
    })
    .await;
    for _ in 0..40 {
        client.execute("abcd", "long", &json!(10)).await;
    }
    wait::until("the bound in bytes", wait::DEFAULT_LIMIT, async || {
        let lines = kept(client).await;
        let bytes: usize = lines.iter().map(String::len).sum();
        let is_full = (200 << 10..=256 << 10).contains(&bytes);
        (is_full && lines.iter().all(|line| line.len() == 1024)).then_some(())
    })
    .await;
    // They outlive the contract's page, and a load that keeps them as well.
    client.execute("abcd", "say", &json!("last")).await;
    wait::until("the last line", wait::DEFAULT_LIMIT, async || {
        let lines = kept(client).await;
        lines
            .last()
            .is_some_and(|line| line == "said last")
            .then_some(())
    })
    .await;
    // They end with a load that does not, or with the contract.
    load_keeping(client, Value::Null).await.is_no_content();
    assert_eq!(client.contract("abcd").await.get("logs"), None);
    assert!(kept(client).await.is_empty());
    load_keeping(client, json!("keep")).await.is_no_content();
    client.execute("abcd", "say", &json!("again")).await;
    wait::until("the line", wait::DEFAULT_LIMIT, async || {
        (kept(client).await == ["said again"]).then_some(())
    })
    .await;
    client.unload("abcd").await.is_no_content();
    load_keeping(client, json!("keep")).await.is_no_content();
    assert!(kept(client).await.is_empty());
    farm.stop().await;
}

#[tokio::test]
async fn a_line_that_may_be_of_several_calls_names_none() {
    let farm = Farm::start().await;
    let client = farm.client();
    let body = json!({ "contractAddress": "abcd", "executable": GATED, "logs": "keep" });
    let loaded = client.post("/loadSmartContract", &body).await;
    loaded.is_no_content();
    let calls = futures::future::join_all((0..3).map(|_| client.call("abcd", "wait")));
    let opening = async {
        wait::until_true("three pending calls", wait::DEFAULT_LIMIT, async || {
            client.call("abcd", "waiting").await.data() == 3
        })
        .await;
        client.call("abcd", "open").await;
    };
    tokio::join!(calls, opening);
    let lines = wait::until("all lines", wait::DEFAULT_LIMIT, async || {
        let mut reader = Follower::start(client, "", None).await;
        let mut lines = Vec::new();
        while let Some((_, _, data)) = reader.next().await {
            lines.push(data);
        }
        (lines.len() == 4).then_some(lines)
    })
    .await;
    // Lines of one turn of the page may come in any order.
    let is_known = |data: &&Value| !data["method"].is_null();
    let known: Vec<_> = lines.iter().filter(is_known).collect();
    assert_eq!(known.len(), 1, "{lines:?}");
    assert_eq!(known[0]["method"], "open", "{lines:?}");
    for data in lines.iter().filter(|data| !is_known(data)) {
        assert_eq!(data["line"], "whose", "{data}");
        assert!(data["call"].is_null() && data["method"].is_null(), "{data}");
    }
    farm.stop().await;
}
