//! Limits of size and number: what exceeds them is refused with the right error.

use reqwest::Method;
use reqwest::header::CONTENT_TYPE;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::support::client::send;
use crate::support::farm::Farm;
use crate::support::wait::{self, DEFAULT_LIMIT};

const ECHO: &str = "{ echo: (a) => a }";

/// JSON text of a string that is `bytes` long, including its quotes.
fn text(bytes: usize) -> String {
    format!("\"{}\"", "x".repeat(bytes - 2))
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused() {
    let farm = Farm::builder()
        .env("EXECUTE_BODY_LIMIT_BYTES", "10000")
        .env("LOAD_BODY_LIMIT_BYTES", "200000")
        .start()
        .await;
    let client = farm.client();
    client.must_load("abcd", ECHO).await;
    let path = "/execute/abcd/echo";
    assert_eq!(client.post_text(path, text(10_000)).await.status, 200);
    client
        .post_text(path, text(10_001))
        .await
        .error(413, "payload_too_large");
    // This request declares no length.
    let request = client
        .request(Method::POST, path)
        .header(CONTENT_TYPE, "application/json");
    let chunks = (0..11).map(|_| Ok::<_, std::io::Error>(text(1_000)));
    let long = reqwest::Body::wrap_stream(futures::stream::iter(chunks));
    send(request.body(long))
        .await
        .error(413, "payload_too_large");

    let long = |spaces: usize| format!("{{{} echo: (a) => a }}", " ".repeat(spaces));
    client.must_load("long", &long(150_000)).await;
    client
        .load("long", &long(200_000))
        .await
        .error(413, "payload_too_large");
    assert_eq!(client.execute("long", "echo", &json!(1)).await.data(), 1);
    farm.stop().await;
}

#[tokio::test]
async fn a_client_that_is_still_sending_receives_the_error() {
    let farm = Farm::builder()
        .env("EXECUTE_BODY_LIMIT_BYTES", "10000")
        .env("LOAD_BODY_LIMIT_BYTES", "10000")
        .start()
        .await;
    let client = farm.client();
    // Larger than the socket buffers, so it is refused while the client still sends.
    for path in ["/execute/abcd/echo", "/loadSmartContract"] {
        let answer = client.post_text(path, text(5_000_000)).await;
        answer.error(413, "payload_too_large");
        let chunks = (0..50).map(|_| Ok::<_, std::io::Error>(text(100_000)));
        let request = client
            .request(Method::POST, path)
            .header(CONTENT_TYPE, "application/json");
        let long = reqwest::Body::wrap_stream(futures::stream::iter(chunks));
        send(request.body(long))
            .await
            .error(413, "payload_too_large");
    }
    farm.stop().await;
}

#[tokio::test]
async fn a_body_that_does_not_arrive_times_out() {
    let farm = Farm::builder().env("BODY_TIMEOUT_MS", "200").start().await;
    let client = farm.client();
    client.must_load("abcd", ECHO).await;
    for path in [
        "/loadSmartContract",
        "/unloadSmartContract",
        "/execute/abcd/echo",
    ] {
        let request = client
            .request(Method::POST, path)
            .header(CONTENT_TYPE, "application/json");
        let stuck = futures::stream::pending::<Result<String, std::io::Error>>();
        let answer = send(request.body(reqwest::Body::wrap_stream(stuck))).await;
        answer.error(408, "request_timeout");
    }
    farm.stop().await;
}

#[tokio::test]
async fn headers_that_do_not_arrive_time_out() {
    let farm = Farm::builder()
        .env("HEADERS_TIMEOUT_MS", "300")
        .start()
        .await;
    for begun in ["", "POST /execute/abcd/echo HTTP/1.1\r\nhost: a\r\n"] {
        let url = farm.client().url("");
        let mut stream = TcpStream::connect(url.trim_start_matches("http://")).await;
        let stream = stream.as_mut().expect("an api listens");
        let sent = stream.write_all(begun.as_bytes()).await;
        sent.expect("an api reads");
        let mut rest = Vec::new();
        let closed = tokio::time::timeout(DEFAULT_LIMIT, stream.read_to_end(&mut rest)).await;
        closed
            .expect("the connection is closed")
            .expect("it is closed in order");
        assert!(!String::from_utf8_lossy(&rest).contains(" 200 "));
    }
    farm.stop().await;
}

#[tokio::test]
async fn a_result_over_the_limit_is_refused() {
    let farm = Farm::builder()
        .env("RESULT_LIMIT_BYTES", "1000")
        .start()
        .await;
    let client = farm.client();
    let executable = "{ text: (n) => 'x'.repeat(n), later: async (n) => 'x'.repeat(n) }";
    client.must_load("whole", executable).await;
    for (address, limits, allowed) in [
        ("plain", json!({}), 1_000),
        ("lowered", json!({ "resultBytes": 100 }), 100),
    ] {
        let load =
            json!({ "contractAddress": address, "executable": executable, "limits": limits });
        client
            .post("/loadSmartContract", &load)
            .await
            .is_no_content();
        for method in ["text", "later"] {
            // The limit includes the quotes.
            let fits = client.execute(address, method, &json!(allowed - 2)).await;
            assert_eq!(fits.status, 200, "{address} {method}: {fits:?}");
            let over = client.execute(address, method, &json!(allowed - 1)).await;
            over.error(500, "result_too_large");
        }
    }
    farm.stop().await;
}

#[tokio::test]
async fn a_load_without_free_capacity_is_refused() {
    let farm = Farm::builder()
        .apis(2)
        .workers(2)
        .env("WORKER_CAPACITY", "1")
        // Far longer than a client waits: the answer arrives at once, not at the deadline.
        .env("LOAD_DEADLINE_MS", "600000")
        .start()
        .await;
    let [one, two] = &farm.clients[..] else {
        unreachable!("two apis were asked for")
    };
    one.must_load("first", ECHO).await;
    two.must_load("second", ECHO).await;
    for client in &farm.clients {
        client.load("third", ECHO).await.error(503, "no_capacity");
        client
            .call("third", "echo")
            .await
            .error(404, "contract_not_loaded");
    }
    one.unload("second").await.is_no_content();
    two.must_load("third", ECHO).await;
    assert_eq!(one.execute("third", "echo", &json!(3)).await.data(), 3);
    assert_eq!(one.execute("first", "echo", &json!(1)).await.data(), 1);
    farm.stop().await;
}

#[tokio::test]
async fn a_load_without_a_worker_is_refused() {
    let farm = Farm::builder()
        .workers(0)
        .env("LOAD_DEADLINE_MS", "600000")
        .start()
        .await;
    let client = farm.client();
    let ready = client.get("/readyz").await;
    assert_eq!((ready.status, &ready.json()["workers"]), (200, &json!(0)));
    assert_eq!(ready.json()["status"], "unavailable");
    assert_eq!(client.get("/healthz").await.status, 200);
    client.load("abcd", ECHO).await.error(503, "no_capacity");
    client
        .call("abcd", "echo")
        .await
        .error(404, "contract_not_loaded");
    assert_eq!(client.contracts().await, Vec::<Value>::new());
    farm.stop().await;
}

#[tokio::test]
async fn a_request_over_the_in_flight_limit_is_refused() {
    let farm = Farm::builder().env("MAX_IN_FLIGHT", "2").start().await;
    let client = farm.client();
    let executable = "{
        slow: () => new Promise((resolve) => setTimeout(resolve, 1500, 'done')),
        quick: () => 1,
    }";
    client.must_load("abcd", executable).await;
    let mut slow = JoinSet::new();
    for _ in 0..2 {
        let client = client.clone();
        slow.spawn(async move { client.call("abcd", "slow").await });
    }
    wait::until_true("both calls to run", DEFAULT_LIMIT, async || {
        client.contract("abcd").await["queueDepth"] == 2
    })
    .await;
    client.call("abcd", "quick").await.error(503, "overloaded");
    client.load("other", ECHO).await.error(503, "overloaded");
    client.unload("abcd").await.error(503, "overloaded");
    // Health checks still work.
    assert_eq!(client.get("/healthz").await.status, 200);
    assert_eq!(client.get("/readyz").await.status, 200);
    for answer in slow.join_all().await {
        assert_eq!(answer.data(), "done");
    }
    assert_eq!(client.call("abcd", "quick").await.data(), 1);
    farm.stop().await;
}

