//! What exists: the list of contracts by pages, what listing and asking cost Redis, and what a
//! load or unload answers that may have been carried out.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::support::client::Client;
use crate::support::farm::Farm;
use crate::support::proxy::Proxy;
use crate::support::wait::{self, DEFAULT_LIMIT};

const CONTRACT: &str = "{ echo: (a) => a }";

/// The commands that idle processes send: heartbeats, leases, probes, waiting for jobs and replies.
const IDLE: [&str; 18] = [
    "client|setinfo",
    "config|resetstat",
    "exists",
    "get",
    "hget",
    "hmget",
    "info",
    "pexpire",
    "ping",
    "pubsub|numsub",
    "set",
    "time",
    "unwatch",
    "xautoclaim",
    "xread",
    "xreadgroup",
    "xtrim",
    "zadd",
];

fn addresses(listed: &Value) -> Vec<&str> {
    let contracts = listed.as_array().expect("a list").iter();
    let addresses = contracts.map(|contract| contract["contractAddress"].as_str());
    addresses.map(|address| address.expect("text")).collect()
}

/// Forgets which commands Redis has run so far.
async fn reset(farm: &Farm) {
    farm.redis_command::<()>(&["CONFIG", "RESETSTAT"]).await;
}

/// How often Redis has run each command since the last [`reset`].
async fn commands(farm: &Farm) -> BTreeMap<String, u64> {
    let text: String = farm.redis_command(&["INFO", "commandstats"]).await;
    let counts = text.lines().filter_map(|line| {
        let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        Some((name.to_owned(), rest.split_once(',')?.0.parse().ok()?))
    });
    counts.collect()
}

#[tokio::test]
async fn contracts_are_listed_page_by_page() {
    let farm = Farm::start().await;
    let client = farm.client();
    let loaded = ["e", "d", "c", "b", "a"];
    for address in loaded {
        client.must_load(address, CONTRACT).await;
    }
    // A caller that knows nothing of pages gets what it always got, up to 100 contracts.
    let all = client.get("/contracts").await;
    assert_eq!(addresses(&all.json()), loaded, "the oldest load first");
    assert_eq!(all.next_page(), None);
    for contract in all.json().as_array().expect("a list") {
        assert_eq!(contract["state"], "ready");
        assert_eq!(contract["endpoints"], json!(["echo"]));
        assert!(contract["host"].is_string());
        assert!(contract.get("queueDepth").is_none(), "only its owner knows");
    }

    let (mut pages, mut path) = (Vec::new(), Some("/contracts?limit=2".to_owned()));
    while let Some(page) = path {
        let answer = client.get(&page).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        pages.push(addresses(&answer.json()).join(" "));
        path = answer.next_page();
        if pages.len() == 1 {
            // Neither what goes nor what is loaded again hides another one.
            client.unload("d").await.is_no_content();
            let other = "{ other: () => 1 }";
            client.must_load("e", other).await;
        }
    }
    assert_eq!(pages, ["e d", "c b", "a e"]);

    for wrong in ["limit=0", "limit=1001", "limit=x", "limit="] {
        let answer = client.get(&format!("/contracts?{wrong}")).await;
        let error = answer.error(400, "invalid_request");
        assert!(error["fields"]["limit"].is_string(), "{error}");
    }
    let answer = client.get("/contracts?after=abcd").await;
    let error = answer.error(400, "invalid_request");
    assert!(error["fields"]["after"].is_string(), "{error}");
    farm.stop().await;
}

#[tokio::test]
async fn a_list_costs_no_walk_of_the_keys_and_no_job() {
    let farm = Farm::start().await;
    let client = farm.client();
    for address in ["a", "b", "c"] {
        client.must_load(address, CONTRACT).await;
    }
    wait::until_true("the loads to be audited", DEFAULT_LIMIT, async || {
        farm.redis_command::<usize>(&["XLEN", "exec:audit"]).await == 3
    })
    .await;
    reset(&farm).await;
    for _ in 0..50 {
        assert_eq!(client.get("/contracts").await.status, 200);
    }
    let ran = commands(&farm).await;
    for never in ["scan", "keys", "xadd", "evalsha", "hgetall"] {
        assert_eq!(ran.get(never), None, "{ran:?}");
    }
    assert_eq!(ran["zrange"], 100, "the page, and the living workers");
    assert_eq!(ran["hmget"], 150, "in one pipeline");
    farm.stop().await;
}

