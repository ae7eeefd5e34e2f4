//! Programs that are asked to end under load, and workers that join and leave.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use reqwest::Method;
use serde_json::json;

use super::{builder, generations, load_recorders, shared, standby};
use crate::support::call_log::CONTRACT;
use crate::support::client::{Client, try_send};
use crate::support::farm::Farm;
use crate::support::load::{Load, Pace};
use crate::support::proxy::{Condition, Proxy};
use crate::support::wait::{self, DEFAULT_LIMIT};

#[tokio::test]
async fn fault_13_end_a_worker_under_load() {
    let _machine = shared().await;
    let (mut farm, addresses) = standby(builder(), 4).await;
    let client = farm.client().clone();
    let before = generations(&client, &addresses).await;
    let load = Load::start(&farm.clients, &addresses, Pace::STEADY);
    load.full_pace().await;
    let signalled = Instant::now();
    farm.workers[0].terminate().await;
    eprintln!("drain of 4 contracts: {:.2?}", signalled.elapsed());
    load.full_pace().await;
    load.end().await.check(&client, &["ok"]).await;
    let after = generations(&client, &addresses).await;
    assert!(
        after
            .iter()
            .zip(before)
            .all(|(after, before)| *after > before)
    );
    farm.wait_until_recovered().await;
    farm.stop().await;
}

#[tokio::test]
async fn fault_13_drain_a_worker_with_50_contracts_on_request() {
    let _machine = shared().await;
    let mut farm = builder().workers(0).start().await;
    let first = farm.join().await;
    let addresses = load_recorders(farm.client(), 50).await;
    let second = farm.join().await;
    let client = farm.client().clone();
    let workers = client.workers().await;
    let worker = workers
        .iter()
        .find(|worker| worker["id"] == first.id)
        .expect("it is listed");
    assert_eq!(worker["state"], "ready");
    assert_eq!(
        (&worker["used"], &worker["capacity"]),
        (&json!(50), &json!(64))
    );
    assert_eq!(worker["engines"], json!(["javascript"]));
    assert!(worker["version"].is_string(), "{worker}");

    let load = Load::start(&farm.clients, &addresses, Pace::STEADY);
    load.full_pace().await;
    let asked = Instant::now();
    assert_eq!(client.drain(&first.id).await.status, 202);
    let status = farm.workers[first.index].end(DEFAULT_LIMIT).await;
    eprintln!("drain of 50 contracts: {:.2?}", asked.elapsed());
    assert!(status.success(), "{status}");
    load.full_pace().await;
    load.end().await.check(&client, &["ok"]).await;
    let workers = client.workers().await;
    assert_eq!(workers.len(), 1, "{workers:?}");
    assert_eq!(
        (&workers[0]["id"], &workers[0]["used"]),
        (&json!(second.id), &json!(50))
    );
    client.drain(&first.id).await.error(404, "worker_not_found");
    farm.wait_until_recovered().await;
    farm.stop().await;
}

#[tokio::test]
async fn fault_13_a_second_signal_ends_a_worker_at_once() {
    let _machine = shared().await;
    let mut farm = with_a_call_that_never_ends("60000").await;
    farm.workers[0].signal(Signal::SIGTERM);
    // A draining worker accepts no contract any more. That state shows that it handled the signal.
    let client = farm.client().clone();
    wait::until_true("the drain to begin", DEFAULT_LIMIT, async || {
        let workers = client.workers().await;
        workers.iter().all(|worker| worker["state"] == "draining")
    })
    .await;
    assert!(
        farm.workers[0].ended().is_none(),
        "the worker did not wait for the call"
    );
    ends_within(farm, Duration::from_secs(1)).await;
}

#[tokio::test]
async fn fault_13_a_second_signal_under_load_loses_nothing() {
    let _machine = shared().await;
    let builder = builder().env("EXECUTE_TIMEOUT_MS", "8000");
    let (mut farm, addresses) = standby(builder, 6).await;
    let client = farm.client().clone();
    let before = generations(&client, &addresses).await;
    let load = Load::start(&farm.clients, &addresses, Pace::STEADY);
    load.full_pace().await;
    // This contract cannot be handed over before the call has ended.
    let (caller, address) = (client.clone(), addresses[0].clone());
    let slow = tokio::spawn(async move {
        let argument = json!({ "id": 1_000_000, "ms": 4_000 });
        caller.execute(&address, "wait", &argument).await
    });
    wait::pass(Duration::from_millis(500)).await;
    farm.workers[0].signal(Signal::SIGTERM);
    wait::until_true("the drain to begin", DEFAULT_LIMIT, async || {
        let workers = client.workers().await;
        workers.iter().any(|worker| worker["state"] == "draining")
    })
    .await;
    farm.workers[0].signal(Signal::SIGTERM);
    let signalled = Instant::now();
    let status = farm.workers[0].end(Duration::from_secs(2)).await;
    assert_eq!(
        status.code(),
        Some(0),
        "a drained worker must exit with code 0"
    );
    load.full_pace().await;
    let took = signalled.elapsed();
    eprintln!("second signal to full pace: {took:.2?}");
    let answer = slow.await.expect("the caller does not panic");
    assert_eq!(answer.data()["times"], 1);
    load.end().await.check(&client, &["ok"]).await;
    let after = generations(&client, &addresses).await;
    let moved = |(after, before)| after > before;
    assert!(after.into_iter().zip(before).all(moved));
    farm.wait_until_recovered().await;
    farm.stop().await;
}