#[tokio::test]
async fn a_call_over_the_contract_queue_limit_is_refused() {
    let farm = Farm::builder()
        .env("CONTRACT_QUEUE_LIMIT", "5")
        .start()
        .await;
    let client = farm.client();
    // While the page works, calls queue up.
    let executable = "{
        works: () => { const end = performance.now() + 1000; while (performance.now() < end); },
        quick: (a) => a,
    }";
    client.must_load("abcd", executable).await;
    client.must_load("other", ECHO).await;
    let mut calls = JoinSet::new();
    calls.spawn({
        let client = client.clone();
        async move { (Value::Null, client.call("abcd", "works").await) }
    });
    for number in 0..600 {
        let client = client.clone();
        calls.spawn(async move {
            (
                json!(number),
                client.execute("abcd", "quick", &json!(number)).await,
            )
        });
    }
    let other = client.execute("other", "echo", &json!(1)).await;
    assert_eq!(other.data(), 1);
    let (answered, refused): (Vec<_>, Vec<_>) = calls
        .join_all()
        .await
        .into_iter()
        .partition(|(_, answer)| answer.status == 200);
    assert!(!answered.is_empty() && !refused.is_empty());
    for (argument, answer) in answered {
        assert_eq!(answer.data(), argument);
    }
    for (_, answer) in refused {
        answer.error(503, "overloaded");
    }
    assert_eq!(client.execute("abcd", "quick", &json!(2)).await.data(), 2);
    farm.stop().await;
}

