//! Faults of api processes: a kill, a lost connection to Redis, clients that disconnect.

use std::time::Duration;

use futures::future::join_all;
use serde_json::json;
use tokio::task::JoinSet;

use super::{builder, generations, load_recorders, shared};
use crate::support::call_log::Repeats;
use crate::support::client::Client;
use crate::support::farm::Farm;
use crate::support::load::{Load, Pace};
use crate::support::proxy::{Condition, Proxy, Role};
use crate::support::wait::{self, DEFAULT_LIMIT};

#[tokio::test]
async fn fault_15_kill_an_api_with_calls_in_flight() {
    let _machine = shared().await;
    let mut farm = builder().start().await;
    let apis: Vec<String> = farm
        .redis_command(&["ZRANGE", "exec:apis", "0", "-1"])
        .await;
    let [doomed] = &apis[..] else {
        panic!("one api was started: {apis:?}")
    };
    farm.join_api_with(&[]).await;
    let addresses = load_recorders(farm.client(), 2).await;
    let load = Load::start(&farm.clients[1..], &addresses[..1], Pace::STEADY);
    let retrying = Load::retrying(1_000_000, &farm.clients, &addresses[1..], Pace::STEADY);
    load.full_pace().await;
    // A large argument is stored in a Redis key that belongs to the api.
    let mut lost = JoinSet::new();
    for number in 0..20 {
        let (client, address) = (farm.client().clone(), addresses[0].clone());
        lost.spawn(async move {
            let argument =
                json!({ "id": 2_000_000 + number, "ms": 1_000, "pad": "x".repeat(100_000) });
            let path = format!("/execute/{address}/wait");
            let request = client.request(reqwest::Method::POST, &path).json(&argument);
            crate::support::client::try_send(request).await.ok()
        });
    }
    wait::until_true("the calls to run", DEFAULT_LIMIT, async || {
        farm.clients[1].contract(&addresses[0]).await["queueDepth"].as_u64() >= Some(20)
    })
    .await;
    farm.apis[0].kill().await;
    assert!(
        lost.join_all().await.iter().all(Option::is_none),
        "a killed api answered"
    );
    load.full_pace().await;
    farm.clients.remove(0);
    let client = farm.client().clone();
    load.end().await.check(&client, &["ok"]).await;
    let log = retrying.end().await;
    log.check_allowing(&client, &["ok"], Repeats::ByCallers)
        .await;
    wait::until_none(Duration::from_secs(75), async || {
        let mut keys = farm.redis.keys().await;
        keys.retain(|key| key.contains(doomed.as_str()));
        let known: Vec<String> = farm
            .redis_command(&["ZRANGE", "exec:apis", "0", "-1"])
            .await;
        keys.extend(known.into_iter().filter(|api| api == doomed));
        keys
    })
    .await;
    farm.wait_until_recovered().await;
    farm.stop().await;
}

