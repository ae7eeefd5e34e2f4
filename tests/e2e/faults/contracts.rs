//! Races between loads, unloads and calls of one contract.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::task::JoinSet;

use super::{builder, load_recorders, shared};
use crate::support::call_log::CONTRACT;
use crate::support::chaos::{freeze, thaw};
use crate::support::client::Client;
use crate::support::farm::Farm;
use crate::support::scrape::Scrape;
use crate::support::wait::{self, DEFAULT_LIMIT};

/// How many times each race is run.
const ROUNDS: usize = 5;

#[tokio::test]
async fn fault_26_two_loads_of_one_address_at_once() {
    let _machine = shared().await;
    let mut farm = builder().apis(2).workers(2).start().await;
    let [one, two] = [farm.clients[0].clone(), farm.clients[1].clone()];
    for round in 0..ROUNDS {
        let address = format!("c{round}");
        let executables = if round % 2 == 0 {
            ["{ who: () => 'a' }", "{ who: () => 'a' }"]
        } else {
            ["{ who: () => 'a' }", "{ who: () => 'b' }"]
        };
        let (first, second) = tokio::join!(
            one.load(&address, executables[0]),
            two.load(&address, executables[1])
        );
        first.is_no_content();
        second.is_no_content();
        let mut answers = BTreeSet::new();
        for client in [&one, &two, &one, &two] {
            let answer = client.call(&address, "who").await;
            answers.insert((answer.data().to_string(), answer.generation()));
        }
        assert_eq!(answers.len(), 1, "two owners: {answers:?}");
        assert_eq!(one.owner(&address).await, two.owner(&address).await);
    }
    // Each contract has exactly one page.
    farm.wait_until_recovered().await;
    farm.stop().await;
}

#[tokio::test]
async fn fault_27_unload_while_calls_run() {
    let _machine = shared().await;
    let mut farm = builder().start().await;
    let client = farm.client().clone();
    let address = load_recorders(&client, 1).await.remove(0);
    let running = tokio::spawn(work(client.clone(), address.clone(), 1, 1_000));
    depth_is(&client, &address, 1).await;
    // So few calls that the worker does not start a second page for the contract.
    let mut queued = JoinSet::new();
    for id in 2..=22 {
        let (client, address) = (client.clone(), address.clone());
        queued.spawn(async move { client.execute(&address, "add", &json!(id)).await });
    }
    depth_is(&client, &address, 22).await;
    client.unload(&address).await.is_no_content();
    let answer = running.await.expect("the caller does not panic");
    assert_eq!(answer.data()["times"], 1);
    for answer in queued.join_all().await {
        assert_eq!(
            answer.error(404, "contract_not_loaded")["started"],
            false,
            "{answer:?}"
        );
    }
    client
        .call(&address, "add")
        .await
        .error(404, "contract_not_loaded");
    farm.wait_until_recovered().await;
    farm.stop().await;
}

async fn work(client: Client, address: String, id: u64, ms: u64) -> crate::support::client::Answer {
    let argument = json!({ "id": id, "ms": ms });
    client.execute(&address, "work", &argument).await
}

async fn depth_is(client: &Client, address: &str, depth: u64) {
    wait::until_true("the calls to wait", DEFAULT_LIMIT, async || {
        client.contract(address).await["queueDepth"] == depth
    })
    .await;
}

#[tokio::test]
async fn fault_28_a_registry_that_names_the_wrong_worker() {
    let _machine = shared().await;
    let mut farm = builder().start().await;
    let client = farm.client().clone();
    client.must_load("recorder", CONTRACT).await;
    // The state after a claim whose reply was lost: the worker runs but does not know the contract.
    let record: Vec<String> = farm
        .redis_command(&["HMGET", "exec:{c:recorder}", "spec", "owner"])
        .await;
    farm.redis_command::<()>(&[
        "HSET",
        "exec:{c:ghost}",
        "gen",
        "1",
        "spec",
        &record[0],
        "owner",
        &record[1],
    ])
    .await;
    let answer = client.execute("ghost", "add", &json!(1)).await;
    assert_eq!(answer.data()["count"], 1, "{answer:?}");
    assert!(answer.generation() > 1);
    assert_eq!(
        client.execute("recorder", "add", &json!(1)).await.data()["count"],
        1
    );
    farm.wait_until_recovered().await;
    farm.stop().await;
}