#[tokio::test]
async fn asking_for_a_missing_contract_writes_nothing() {
    const TIMES: u64 = 100;
    let farm = Farm::start().await;
    let client = farm.client();
    let ask = async |client: &Client| {
        let known = client.get("/contracts/none").await;
        known.error(404, "contract_not_loaded");
        let called = client.call("none", "echo").await;
        called.error(404, "contract_not_loaded");
    };
    ask(client).await;
    reset(&farm).await;
    for _ in 0..TIMES {
        ask(client).await;
    }
    let ran = commands(&farm).await;
    let idle = |name: &String| IDLE.contains(&name.as_str()) || name.starts_with("zr");
    let other: Vec<_> = ran.keys().filter(|name| !idle(name)).collect();
    assert!(other.is_empty(), "{other:?} of {ran:?}");
    for command in ["set", "zadd", "pexpire", "hget"] {
        let count = ran.get(command).copied().unwrap_or_default();
        assert!(
            count < TIMES,
            "{count} {command}: not only heartbeats and probes"
        );
    }
    assert!(ran["hmget"] >= 2 * TIMES, "{ran:?}");
    farm.stop().await;
}

/// An api behind a proxy, and one worker.
async fn behind_proxy() -> (Farm, Proxy, Client) {
    let mut farm = Farm::builder()
        .apis(0)
        .env("REAP_GRACE_MS", "0")
        .start()
        .await;
    let proxy = Proxy::start(farm.redis.port()).await;
    farm.join_api_with(&[("REDIS_URL", &proxy.url())]).await;
    let client = farm.client().clone();
    (farm, proxy, client)
}

/// Row 11: the command that places the load gets no answer. Redis may have received it.
#[tokio::test]
async fn a_load_that_redis_may_have_received_is_not_called_unstarted() {
    let (farm, proxy, client) = behind_proxy().await;
    proxy.hold_before("XADD");
    let answer = client.load("abcd", CONTRACT).await;
    let error = answer.error(503, "queue_unavailable");
    assert_eq!(error.get("started"), None, "{error}");
    proxy.heal();
    wait::until_true("the load to be repeated", DEFAULT_LIMIT, async || {
        client.load("abcd", CONTRACT).await.status == 204
    })
    .await;
    client.unload("abcd").await.is_no_content();
    farm.stop().await;
}

/// Row 11: the command that removes the record of an unassigned contract gets no answer.
#[tokio::test]
async fn an_unload_that_redis_may_have_received_is_not_called_unstarted() {
    let (mut farm, proxy, client) = behind_proxy().await;
    client.must_load("abcd", CONTRACT).await;
    farm.workers[0].kill().await;
    wait::until_true("the contract to be released", DEFAULT_LIMIT, async || {
        let workers: Vec<String> = farm.redis.workers("exec:").await;
        workers.is_empty()
    })
    .await;
    proxy.hold_before("EVALSHA");
    let answer = client.unload("abcd").await;
    let error = answer.error(503, "queue_unavailable");
    assert_eq!(error.get("started"), None, "{error}");
    proxy.heal();
    wait::until_true("the unload to be repeated", DEFAULT_LIMIT, async || {
        client.unload("abcd").await.status == 204
    })
    .await;
    assert!(client.contracts().await.is_empty());
    farm.stop_ignoring_keys().await;
}

/// An operator finds the contract that causes trouble without a restart and without its name.
#[tokio::test]
async fn contracts_are_ranked_by_what_their_owners_report() {
    let farm = Farm::builder()
        .workers(2)
        .env("EXECUTE_TIMEOUT_MS", "300")
        .start()
        .await;
    let client = farm.client();
    let executable =
        "{ one: () => 1, throws: () => { throw new Error('no') }, spins: () => { for (;;); } }";
    for address in ["busy", "wrong", "loops", "quiet"] {
        client.must_load(address, executable).await;
    }
    for _ in 0..5 {
        client.call("busy", "one").await.data();
    }
    for _ in 0..2 {
        let thrown = client.call("wrong", "throws").await;
        thrown.error(500, "execution_failed");
    }
    let overrun = client.call("loops", "spins").await;
    overrun.error(504, "execution_timeout");
    let first = async |sort: &str| {
        let path = format!("/contracts?limit=2&sort={sort}");
        let listed = client.get(&path).await.json();
        let listed = listed.as_array().expect("a list is an array").clone();
        assert_eq!(listed.len(), 2, "{sort}: {listed:?}");
        let figure = |index: usize| listed[index][sort].as_u64().expect("a figure");
        assert!(figure(0) >= figure(1), "{sort}: {listed:?}");
        listed[0].clone()
    };
    assert_eq!(first("calls").await["contractAddress"], "busy");
    assert_eq!(first("errors").await["contractAddress"], "wrong");
    assert_eq!(first("losses").await["contractAddress"], "loops");
    assert_eq!(first("ranMs").await["contractAddress"], "loops");
    client
        .get("/contracts?sort=name")
        .await
        .error(400, "invalid_request");
    farm.stop().await;
}
