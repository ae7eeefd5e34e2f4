//! A farm on every kind of Redis: contracts are loaded, called, moved and unloaded.
//!
//! What each kind adds when servers of it fail is in `faults`.

use futures::future::join_all;
use redis_servers::Kind;
use serde_json::{Value, json};

use crate::support::client::Client;
use crate::support::farm::Farm;
use crate::support::wait::{self, DEFAULT_LIMIT};

const CONTRACT: &str = "
let count = 0;
function echo(value) { count += 1; return { value, count } }
function init() { return { echo } }
";

/// More contracts than servers, so that each server has keys of some.
const CONTRACTS: usize = 8;

#[tokio::test]
async fn a_farm_serves_with_tls() {
    serves(Kind::Tls).await;
}

#[tokio::test]
async fn a_farm_serves_behind_sentinels() {
    serves(Kind::Sentinel).await;
}

#[tokio::test]
async fn a_farm_serves_on_a_cluster() {
    serves(Kind::Cluster).await;
}

async fn serves(kind: Kind) {
    let farm = Farm::builder().redis(kind).env("REAP_GRACE_MS", "0");
    let mut farm = farm.apis(2).workers(2).start().await;
    let addresses: Vec<_> = (0..CONTRACTS).map(|number| format!("c{number}")).collect();
    let client = farm.client().clone();
    let loads = addresses
        .iter()
        .map(|address| client.must_load(address, CONTRACT));
    join_all(loads).await;
    for (number, client) in farm.clients.iter().enumerate() {
        for address in &addresses {
            assert_eq!(count(client, address).await, number + 1, "{address}");
        }
        is_listed(client, &addresses).await;
    }
    // An argument of this size travels beside the frame.
    let large = json!("x".repeat(100_000));
    let answer = client.execute("c0", "echo", &large).await;
    assert_eq!(answer.data()["value"], large);
    client
        .must_load("c1", &format!("{CONTRACT}// another one"))
        .await;
    assert_eq!(count(&client, "c1").await, 1, "a new state");

    farm.workers[0].kill().await;
    for address in &addresses {
        wait::until_true("the contract to answer", DEFAULT_LIMIT, async || {
            client.call(address, "echo").await.status == 200
        })
        .await;
    }
    for address in &addresses {
        client.unload(address).await.is_no_content();
        let answer = farm.clients[1].call(address, "echo").await;
        answer.error(404, "contract_not_loaded");
    }
    farm.wait_until_recovered().await;
    farm.stop().await;
}

/// How often the contract was called in its present state.
async fn count(client: &Client, address: &str) -> usize {
    let answer = client.execute(address, "echo", &json!([1, "two"])).await;
    let data = answer.data();
    assert_eq!(data["value"], json!([1, "two"]));
    let count = data["count"].as_u64().expect("a number");
    usize::try_from(count).expect("a small number")
}

async fn is_listed(client: &Client, addresses: &[String]) {
    let contracts = client.contracts().await;
    let listed = contracts.iter().map(|each| &each["contractAddress"]);
    let mut listed: Vec<_> = listed.filter_map(Value::as_str).collect();
    listed.sort_unstable();
    assert_eq!(listed, addresses);
}