#[tokio::test]
async fn fault_28_a_stale_route() {
    let _machine = shared().await;
    let mut farm = builder().apis(2).workers(2).start().await;
    let [caller, other] = [farm.clients[0].clone(), farm.clients[1].clone()];
    other.must_load("moves", "{ echo: (a) => a }").await;
    let mut moved = 0;
    let mut slowest = Duration::ZERO;
    for round in 0..20 {
        // This call puts the contract's owner into the route cache of the caller's api.
        let before = other.owner("moves").await;
        assert_eq!(
            caller.execute("moves", "echo", &json!(round)).await.data(),
            round
        );
        other.unload("moves").await.is_no_content();
        other.must_load("moves", "{ echo: (a) => a }").await;
        let has_moved = other.owner("moves").await != before;
        moved += usize::from(has_moved);
        let (start, retries) = (Instant::now(), retries_of(&caller).await);
        assert_eq!(
            caller.execute("moves", "echo", &json!(round)).await.data(),
            round
        );
        slowest = slowest.max(start.elapsed());
        let retries = retries_of(&caller).await - retries;
        assert_eq!(
            retries,
            u64::from(has_moved),
            "unexpected number of retries"
        );
    }
    assert!(moved > 0, "the contract never moved to the other worker");
    eprintln!("{moved} moves, the slowest call after one took {slowest:.1?}");
    assert!(slowest < Duration::from_secs(1));
    farm.wait_until_recovered().await;
    farm.stop().await;
}

async fn retries_of(client: &Client) -> u64 {
    Scrape::of(client)
        .await
        .count("execution_api_retries_total")
}

/// Row 2. Redis was restarted while the owner of a contract was frozen: its lease has lapsed, but
/// it lives and nobody has fenced it. Another worker must not take the contract, however often it
/// is asked to load it: otherwise both would run it as soon as the owner goes on.
#[tokio::test]
async fn row_2_a_load_after_a_restart_of_redis_makes_no_second_owner() {
    let _machine = shared().await;
    // Reapers do not act before the end of the test.
    let mut farm = Farm::builder()
        .workers(0)
        .env("REAP_GRACE_MS", "600000")
        .env("LOAD_DEADLINE_MS", "3000")
        .start()
        .await;
    let first = farm.join().await;
    let client = farm.client().clone();
    let address = load_recorders(&client, 1).await.remove(0);
    let second = farm.join().await;
    let before = client.execute(&address, "add", &json!(1)).await;
    assert_eq!(before.data()["count"], 1);
    farm.enable_append_only_file().await;

    freeze(&mut farm.workers[first.index]);
    farm.restart_redis_with_data().await;
    let lease = format!("exec:{{w:{}}}:lease", first.id);
    wait::until_true("the lease to lapse", DEFAULT_LIMIT, async || {
        !farm.redis_command::<bool>(&["EXISTS", &lease]).await
    })
    .await;
    wait::until_true("the other worker to be back", DEFAULT_LIMIT, async || {
        let workers = client.workers().await;
        workers.iter().any(|worker| worker["id"] == *second.id)
    })
    .await;
    let record = format!("exec:{{c:{address}}}");
    for _ in 0..2 {
        client
            .load(&address, "{ add: () => 'another' }")
            .await
            .error(503, "no_capacity");
        let owner: String = farm.redis_command(&["HGET", &record, "owner"]).await;
        assert_eq!(owner, first.id);
    }
    let renderers = farm.renderers(second.index).len();
    assert!(renderers <= 1, "the other worker has {renderers} pages");

    thaw(&mut farm.workers[first.index]);
    wait::until_true("the lease to be renewed", DEFAULT_LIMIT, async || {
        farm.redis_command::<bool>(&["EXISTS", &lease]).await
    })
    .await;
    let after = client.execute(&address, "add", &json!(2)).await;
    assert_eq!(
        after.data()["count"],
        2,
        "the page is another one: {after:?}"
    );
    assert_eq!(after.generation(), before.generation());
    assert_eq!(client.owner(&address).await, Some(first.id.clone()));
    farm.wait_until_recovered().await;
    farm.stop().await;
}
