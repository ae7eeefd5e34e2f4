//! Workers that are killed, frozen, or cut off from Redis.

use std::time::{Duration, Instant};

use futures::future::join_all;
use serde_json::json;

use super::{FAILOVER, builder, generations, load_books, shared, standby};
use crate::support::books::{CONTRACT, percent};
use crate::support::chaos::{Member, freeze, thaw};
use crate::support::client::Client;
use crate::support::farm::Farm;
use crate::support::load::{Load, Pace};
use crate::support::proxy::{Proxy, Role, Weather};
use crate::support::scrape::Scrape;
use crate::support::wait::{self, PATIENCE};

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
    farm.is_quiet().await;
    farm.stop().await;
}

#[tokio::test]
async fn fault_01_kill_a_worker_where_nobody_else_has_room() {
    let _machine = shared().await;
    let mut farm = builder()
        .workers(0)
        .env("WORKER_CAPACITY", "1")
        .start()
        .await;
    let first = farm.join().await;
    let client = farm.client().clone();
    let addresses = load_books(&client, 1).await;
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
    farm.is_quiet().await;
    farm.stop().await;
}

#[tokio::test]
async fn fault_02_kill_a_worker_under_load() {
    let _machine = shared().await;
    let (mut farm, addresses) = standby(builder().apis(2), 4).await;
    let client = farm.client().clone();
    let before = generations(&client, &addresses).await;
    let load = Load::start(&farm.clients, &addresses, Pace::STEADY);
    load.flows().await;
    let killed = Instant::now();
    farm.workers[0].kill().await;
    eprintln!("kill -9 to full pace: {:.2?}", load.flows().await);
    let books = load.end().await;
    let after = generations(&client, &addresses).await;
    assert!(
        after
            .iter()
            .zip(before)
            .all(|(after, before)| *after > before)
    );
    let caught: Vec<_> = books
        .calls
        .iter()
        .filter(|call| call.took() > Duration::from_secs(1))
        .collect();
    assert!(!caught.is_empty(), "no call was in flight when the worker died");
    let answered = caught.iter().map(|call| call.ended - killed).max();
    eprintln!(
        "kill -9 under load: {} calls waited, p95 {:.2?}; the last answered after {:.2?}",
        caught.len(),
        percent(95, caught.iter().copied()),
        answered.unwrap_or_default()
    );
    assert!(percent(95, caught) < FAILOVER);
    books.balance(&client, &["ok"]).await;
    farm.is_quiet().await;
    farm.stop().await;
}

#[tokio::test]
async fn fault_04_kill_between_reply_and_acknowledgement() {
    let _machine = shared().await;
    let mut farm = builder().workers(0).start().await;
    let client = farm.client().clone();
    let (proxy, _) = worker_behind_proxy(&mut farm).await;
    let addresses = load_books(&client, 1).await;
    let before = client.generation(&addresses[0]).await;
    farm.join().await;
    proxy.hold_before("XACK");
    let answer = client.execute(&addresses[0], "add", &json!(4)).await;
    assert_eq!(answer.data()["times"], 1);
    proxy.holds().await;
    farm.workers[0].kill().await;
    let known = client.execute(&addresses[0], "known", &json!([4])).await;
    assert!(known.generation() > before);
    // The call was answered, so it must not be redelivered.
    assert_eq!(known.data(), json!([]), "an answered call was run again");
    farm.is_quiet().await;
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
    load.flows().await;
    freeze(&mut farm.workers[0]);
    wait::lasts(Duration::from_secs(2)).await;
    thaw(&mut farm.workers[0]);
    load.flows().await;
    load.end().await.balance(&client, &["ok"]).await;
    assert_eq!(
        generations(&client, &addresses).await,
        before,
        "contracts have moved"
    );
    farm.is_quiet().await;
    farm.stop().await;
}

