//! Workers that are killed, frozen, or cut off from Redis.

use std::time::{Duration, Instant};

use futures::future::join_all;
use serde_json::json;

use super::{FAILOVER, builder, generations, load_recorders, shared, standby};
use crate::support::call_log::{CONTRACT, percentile};
use crate::support::chaos::{JoinedWorker, freeze, thaw};
use crate::support::client::Client;
use crate::support::farm::Farm;
use crate::support::load::{Load, Pace};
use crate::support::proxy::{Condition, Proxy, Role};
use crate::support::scrape::Scrape;
use crate::support::wait::{self, DEFAULT_LIMIT};

#[tokio::test]
async fn fault_01_kill_an_idle_worker() {
    let _machine = shared().await;
    let (mut farm, addresses) = standby(builder(), 5).await;
    let client = farm.client().clone();
    let before = generations(&client, &addresses).await;
    farm.workers[0].kill().await;
    let killed = Instant::now();
    let calls = addresses.iter().map(async |address| {
        let answer = client.execute(address, "add", &json!(1)).await;
        (answer, killed.elapsed())
    });
    let answers = join_all(calls).await;
    for ((answer, took), before) in answers.iter().zip(before) {
        assert_eq!(answer.data()["count"], 1, "{answer:?}");
        assert!(answer.generation() > before, "{answer:?}");
        assert!(*took < FAILOVER, "{took:?}");
    }
    let times: Vec<_> = answers.iter().map(|(_, took)| took).collect();
    eprintln!("kill -9 to the next answers: {times:.2?}");
    farm.wait_until_recovered().await;
    farm.stop().await;
}

#[tokio::test]
async fn fault_01_kill_a_worker_without_free_capacity_elsewhere() {
    let _machine = shared().await;
    let mut farm = builder()
        .workers(0)
        .env("WORKER_CAPACITY", "1")
        .start()
        .await;
    let first = farm.join().await;
    let client = farm.client().clone();
    let addresses = load_recorders(&client, 1).await;
    farm.join().await;
    client.must_load("other", CONTRACT).await;
    farm.workers[first.index].kill().await;
    // Repeated calls enqueue the contract for placement only once.
    let answer = client.execute(&addresses[0], "add", &json!(1)).await;
    assert_eq!(answer.error(503, "no_capacity")["started"], false);
    let offers: usize = farm.redis_command(&["XLEN", "exec:place:javascript"]).await;
    assert_eq!(offers, 1);
    farm.join().await;
    let answer = client.execute(&addresses[0], "add", &json!(2)).await;
    assert_eq!(answer.data()["count"], 1, "{answer:?}");
    farm.wait_until_recovered().await;
    farm.stop().await;
}

#[tokio::test]
async fn fault_02_kill_a_worker_under_load() {
    let _machine = shared().await;
    let (mut farm, addresses) = standby(builder().apis(2), 4).await;
    let client = farm.client().clone();
    let before = generations(&client, &addresses).await;
    let load = Load::start(&farm.clients, &addresses, Pace::STEADY);
    load.full_pace().await;
    let killed = Instant::now();
    farm.workers[0].kill().await;
    eprintln!("kill -9 to full pace: {:.2?}", load.full_pace().await);
    let log = load.end().await;
    let after = generations(&client, &addresses).await;
    assert!(
        after
            .iter()
            .zip(before)
            .all(|(after, before)| *after > before)
    );
    let caught: Vec<_> = log
        .calls
        .iter()
        .filter(|call| call.took() > Duration::from_secs(1))
        .collect();
    assert!(
        !caught.is_empty(),
        "no call was in flight when the worker died"
    );
    let answered = caught.iter().map(|call| call.ended - killed).max();
    eprintln!(
        "kill -9 under load: {} calls waited, p95 {:.2?}; the last answered after {:.2?}",
        caught.len(),
        percentile(95, caught.iter().copied()),
        answered.unwrap_or_default()
    );
    assert!(percentile(95, caught) < FAILOVER);
    log.check(&client, &["ok"]).await;
    farm.wait_until_recovered().await;
    farm.stop().await;
}

#[tokio::test]
async fn fault_04_kill_between_reply_and_acknowledgement() {
    let _machine = shared().await;
    let mut farm = builder().workers(0).start().await;
    let client = farm.client().clone();
    let (proxy, _) = worker_behind_proxy(&mut farm).await;
    let addresses = load_recorders(&client, 1).await;
    let before = client.generation(&addresses[0]).await;
    farm.join().await;
    proxy.hold_before("XACK");
    let answer = client.execute(&addresses[0], "add", &json!(4)).await;
    assert_eq!(answer.data()["times"], 1);
    proxy.wait_until_held().await;
    farm.workers[0].kill().await;
    let known = client.execute(&addresses[0], "known", &json!([4])).await;
    assert!(known.generation() > before);
    // The call was answered, so it must not be redelivered.
    assert_eq!(known.data(), json!([]), "an answered call was run again");
    farm.wait_until_recovered().await;
    assert_eq!(
        client
            .execute(&addresses[0], "known", &json!([4]))
            .await
            .data(),
        json!([])
    );
    farm.stop().await;
}

#[tokio::test]
async fn fault_05_freeze_a_worker_for_2_s() {
    let _machine = shared().await;
    let (mut farm, addresses) = standby(builder(), 2).await;
    let client = farm.client().clone();
    let before = generations(&client, &addresses).await;
    let load = Load::start(&farm.clients, &addresses, Pace::STEADY);
    load.full_pace().await;
    freeze(&mut farm.workers[0]);
    wait::pass(Duration::from_secs(2)).await;
    thaw(&mut farm.workers[0]);
    load.full_pace().await;
    load.end().await.check(&client, &["ok"]).await;
    assert_eq!(
        generations(&client, &addresses).await,
        before,
        "contracts have moved"
    );
    farm.wait_until_recovered().await;
    farm.stop().await;
}

