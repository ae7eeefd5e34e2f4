//! How processes end: browsers and pages are restarted, and programs leave nothing behind.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::json;
use tokio::task::JoinHandle;

use crate::support::chaos::{freeze, thaw};
use crate::support::client::{Answer, Client};
use crate::support::farm::Farm;
use crate::support::processes::{self, ProcessInfo};
use crate::support::traffic::Traffic;
use crate::support::wait::{self, DEFAULT_LIMIT};

const COUNTER: &str = "
let calls = 0;
function count() { calls += 1; return calls }
function echo(a) { return a }
function slow() { return new Promise((resolve) => setTimeout(resolve, 1500, 'done')) }
function init() { return { count, echo, slow } }
";

/// Loads contracts, calls each one, and returns their generations.
async fn load_all(client: &Client, addresses: &[&str]) -> Vec<u64> {
    let mut generations = Vec::new();
    for address in addresses {
        client.must_load(address, COUNTER).await;
        let answer = client.call(address, "count").await;
        assert_eq!(answer.data(), 1);
        generations.push(answer.generation());
    }
    generations
}

/// Checks that the contracts answer from new pages.
async fn all_were_recreated(client: &Client, addresses: &[&str], before: &[u64]) {
    for (address, before) in addresses.iter().zip(before) {
        let answer = wait::until("the contract to answer", DEFAULT_LIMIT, async || {
            Some(client.call(address, "count").await).filter(|answer| answer.status == 200)
        })
        .await;
        assert_eq!(answer.data(), 1, "{address}: {answer:?}");
        assert!(answer.generation() > *before, "{address}: {answer:?}");
    }
}

async fn all_are_gone(processes: &[ProcessInfo]) {
    wait::until_true("the processes to end", DEFAULT_LIMIT, async || {
        !processes.iter().any(ProcessInfo::runs)
    })
    .await;
}