#[tokio::test]
async fn fault_06_freeze_a_worker_for_20_s() {
    let _machine = shared().await;
    let mut farm = builder().workers(0).start().await;
    let first = farm.join().await;
    let addresses = load_books(farm.client(), 2).await;
    let second = farm.join().await;
    let load = Load::start(&farm.clients, &addresses, Pace::STEADY);
    load.flows().await;
    // The result of this call is ready long after the worker has failed over.
    let (caller, address) = (farm.client().clone(), addresses[0].clone());
    let late = tokio::spawn(async move {
        let argument = json!({ "id": 1_000_000, "ms": 1_000 });
        caller.execute(&address, "wait", &argument).await
    });
    wait::lasts(Duration::from_millis(300)).await;
    let unclaimed = unclaimed_replies(farm.client()).await;
    let frozen = Instant::now();
    freeze(&mut farm.workers[first.index]);
    eprintln!("freeze to full pace: {:.2?}", load.flows().await);
    wait::lasts(Duration::from_secs(20).saturating_sub(frozen.elapsed())).await;
    thaw(&mut farm.workers[first.index]);
    let client = farm.client().clone();
    has_come_back(&client, &first).await;
    load.flows().await;
    let late = late.await.expect("the caller does not panic");
    assert_eq!(late.data()["times"], 1, "{late:?}");
    wait::until_true("the late replies to be dropped", PATIENCE, async || {
        unclaimed_replies(&client).await > unclaimed
    })
    .await;
    load.end().await.balance(&client, &["ok"]).await;
    all_are_hosted_by(&client, &addresses, &second).await;
    farm.is_quiet().await;
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
    let addresses = load_books(farm.client(), 2).await;
    let second = farm.join().await;
    let load = Load::start(&farm.clients, &addresses, Pace::STEADY);
    load.flows().await;
    let cut = Instant::now();
    proxy.all(Weather::Silent);
    eprintln!("cut to full pace: {:.2?}", load.flows().await);
    wait::lasts(Duration::from_secs(20).saturating_sub(cut.elapsed())).await;
    proxy.heal();
    let client = farm.client().clone();
    has_come_back(&client, &first).await;
    load.flows().await;
    load.end().await.balance(&client, &["ok"]).await;
    all_are_hosted_by(&client, &addresses, &second).await;
    farm.is_quiet().await;
    farm.stop().await;
}

#[tokio::test]
async fn fault_08_half_open_under_a_blocking_read() {
    let _machine = shared().await;
    let (mut farm, proxy) = falls_silent(Role::Inbox).await;
    proxy.heal();
    farm.is_quiet().await;
    farm.stop().await;
}

/// The connection for heartbeats and replies goes silent, and no error ever reports it.
#[tokio::test]
async fn fault_08_the_connection_of_a_worker_falls_silent_for_good() {
    let _machine = shared().await;
    let (mut farm, _proxy) = falls_silent(Role::Append).await;
    farm.is_quiet().await;
    farm.stop().await;
}

/// One connection of a worker goes silent under load: no call is lost and no contract moves.
async fn falls_silent(role: Role) -> (Farm, Proxy) {
    let mut farm = builder().workers(0).start().await;
    let (proxy, _) = worker_behind_proxy(&mut farm).await;
    let addresses = load_books(farm.client(), 2).await;
    farm.join().await;
    let client = farm.client().clone();
    let before = generations(&client, &addresses).await;
    let load = Load::start(&farm.clients, &addresses, Pace::STEADY);
    load.flows().await;
    assert_eq!(proxy.present(role, Weather::Silent), 1);
    eprintln!("silence to full pace: {:.2?}", load.flows().await);
    load.end().await.balance(&client, &["ok"]).await;
    assert_eq!(
        generations(&client, &addresses).await,
        before,
        "contracts have moved"
    );
    (farm, proxy)
}

/// Starts a worker that reaches Redis through a proxy that the test controls.
async fn worker_behind_proxy(farm: &mut Farm) -> (Proxy, Member) {
    let proxy = Proxy::start(farm.redis.port()).await;
    let worker = farm.join_with(&[("REDIS_URL", &proxy.url())]).await;
    (proxy, worker)
}

/// Waits until a worker that was failed over is ready again.
async fn has_come_back(client: &Client, worker: &Member) {
    wait::until_true("the worker to be ready again", PATIENCE, async || {
        let workers = client.workers().await;
        workers
            .iter()
            .any(|known| known["id"] == worker.id && known["state"] == "ready")
    })
    .await;
}

async fn all_are_hosted_by(client: &Client, addresses: &[String], worker: &Member) {
    for address in addresses {
        let host = client.host(address).await;
        assert_eq!(host.as_ref(), Some(&worker.id), "{address}");
    }
}