#[tokio::test]
async fn fault_06_freeze_a_worker_for_20_s() {
    let _machine = shared().await;
    let mut farm = builder().workers(0).start().await;
    let first = farm.join().await;
    let addresses = load_recorders(farm.client(), 2).await;
    let second = farm.join().await;
    let load = Load::start(&farm.clients, &addresses, Pace::STEADY);
    load.full_pace().await;
    // The result of this call is ready long after the worker has failed over.
    let (caller, address) = (farm.client().clone(), addresses[0].clone());
    let late = tokio::spawn(async move {
        let argument = json!({ "id": 1_000_000, "ms": 1_000 });
        caller.execute(&address, "wait", &argument).await
    });
    wait::pass(Duration::from_millis(300)).await;
    let unclaimed = unclaimed_replies(farm.client()).await;
    let frozen = Instant::now();
    freeze(&mut farm.workers[first.index]);
    eprintln!("freeze to full pace: {:.2?}", load.full_pace().await);
    wait::pass(Duration::from_secs(20).saturating_sub(frozen.elapsed())).await;
    thaw(&mut farm.workers[first.index]);
    let client = farm.client().clone();
    is_ready_again(&client, &first).await;
    load.full_pace().await;
    let late = late.await.expect("the caller does not panic");
    assert_eq!(late.data()["times"], 1, "{late:?}");
    wait::until_true(
        "the late replies to be dropped",
        DEFAULT_LIMIT,
        async || unclaimed_replies(&client).await > unclaimed,
    )
    .await;
    load.end().await.check(&client, &["ok"]).await;
    all_are_owned_by(&client, &addresses, &second).await;
    farm.wait_until_recovered().await;
    farm.stop().await;
}

async fn unclaimed_replies(client: &Client) -> u64 {
    Scrape::of(client)
        .await
        .count("execution_api_unclaimed_replies_total")
}

#[tokio::test]
async fn fault_07_a_worker_cut_off_from_redis_for_20_s() {
    let _machine = shared().await;
    let mut farm = builder().workers(0).start().await;
    let (proxy, first) = worker_behind_proxy(&mut farm).await;
    let addresses = load_recorders(farm.client(), 2).await;
    let second = farm.join().await;
    let load = Load::start(&farm.clients, &addresses, Pace::STEADY);
    load.full_pace().await;
    let cut = Instant::now();
    proxy.set_all(Condition::Silent);
    eprintln!("cut to full pace: {:.2?}", load.full_pace().await);
    wait::pass(Duration::from_secs(20).saturating_sub(cut.elapsed())).await;
    proxy.heal();
    let client = farm.client().clone();
    is_ready_again(&client, &first).await;
    load.full_pace().await;
    load.end().await.check(&client, &["ok"]).await;
    all_are_owned_by(&client, &addresses, &second).await;
    farm.wait_until_recovered().await;
    farm.stop().await;
}

#[tokio::test]
async fn fault_08_half_open_under_a_blocking_read() {
    let _machine = shared().await;
    let (mut farm, proxy) = goes_silent(Role::Inbox).await;
    proxy.heal();
    farm.wait_until_recovered().await;
    farm.stop().await;
}

/// The connection for heartbeats and replies goes silent, and no error ever reports it.
#[tokio::test]
async fn fault_08_the_connection_of_a_worker_goes_silent_permanently() {
    let _machine = shared().await;
    let (mut farm, _proxy) = goes_silent(Role::Append).await;
    farm.wait_until_recovered().await;
    farm.stop().await;
}

/// One connection of a worker goes silent under load: no call is lost and no contract moves.
async fn goes_silent(role: Role) -> (Farm, Proxy) {
    let mut farm = builder().workers(0).start().await;
    let (proxy, _) = worker_behind_proxy(&mut farm).await;
    let addresses = load_recorders(farm.client(), 2).await;
    farm.join().await;
    let client = farm.client().clone();
    let before = generations(&client, &addresses).await;
    let load = Load::start(&farm.clients, &addresses, Pace::STEADY);
    load.full_pace().await;
    assert_eq!(proxy.set_present(role, Condition::Silent), 1);
    eprintln!("silence to full pace: {:.2?}", load.full_pace().await);
    load.end().await.check(&client, &["ok"]).await;
    assert_eq!(
        generations(&client, &addresses).await,
        before,
        "contracts have moved"
    );
    (farm, proxy)
}

/// Starts a worker that reaches Redis through a proxy that the test controls.
async fn worker_behind_proxy(farm: &mut Farm) -> (Proxy, JoinedWorker) {
    let proxy = Proxy::start(farm.redis.port()).await;
    let worker = farm.join_with(&[("REDIS_URL", &proxy.url())]).await;
    (proxy, worker)
}

/// Waits until a worker that was failed over is ready again, with its next id: the process is the
/// first 112 bits of 128.
async fn is_ready_again(client: &Client, worker: &JoinedWorker) {
    wait::until_true("the worker to be ready again", DEFAULT_LIMIT, async || {
        let workers = client.workers().await;
        workers.iter().any(|known| {
            let id = known["id"].as_str().expect("an id is a text");
            id[..28] == worker.id[..28] && known["state"] == "ready"
        })
    })
    .await;
}

async fn all_are_owned_by(client: &Client, addresses: &[String], worker: &JoinedWorker) {
    for address in addresses {
        let owner = client.owner(address).await;
        assert_eq!(owner.as_ref(), Some(&worker.id), "{address}");
    }
}
