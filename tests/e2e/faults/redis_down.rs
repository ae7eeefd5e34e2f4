//! Redis is killed and restarted, with or without its data.

use std::time::{Duration, Instant};

use futures::future::join_all;
use serde_json::{Value, json};

use super::{FAILOVER, builder, generations, load_recorders, shared};
use crate::support::chaos::{freeze, thaw};
use crate::support::client::Client;
use crate::support::farm::Farm;
use crate::support::load::{Load, Pace};
use crate::support::proxy::Proxy;
use crate::support::scrape::Scrape;
use crate::support::wait::{self, DEFAULT_LIMIT};

/// How soon a call must be refused while the queue is known to be down.
const FAST_REFUSAL: Duration = Duration::from_millis(50);

/// How soon the api must know that Redis is down.
const OUTAGE_DETECTION: Duration = Duration::from_secs(2);

#[tokio::test]
async fn fault_18_kill_redis_for_2_s() {
    let _machine = shared().await;
    let mut farm = Farm::builder()
        .env("EXECUTE_TIMEOUT_MS", "8000")
        .apis(2)
        .start()
        .await;
    farm.enable_append_only_file().await;
    let client = farm.client().clone();
    let addresses = load_recorders(&client, 3).await;
    let before = generations(&client, &addresses).await;
    let load = Load::start(&farm.clients, &addresses, Pace::STEADY);
    load.full_pace().await;
    let pending = pending_call(&client, &addresses[0], 4_000).await;
    let killed = Instant::now();
    farm.redis.process().kill().await;
    let open = is_refused_at_once(&client, &addresses[0]).await;
    eprintln!(
        "kill of Redis until calls are refused at once: {:.2?}",
        open - killed
    );
    are_refused_at_once(&client, &addresses[0], killed + Duration::from_secs(2)).await;
    let back = Instant::now();
    farm.restart_redis_with_data().await;
    answers(&client, &addresses[0]).await;
    eprintln!(
        "Redis back (its own start included) to the first answer: {:.2?}",
        back.elapsed()
    );
    load.full_pace().await;
    assert_eq!(pending.await.expect("the caller does not panic"), 1);
    let log = load.end().await;
    log.check(&client, &["ok", "queue_unavailable"]).await;
    assert_eq!(
        generations(&client, &addresses).await,
        before,
        "contracts were recreated"
    );
    farm.wait_until_recovered().await;
    farm.stop().await;
}

#[tokio::test]
async fn fault_19_redis_comes_back_empty() {
    let _machine = shared().await;
    let mut farm = Farm::builder().env("REAP_GRACE_MS", "3000").start().await;
    let client = farm.client().clone();
    let addresses = load_recorders(&client, 3).await;
    farm.join().await;
    let before = generations(&client, &addresses).await;
    let load = Load::start(&farm.clients, &addresses, Pace::STEADY);
    load.full_pace().await;
    // These calls are in the inbox when its data is lost.
    freeze(&mut farm.workers[0]);
    let calls = (0..30).map(|number| {
        let (client, address) = (client.clone(), addresses[number % 3].clone());
        tokio::spawn(async move {
            client
                .execute(&address, "add", &json!(1_000_000 + number))
                .await
        })
    });
    let pending: Vec<_> = calls.collect();
    wait::until_true("the calls to be in the queue", DEFAULT_LIMIT, async || {
        farm.backlog().await > 0
    })
    .await;
    farm.restart_redis().await;
    thaw(&mut farm.workers[0]);
    let back = Instant::now();
    // The page survives and may have run these calls before their replies were lost. Both outcomes
    // are valid.
    for call in pending {
        let answer = call.await.expect("the caller does not panic");
        if answer.status != 200 {
            answer.error(502, "outcome_unknown");
        }
    }
    let took = back.elapsed();
    eprintln!("an empty Redis until the pending calls are answered: {took:.2?}");
    assert!(took < Duration::from_secs(3), "{took:?}");
    load.full_pace().await;
    let log = load.end().await;
    let known = ["ok", "outcome_unknown", "queue_unavailable"];
    log.check(&client, &known).await;
    assert_eq!(
        generations(&client, &addresses).await,
        before,
        "contracts were recreated"
    );

    // The data that the next owner needs has been restored, too.
    farm.redis_is_older_than(Duration::from_secs(3)).await;
    farm.workers[0].kill().await;
    let killed = Instant::now();
    for address in &addresses {
        answers(&client, address).await;
    }
    assert!(killed.elapsed() < FAILOVER, "{:?}", killed.elapsed());
    farm.wait_until_recovered().await;
    farm.stop().await;
}