#[tokio::test]
async fn a_killed_browser_is_restarted() {
    let farm = Farm::start().await;
    let client = farm.client();
    let addresses = ["one", "two"];
    let before = load_all(client, &addresses).await;
    let browsers = farm.browsers(0);
    assert_eq!(browsers.len(), 1, "{browsers:#?}");
    let traffic = Traffic::start(&farm.clients, "one", "echo");
    traffic.flows().await;
    browsers[0].kill();
    all_are_gone(&browsers).await;
    traffic.flows().await;
    // A call that ran on the lost page was run again, so no caller saw a failure.
    for answer in traffic.end().await {
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    all_were_recreated(client, &addresses, &before).await;
    assert_eq!(farm.browsers(0).len(), 1);
    assert_eq!(farm.profiles().len(), 1, "{:?}", farm.profiles());
    farm.stop().await;
}

#[tokio::test]
async fn a_killed_page_is_recreated() {
    let farm = Farm::start().await;
    let client = farm.client();
    let addresses = ["one", "two"];
    let before = load_all(client, &addresses).await;
    let (browsers, renderers) = (farm.browsers(0), farm.renderers(0));
    assert!(
        renderers.len() >= 2,
        "each contract has its own process: {renderers:#?}"
    );
    let traffic = Traffic::start(&farm.clients, "one", "echo");
    traffic.flows().await;
    for renderer in &renderers {
        renderer.kill();
    }
    traffic.flows().await;
    for answer in traffic.end().await {
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    all_were_recreated(client, &addresses, &before).await;
    assert_eq!(farm.browsers(0), browsers, "the browser itself did not end");
    farm.stop().await;
}

#[tokio::test]
async fn an_unloaded_contract_leaves_no_process() {
    let farm = Farm::builder()
        .env("CHROMIUM_SPARE_PAGES", "0")
        .start()
        .await;
    let client = farm.client();
    load_all(client, &["kept"]).await;
    let before = farm.renderers(0).len();
    let addresses = ["one", "two", "three"];
    load_all(client, &addresses).await;
    assert!(farm.renderers(0).len() >= before + addresses.len());
    for address in addresses {
        client.unload(address).await.is_no_content();
    }
    wait::until_true("the pages' processes to end", DEFAULT_LIMIT, async || {
        farm.renderers(0).len() <= before
    })
    .await;
    assert_eq!(client.call("kept", "count").await.data(), 2);
    farm.stop().await;
}

#[tokio::test]
async fn a_draining_worker_hands_over_its_contracts_and_leaves_nothing() {
    let mut farm = Farm::builder().apis(2).start().await;
    let client = farm.client().clone();
    let addresses = ["one", "two", "three", "four"];
    let before = load_all(&client, &addresses).await;
    let (first_profiles, seen) = (
        farm.profiles(),
        processes::descendants(farm.workers[0].pid()),
    );
    let owner = client
        .owner("one")
        .await
        .expect("a loaded contract has an owner");
    assert!(
        farm.redis
            .keys()
            .await
            .iter()
            .any(|key| key.contains(&owner))
    );
    farm.add_worker().await;

    let traffic = Traffic::start(&farm.clients, "one", "echo");
    traffic.flows().await;
    farm.workers[0].terminate().await;
    let running: Vec<&ProcessInfo> = seen.iter().filter(|process| process.runs()).collect();
    assert!(running.is_empty(), "processes are left: {running:#?}");
    assert!(
        !farm
            .profiles()
            .iter()
            .any(|profile| first_profiles.contains(profile))
    );
    let keys = farm.redis.keys().await;
    assert!(
        !keys.iter().any(|key| key.contains(&owner)),
        "keys are left: {keys:?}"
    );
    let workers = farm.redis.workers("exec:").await;
    assert!(workers.len() == 1 && workers[0] != owner, "{workers:?}");

    all_were_recreated(&client, &addresses, &before).await;
    for address in addresses {
        assert_eq!(
            client.owner(address).await.as_ref(),
            workers.first(),
            "{address}"
        );
    }
    traffic.flows().await;
    for answer in traffic.end().await {
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    farm.stop().await;
}

#[tokio::test]
async fn contracts_survive_the_end_of_the_last_worker() {
    let mut farm = Farm::start().await;
    let client = farm.client().clone();
    let before = load_all(&client, &["abcd"]).await;
    farm.workers[0].terminate().await;
    wait::until_true(
        "the api to say that it can run nothing",
        DEFAULT_LIMIT,
        async || client.farm_status().await.as_deref() == Some("unavailable"),
    )
    .await;
    assert_eq!(client.get("/healthz").await.status, 200);
    let contract = client.contract("abcd").await;
    assert_eq!(
        (&contract["state"], &contract["host"]),
        (&json!("unplaced"), &json!(null))
    );
    farm.add_worker().await;
    all_were_recreated(&client, &["abcd"], &before).await;
    farm.stop().await;
}

/// A call that runs for a while, and is running when this returns.
async fn running_call(client: &Client) -> JoinHandle<Answer> {
    let slow = tokio::spawn({
        let client = client.clone();
        async move { client.call("abcd", "slow").await }
    });
    wait::until_true("the call to run", DEFAULT_LIMIT, async || {
        client.contract("abcd").await["queueDepth"] == 1
    })
    .await;
    slow
}

#[tokio::test]
async fn a_worker_finishes_running_calls_before_it_ends() {
    let mut farm = Farm::start().await;
    let client = farm.client().clone();
    load_all(&client, &["abcd"]).await;
    let slow = running_call(&client).await;
    farm.workers[0].terminate().await;
    assert_eq!(slow.await.unwrap().data(), "done");
    farm.add_worker().await;
    farm.stop().await;
}

/// As when an operator drains a worker, and Kubernetes then ends it.
#[tokio::test]
async fn a_drain_goes_on_when_its_worker_is_terminated() {
    let mut farm = Farm::start().await;
    let client = farm.client().clone();
    load_all(&client, &["abcd"]).await;
    let slow = running_call(&client).await;
    let id = client.workers().await[0]["id"].as_str().unwrap().to_owned();
    assert_eq!(client.drain(&id).await.status, 202);
    farm.workers[0].terminate().await;
    assert_eq!(slow.await.unwrap().data(), "done");
    farm.add_worker().await;
    farm.stop().await;
}

#[tokio::test]
async fn a_killed_worker_leaves_no_process_and_no_profile() {
    let mut farm = Farm::start().await;
    load_all(farm.client(), &["one", "two"]).await;
    let seen = processes::descendants(farm.workers[0].pid());
    assert!(
        seen.iter().any(ProcessInfo::is_browser) && seen.iter().any(ProcessInfo::is_renderer),
        "{seen:#?}"
    );
    assert!(!farm.profiles().is_empty());
    farm.workers[0].kill().await;
    all_are_gone(&seen).await;
    wait::until_true("the profiles to go", DEFAULT_LIMIT, async || {
        farm.profiles().is_empty()
    })
    .await;
    farm.stop_ignoring_keys().await;
}

#[tokio::test]
async fn an_api_finishes_running_calls_before_it_ends() {
    let mut farm = Farm::builder().apis(2).start().await;
    let client = farm.client().clone();
    load_all(&client, &["abcd"]).await;
    let slow = tokio::spawn({
        let client = client.clone();
        async move { client.call("abcd", "slow").await }
    });
    wait::until_true("the call to run", DEFAULT_LIMIT, async || {
        farm.clients[1].contract("abcd").await["queueDepth"] == 1
    })
    .await;
    farm.apis[0].terminate().await;
    assert_eq!(slow.await.unwrap().data(), "done");
    // The other api continues to serve.
    let rest = farm.clients.split_off(1);
    farm.clients = rest;
    assert_eq!(farm.client().call("abcd", "count").await.data(), 2);
    farm.stop().await;
}

#[tokio::test]
async fn an_interrupt_ends_a_program_as_well() {
    let mut farm = Farm::start().await;
    load_all(farm.client(), &["abcd"]).await;
    farm.client().unload("abcd").await.is_no_content();
    let (worker, api) = (&mut farm.workers[0], &mut farm.apis[0]);
    worker.signal(Signal::SIGINT);
    assert!(
        worker.end(DEFAULT_LIMIT).await.success(),
        "{}",
        worker.log()
    );
    api.signal(Signal::SIGINT);
    assert!(api.end(DEFAULT_LIMIT).await.success(), "{}", api.log());
    farm.clients.clear();
    farm.stop().await;
}

/// Nobody answers for a frozen worker before it is fenced. Whoever asks about its contracts, or
/// drains it, gets an answer all the same.
#[tokio::test]
async fn a_worker_that_does_not_answer_holds_nobody_up() {
    let mut farm = Farm::builder().workers(0).start().await;
    let client = farm.client().clone();
    let first = farm.join().await;
    client.must_load("abcd", "{ one: () => 1 }").await;
    farm.join().await;
    freeze(&mut farm.workers[first.index]);
    let asked = Instant::now();
    let (contract, drained) = tokio::join!(client.contract("abcd"), client.drain(&first.id));
    let took = asked.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert_eq!(contract["contractAddress"], "abcd");
    assert!(contract["queueDepth"].is_null(), "{contract}");
    drained.error(504, "execution_timeout");

    thaw(&mut farm.workers[first.index]);
    // It drains, unless the machine was so slow that it was fenced meanwhile.
    wait::until_true("the contract to answer again", DEFAULT_LIMIT, async || {
        client.call("abcd", "one").await.status == 200
    })
    .await;
    farm.stop().await;
}