#[tokio::test]
async fn fault_13_a_drain_during_a_load() {
    let _machine = shared().await;
    let mut farm = builder().workers(0).start().await;
    let proxy = Proxy::start(farm.redis.port()).await;
    let first = farm.join_with(&[("REDIS_URL", &proxy.url())]).await;
    let client = farm.client().clone();
    proxy.set_all(Condition::Delayed(Duration::from_millis(200)));
    let caller = client.clone();
    let loading = tokio::spawn(async move { caller.load("late", CONTRACT).await });
    // The worker is about to own the contract, but has not recorded it as its own yet.
    let own = format!("exec:{{w:{}}}:own", first.id);
    wait::until_true("the load to begin", DEFAULT_LIMIT, async || {
        farm.redis_command::<bool>(&["EXISTS", &own]).await
    })
    .await;
    farm.workers[first.index].signal(Signal::SIGTERM);
    proxy.heal();
    let status = farm.workers[first.index].end(DEFAULT_LIMIT).await;
    assert!(status.success(), "{status}");
    loading
        .await
        .expect("the caller does not panic")
        .is_no_content();
    farm.join().await;
    let answer = client.execute("late", "add", &json!(1)).await;
    assert_eq!(answer.data()["count"], 1, "{answer:?}");
    farm.wait_until_recovered().await;
    farm.stop().await;
}

#[tokio::test]
async fn fault_13_a_worker_ends_after_its_grace_period() {
    let _machine = shared().await;
    let farm = with_a_call_that_never_ends("1000").await;
    ends_within(farm, Duration::from_secs(2)).await;
}

/// Starts a farm with one call in flight that never ends.
async fn with_a_call_that_never_ends(grace_ms: &str) -> Farm {
    let farm = builder()
        .env("SHUTDOWN_GRACE_MS", grace_ms)
        .env("EXECUTE_TIMEOUT_MS", "60000")
        .start()
        .await;
    let client = farm.client().clone();
    client
        .must_load("slow", "{ never: () => new Promise(() => {}) }")
        .await;
    tokio::spawn(try_send(
        client.request(Method::POST, "/execute/slow/never"),
    ));
    is_running(&client, "slow").await;
    farm
}

/// Sends SIGTERM to the worker and checks that it ends within `limit`.
async fn ends_within(mut farm: Farm, limit: Duration) {
    let signalled = Instant::now();
    farm.workers[0].signal(Signal::SIGTERM);
    let status = farm.workers[0].end(limit).await;
    assert_eq!(
        status.code(),
        Some(0),
        "a drained worker must exit with code 0"
    );
    eprintln!("ended {:.2?} after the signal", signalled.elapsed());
    farm.apis[0].kill().await;
    farm.stop_ignoring_keys().await;
}

#[tokio::test]
async fn fault_14_end_an_api_under_load() {
    let _machine = shared().await;
    let mut farm = builder().apis(2).start().await;
    let addresses = load_recorders(farm.client(), 2).await;
    let load = Load::retrying(1, &farm.clients, &addresses, Pace::STEADY);
    load.full_pace().await;
    let slow = tokio::spawn(slow_call(farm.client().clone(), addresses[0].clone()));
    is_running(&farm.clients[1], &addresses[0]).await;
    farm.apis[0].terminate().await;
    assert_eq!(slow.await.expect("the caller does not panic"), 1);
    load.full_pace().await;
    farm.clients.remove(0);
    load.end().await.check(farm.client(), &["ok"]).await;
    farm.wait_until_recovered().await;
    farm.stop().await;
}

/// A call that runs for 1.5 s.
async fn slow_call(client: Client, address: String) -> u64 {
    let argument = json!({ "id": 1_000_000, "ms": 1_500 });
    let answer = client.execute(&address, "wait", &argument).await;
    answer.data()["times"].as_u64().expect("a number")
}

async fn is_running(client: &Client, address: &str) {
    wait::until_true("the call to run", DEFAULT_LIMIT, async || {
        client.contract(address).await["queueDepth"] != 0
    })
    .await;
}

#[tokio::test]
async fn fault_33_scale_from_1_to_3_to_1_under_load() {
    let _machine = shared().await;
    let mut farm = builder().apis(2).workers(0).start().await;
    let first = farm.join().await;
    let addresses = load_recorders(farm.client(), 6).await;
    let client = farm.client().clone();
    let load = Load::start(&farm.clients, &addresses, Pace::STEADY);
    load.full_pace().await;
    let second = farm.join().await;
    let third = farm.join().await;
    for leaving in [&first, &second] {
        load.full_pace().await;
        farm.workers[leaving.index].terminate().await;
    }
    load.full_pace().await;
    load.end().await.check(&client, &["ok"]).await;
    for address in &addresses {
        assert_eq!(
            client.owner(address).await.as_ref(),
            Some(&third.id),
            "{address}"
        );
    }
    farm.wait_until_recovered().await;
    farm.stop().await;
}