#[tokio::test]
async fn fault_19_redis_loses_its_data_and_a_claim_gets_no_answer() {
    let _machine = shared().await;
    let mut farm = builder().workers(0).start().await;
    let proxy = Proxy::start(farm.redis.port()).await;
    farm.join_with(&[("REDIS_URL", &proxy.url())]).await;
    let client = farm.client().clone();
    let addresses = load_recorders(&client, 40).await;
    let before = generations(&client, &addresses).await;
    // The first contract that is claimed again is recorded on a connection that goes silent.
    proxy.hold_before("SADD");
    farm.redis_command::<()>(&["FLUSHALL"]).await;
    proxy.wait_until_held().await;
    for address in &addresses {
        answers(&client, address).await;
    }
    assert_eq!(
        generations(&client, &addresses).await,
        before,
        "contracts were recreated"
    );
    proxy.heal();
    farm.wait_until_recovered().await;
    farm.stop().await;
}

#[tokio::test]
async fn fault_20_redis_down_for_60_s() {
    let _machine = shared().await;
    let mut farm = Farm::builder()
        .workers(2)
        .env("REAP_GRACE_MS", "3000")
        .start()
        .await;
    farm.enable_append_only_file().await;
    let client = farm.client().clone();
    let addresses = load_recorders(&client, 6).await;
    for address in &addresses {
        client.execute(address, "add", &json!(1)).await.data();
    }
    let before = (
        generations(&client, &addresses).await,
        owners(&client, &addresses).await,
    );
    farm.redis.process().kill().await;
    let killed = Instant::now();
    let open = is_refused_at_once(&client, &addresses[0]).await;
    assert!(open - killed < OUTAGE_DETECTION);
    wait::pass(Duration::from_mins(1).saturating_sub(killed.elapsed())).await;
    let back = Instant::now();
    farm.restart_redis_with_data().await;
    for address in &addresses {
        answers(&client, address).await;
    }
    eprintln!(
        "Redis back after 60 s until all contracts answer: {:.2?}",
        back.elapsed()
    );
    // Longer than the grace period and a lease, so that a mistaken failover would have happened.
    wait::pass(Duration::from_secs(9)).await;
    let reaps = Scrape::of(&client).await.count("execution_reaps_total");
    assert_eq!(reaps, 0, "a living worker was failed over");
    let after = (
        generations(&client, &addresses).await,
        owners(&client, &addresses).await,
    );
    assert_eq!(after, before, "contracts were recreated");
    for address in &addresses {
        let known = client.execute(address, "known", &json!([1])).await;
        assert_eq!(known.data(), json!([1]), "state was lost");
    }
    farm.wait_until_recovered().await;
    farm.stop().await;
}

/// Starts a call that runs for `ms`. Its result is how many times the page has run it.
async fn pending_call(client: &Client, address: &str, ms: u64) -> tokio::task::JoinHandle<Value> {
    let (caller, to) = (client.clone(), address.to_owned());
    let argument = json!({ "id": 1_000_000, "ms": ms });
    let call = tokio::spawn(async move {
        caller.execute(&to, "wait", &argument).await.data()["times"].clone()
    });
    wait::until_true("the call to run", DEFAULT_LIMIT, async || {
        client.contract(address).await["queueDepth"] != 0
    })
    .await;
    call
}

/// Waits until a call is refused immediately and returns the time. The first callers would have to
/// wait for their deadline, so they disconnect.
pub(super) async fn is_refused_at_once(client: &Client, address: &str) -> Instant {
    wait::until(
        "a call to be refused at once",
        OUTAGE_DETECTION,
        async || {
            let call = client.call(address, "repeated");
            let answer = tokio::time::timeout(FAST_REFUSAL, call).await.ok()?;
            (answer.status != 200).then(|| {
                answer.error(503, "queue_unavailable");
                Instant::now()
            })
        },
    )
    .await
}

/// Waits until the contract answers.
pub(super) async fn answers(client: &Client, address: &str) {
    wait::until_true("the contract to answer", DEFAULT_LIMIT, async || {
        client.execute(address, "known", &json!([])).await.status == 200
    })
    .await;
}

/// Checks that callers do not wait while Redis is known to be down.
async fn are_refused_at_once(client: &Client, address: &str, until: Instant) {
    let mut times = Vec::new();
    while Instant::now() < until {
        let sent = Instant::now();
        let answer = client.execute(address, "known", &json!([])).await;
        times.push(sent.elapsed());
        answer.error(503, "queue_unavailable");
    }
    times.sort_unstable();
    let [half, most] = [50, 95].map(|part| times[(times.len() - 1) * part / 100]);
    eprintln!(
        "{} calls while Redis was down: p50 {half:.1?}, p95 {most:.1?}",
        times.len()
    );
    assert!(most < FAST_REFUSAL, "{most:?}");
}

async fn owners(client: &Client, addresses: &[String]) -> Vec<Option<String>> {
    join_all(addresses.iter().map(|address| client.owner(address))).await
}