/// Large arguments stay in Redis until it is their calls' turn: a worker that fetched all of them
/// on arrival would hold them all.
#[tokio::test]
async fn large_arguments_wait_in_redis() {
    const CALLS: usize = 40;
    const BYTES: usize = 1_000_000;
    let farm = Farm::builder()
        .env("EXECUTE_TIMEOUT_MS", "20000")
        .env("EXECUTE_DEADLINE_MS", "60000")
        .start()
        .await;
    let client = farm.client();
    let executable = "{
        works: () => { const end = performance.now() + 3000; while (performance.now() < end); },
        length: (a) => a.length,
        small: (a) => a,
    }";
    client.must_load("abcd", executable).await;
    client.execute("abcd", "length", &json!("a")).await.data();
    let worker = farm.workers[0].pid();
    let before = rss_kib(worker);
    let mut calls = JoinSet::new();
    let working = client.clone();
    calls.spawn(async move { working.call("abcd", "works").await });
    wait::until_true("the page to work", DEFAULT_LIMIT, async || {
        client.contract("abcd").await["queueDepth"] == 1
    })
    .await;
    for _ in 0..CALLS {
        let client = client.clone();
        calls.spawn(async move {
            let answer = client.post_text("/execute/abcd/length", text(BYTES)).await;
            assert_eq!(answer.data(), BYTES - 2);
            answer
        });
    }
    wait::until_true("all calls to wait", DEFAULT_LIMIT, async || {
        client.contract("abcd").await["queueDepth"] == CALLS + 1
    })
    .await;
    let grown = rss_kib(worker).saturating_sub(before);
    assert!(grown < 15_000, "the worker has grown by {grown} KiB");
    let small = client.execute("abcd", "small", &json!(7)).await;
    assert_eq!(small.data(), 7, "a small call waits its turn behind them");
    for answer in calls.join_all().await {
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    farm.stop().await;
}

/// The resident memory of a process.
fn rss_kib(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    kib.expect("a running process has a size")
}

/// A contract that asks for more than the workers allow would run with less than it asked for.
#[tokio::test]
async fn limits_above_those_of_the_workers_are_refused() {
    let farm = Farm::builder()
        .env("EXECUTE_TIMEOUT_MS", "1000")
        .env("RESULT_LIMIT_BYTES", "2000")
        .env("CHROMIUM_CONTRACT_MB", "64")
        .start()
        .await;
    let client = farm.client();
    let load = async |limits: Value| {
        let body = json!({ "contractAddress": "abcd", "executable": ECHO, "limits": limits });
        client.post("/loadSmartContract", &body).await
    };
    for (name, highest) in [("timeoutMs", 1000), ("resultBytes", 2000), ("memoryMb", 64)] {
        let refused = load(json!({ name: highest + 1 })).await;
        let fields = refused.error(400, "invalid_request")["fields"].clone();
        let reason = fields["limits"].as_str().expect("the field is named");
        assert!(
            reason.contains(&format!("{name} must be at most {highest}")),
            "{reason}"
        );
    }
    assert_eq!(client.contracts().await, Vec::<Value>::new());
    let highest = json!({ "timeoutMs": 1000, "resultBytes": 2000, "memoryMb": 64 });
    load(highest.clone()).await.is_no_content();
    assert_eq!(client.contract("abcd").await["limits"], highest);
    load(json!({ "timeoutMs": 500 })).await.is_no_content();
    let lowered = json!({ "timeoutMs": 500, "resultBytes": 2000, "memoryMb": 64 });
    assert_eq!(client.contract("abcd").await["limits"], lowered);
    farm.stop().await;
}
