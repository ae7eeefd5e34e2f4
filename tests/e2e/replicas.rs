//! Contracts that run on several workers at once.

use std::collections::HashSet;

use serde_json::{Value, json};

use crate::support::client::Client;
use crate::support::farm::Farm;
use crate::support::wait::{self, DEFAULT_LIMIT};

/// A contract that returns which of the replicas answers.
const CONTRACT: &str = "const me = Math.random();
    function init() { return { who: () => me, wait: () => new Promise((r) => setTimeout(() => r(me), 100)) } }";

async fn load(client: &Client, replicas: &Value) -> crate::support::client::Answer {
    let body = json!({
        "contractAddress": "abcd", "executable": CONTRACT, "replicas": replicas,
    });
    client.post("/loadSmartContract", &body).await
}

async fn owners(client: &Client) -> HashSet<String> {
    let contract = client.contract("abcd").await;
    let owners = contract["hosts"].as_array().expect("a list");
    let owners = owners.iter().map(|id| id.as_str().expect("an id"));
    owners.map(str::to_owned).collect()
}

/// The replicas that answer `count` simultaneous calls.
async fn who(client: &Client, method: &str, count: usize) -> HashSet<String> {
    let calls = (0..count).map(|_| client.call("abcd", method));
    let answers = futures::future::join_all(calls).await;
    answers
        .iter()
        .map(|answer| answer.data().to_string())
        .collect()
}

#[tokio::test]
async fn replicas_share_the_calls_and_are_replaced() {
    let mut farm = Farm::builder()
        .workers(2)
        .env("REAP_GRACE_MS", "0")
        .start()
        .await;
    let client = farm.client().clone();
    load(&client, &json!(2)).await.is_no_content();
    let both = owners(&client).await;
    assert_eq!(both.len(), 2);
    assert_eq!(client.contract("abcd").await["replicas"], 2);
    assert_eq!(client.contracts().await.len(), 1);
    let first = who(&client, "wait", 20).await;
    assert_eq!(first.len(), 2, "both answer");

    farm.workers[0].kill().await;
    // The other replica answers at once. Later another worker replaces the lost replica.
    assert_eq!(who(&client, "who", 20).await.len(), 1);
    farm.add_worker().await;
    wait::until_true(
        "the lost replica to be replaced",
        DEFAULT_LIMIT,
        async || {
            client.call("abcd", "who").await.data();
            owners(&client).await.len() == 2
        },
    )
    .await;
    let second = wait::until("both to be called", DEFAULT_LIMIT, async || {
        Some(who(&client, "wait", 20).await).filter(|both| both.len() == 2)
    })
    .await;
    assert_eq!(second.intersection(&first).count(), 1, "one of them is new");

    // Fewer replicas from now on.
    load(&client, &json!(1)).await.is_no_content();
    assert_eq!(owners(&client).await.len(), 1);
    assert_eq!(who(&client, "wait", 20).await.len(), 1);
    client.unload("abcd").await.is_no_content();
    client
        .call("abcd", "who")
        .await
        .error(404, "contract_not_loaded");
    assert!(client.contracts().await.is_empty());
    farm.stop().await;
}

#[tokio::test]
async fn replicas_need_a_worker_each() {
    let farm = Farm::builder().workers(2).start().await;
    let client = farm.client().clone();
    load(&client, &json!(3)).await.error(503, "no_capacity");
    assert!(client.contracts().await.is_empty());
    for wrong in [json!(0), json!(17), json!(1.5), json!("2")] {
        let body = load(&client, &wrong).await.error(400, "invalid_request");
        assert!(body["fields"]["replicas"].is_string(), "{body}");
    }
    // A single replica cannot be addressed.
    load(&client, &json!(2)).await.is_no_content();
    client
        .call("abcd~2", "who")
        .await
        .error(400, "invalid_request");
    client.unload("abcd").await.is_no_content();
    farm.stop().await;
}