#[tokio::test]
async fn fault_16_the_reply_connection_of_an_api_is_cut_for_3_s() {
    let _machine = shared().await;
    let (mut farm, proxy, addresses) = api_behind_proxy().await;
    let client = farm.client().clone();
    let before = generations(&client, &addresses).await;
    let load = Load::start(&farm.clients, &addresses, Pace::STEADY);
    load.full_pace().await;
    for condition in [Condition::Cut, Condition::Silent] {
        proxy.set_role(Role::Replies, condition);
        wait::pass(Duration::from_secs(3)).await;
        proxy.heal();
        eprintln!("{condition:?} to full pace: {:.2?}", load.full_pace().await);
    }
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
async fn fault_16_an_api_gets_no_answer_from_redis_for_15_s() {
    let _machine = shared().await;
    let (mut farm, proxy, addresses) = api_behind_proxy().await;
    let client = farm.client().clone();
    let load = Load::start(&farm.clients, &addresses, Pace::STEADY);
    load.full_pace().await;
    proxy.set_all(Condition::Silent);
    wait::pass(Duration::from_secs(15)).await;
    proxy.heal();
    load.full_pace().await;
    // The deadline matters most here: every call is answered in time.
    let known = ["ok", "deadline", "outcome_unknown", "queue_unavailable"];
    load.end().await.check(&client, &known).await;
    farm.wait_until_recovered().await;
    farm.stop().await;
}

#[tokio::test]
async fn fault_17_the_enqueue_connection_of_an_api_is_cut_under_load() {
    let _machine = shared().await;
    let (mut farm, proxy, addresses) = api_behind_proxy().await;
    let client = farm.client().clone();
    let load = Load::start(&farm.clients, &addresses, Pace::STEADY);
    load.full_pace().await;
    for _ in 0..5 {
        proxy.set_role(Role::Append, Condition::Cut);
        wait::pass(Duration::from_millis(200)).await;
        proxy.heal();
        wait::pass(Duration::from_millis(500)).await;
    }
    load.full_pace().await;
    // A slow connection is not a broken one.
    proxy.set_role(Role::Append, Condition::Delayed(Duration::from_millis(20)));
    wait::pass(Duration::from_secs(2)).await;
    proxy.heal();
    load.full_pace().await;
    load.end().await.check(&client, &["ok"]).await;
    farm.wait_until_recovered().await;
    farm.stop().await;
}

#[tokio::test]
async fn fault_17_the_enqueue_connection_of_an_api_goes_silent() {
    let _machine = shared().await;
    let (mut farm, proxy, addresses) = api_behind_proxy().await;
    let client = farm.client().clone();
    let load = Load::start(&farm.clients, &addresses, Pace::STEADY);
    load.full_pace().await;
    // The api resends its frames on another connection. The swallowed bytes still arrive later.
    proxy.set_present(Role::Append, Condition::Silent);
    wait::pass(Duration::from_secs(3)).await;
    proxy.heal();
    load.full_pace().await;
    let log = load.end().await;
    log.check(&client, &["ok", "queue_unavailable"]).await;
    farm.wait_until_recovered().await;
    farm.stop().await;
}

#[tokio::test]
async fn fault_17_the_enqueue_connection_of_an_api_goes_silent_permanently() {
    let _machine = shared().await;
    let (mut farm, proxy, addresses) = api_behind_proxy().await;
    let client = farm.client().clone();
    let load = Load::start(&farm.clients, &addresses, Pace::STEADY);
    load.full_pace().await;
    assert!(proxy.set_present(Role::Append, Condition::Silent) > 0);
    eprintln!("silence to full pace: {:.2?}", load.full_pace().await);
    let log = load.end().await;
    log.check(&client, &["ok", "queue_unavailable"]).await;
    farm.wait_until_recovered().await;
    farm.stop().await;
}

/// Starts a farm whose only api reaches Redis through a proxy that the test controls.
async fn api_behind_proxy() -> (Farm, Proxy, Vec<String>) {
    let mut farm = builder().apis(0).start().await;
    let proxy = Proxy::start(farm.redis.port()).await;
    farm.join_api_with(&[("REDIS_URL", &proxy.url())]).await;
    let addresses = load_recorders(farm.client(), 2).await;
    (farm, proxy, addresses)
}

#[tokio::test]
async fn fault_29_clients_disconnect_before_their_calls_start() {
    let _machine = shared().await;
    let mut farm = builder()
        .env("MAX_IN_FLIGHT_PER_CONTRACT", "8")
        .start()
        .await;
    let client = farm.client().clone();
    let address = load_recorders(&client, 1).await.remove(0);
    // The second call is already in the page. It waits there for the first one.
    let mut running = JoinSet::new();
    for id in [1, 2] {
        let ms = if id == 1 { 1_500 } else { 1 };
        running.spawn(work(client.clone(), address.clone(), id, ms));
        depth_is(&client, &address, id).await;
    }
    let mut leaving = JoinSet::new();
    for id in 3..=8 {
        leaving.spawn(work(client.clone(), address.clone(), id, 1));
    }
    depth_is(&client, &address, 8).await;
    client
        .execute(&address, "add", &json!(9))
        .await
        .error(503, "overloaded");
    leaving.shutdown().await;
    // The permits are released as soon as the disconnect is noticed, so other calls are admitted.
    let others = (11..=16).map(async |id| {
        let argument = json!({ "id": id, "ms": 1 });
        let answer = wait::until("a permit", Duration::from_secs(1), async || {
            let answer = client.execute(&address, "work", &argument).await;
            Some(answer).filter(|answer| answer.status != 503)
        });
        assert_eq!(answer.await.data()["times"], 1);
    });
    join_all(others).await;
    running.join_all().await;
    let ids = json!((1..=16).collect::<Vec<_>>());
    let known = client.execute(&address, "known", &ids).await.data();
    assert_eq!(
        known,
        json!([1, 2, 11, 12, 13, 14, 15, 16]),
        "a call was run after its client disconnected"
    );
    farm.wait_until_recovered().await;
    farm.stop().await;
}

async fn work(client: Client, address: String, id: u64, ms: u64) {
    let argument = json!({ "id": id, "ms": ms });
    assert_eq!(
        client.execute(&address, "work", &argument).await.data()["times"],
        1,
        "{id}"
    );
}

async fn depth_is(client: &Client, address: &str, depth: u64) {
    wait::until_true("the calls to wait", DEFAULT_LIMIT, async || {
        client.contract(address).await["queueDepth"] == depth
    })
    .await;
}
