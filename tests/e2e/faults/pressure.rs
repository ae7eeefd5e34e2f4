//! Overload: more requests than the farm can run, and one contract that uses more than its share.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::task::JoinSet;

use super::{alone, builder, load_recorders};
use crate::support::call_log::{CONTRACT, Call, percentile};
use crate::support::chaos::{freeze, thaw};
use crate::support::client::Client;
use crate::support::farm::Farm;
use crate::support::load::{Load, Pace};
use crate::support::wait::{self, DEFAULT_LIMIT};

/// A p99 within this time is acceptable however low it was before. On two cores that also run the
/// callers, a few milliseconds are noise.
const ACCEPTABLE_P99: Duration = Duration::from_millis(60);

/// How soon a call must be refused.
const FAST_REFUSAL: Duration = Duration::from_millis(50);

/// A low rate, at which each call is measured on its own.
const SPARSE: Pace = Pace {
    callers: 5,
    every: Duration::from_millis(100),
};

#[tokio::test]
async fn fault_11_an_infinite_loop() {
    let _machine = alone().await;
    let mut farm = builder().start().await;
    let client = farm.client().clone();
    let addresses = load_recorders(&client, 3).await;
    let (bad, others) = addresses.split_first().expect("three were loaded");
    let before = p99_of(&farm, others, SPARSE, wait::pass(Duration::from_secs(3))).await;
    let loops = async {
        let healthy = async { client.execute(bad, "add", &json!(7)).await };
        let (looped, healthy) = tokio::join!(client.call(bad, "forever"), healthy);
        looped.error(504, "execution_timeout");
        // This call only waited in the same page.
        assert_eq!(healthy.data()["id"], 7);
    };
    let meanwhile = p99_of(&farm, others, SPARSE, loops).await;
    eprintln!("p99 of the others {before:.1?}, beside an infinite loop {meanwhile:.1?}");
    assert!(meanwhile <= ACCEPTABLE_P99.max(2 * before), "{meanwhile:?}");
    farm.wait_until_recovered().await;
    farm.stop().await;
}

/// The p99 of calls during `meanwhile`. All of them must succeed.
async fn p99_of(
    farm: &Farm,
    addresses: &[String],
    pace: Pace,
    meanwhile: impl Future<Output = ()>,
) -> Duration {
    let load = Load::start(&farm.clients, addresses, pace);
    load.full_pace().await;
    let start = Instant::now();
    meanwhile.await;
    let end = Instant::now();
    let log = load.end().await;
    assert_eq!(log.succeeded(), log.calls.len(), "{log}");
    percentile(99, log.sent_between(start, end))
}

#[tokio::test]
async fn fault_25_a_full_inbox() {
    let _machine = alone().await;
    let mut farm = builder().start().await;
    let client = farm.client().clone();
    let addresses = load_recorders(&client, 4).await;
    for address in &addresses {
        client.execute(address, "add", &json!(0)).await.data();
    }
    // Frames that are sent while the worker does not read stay in its inbox, one entry each.
    freeze(&mut farm.workers[0]);
    let frozen = Instant::now();
    let mut calls = JoinSet::new();
    for id in 1..=1_200 {
        calls.spawn(timed(client.clone(), addresses[id % 4].clone(), id));
        wait::pass(Duration::from_millis(1)).await;
    }
    wait::until_true("the inbox to be full", DEFAULT_LIMIT, async || {
        farm.backlog().await >= 512
    })
    .await;
    for id in 2_001..=2_040 {
        calls.spawn(timed(client.clone(), addresses[id % 4].clone(), id));
    }
    wait::until_true("calls to be refused", DEFAULT_LIMIT, async || {
        calls.try_join_next().is_some()
    })
    .await;
    assert!(
        frozen.elapsed() < Duration::from_secs(4),
        "too slow to fill it: {:?}",
        frozen.elapsed()
    );
    thaw(&mut farm.workers[0]);
    let (answered, refused): (Vec<Call>, Vec<Call>) = calls
        .join_all()
        .await
        .into_iter()
        .partition(Call::succeeded);
    eprintln!(
        "{} calls answered, {} refused, p95 {:.1?}",
        answered.len(),
        refused.len(),
        percentile(95, &refused)
    );
    assert!(answered.len() >= 512 && refused.len() >= 30);
    assert!(percentile(95, &refused) < FAST_REFUSAL);
    for call in &refused {
        let answer = call.answer.as_ref().expect("every request is answered");
        assert_eq!(answer.error(503, "overloaded")["started"], false);
    }
    farm.wait_until_recovered().await;
    crate::support::call_log::CallLog::new([answered, refused].concat())
        .check(&client, &["ok", "overloaded"])
        .await;
    farm.wait_until_recovered().await;
    farm.stop().await;
}

async fn timed(client: Client, address: String, id: usize) -> Call {
    let id = u64::try_from(id).expect("a small number");
    let sent = Instant::now();
    let answer = client.execute(&address, "add", &json!(id)).await;
    Call {
        id,
        address,
        sent,
        ended: Instant::now(),
        answer: Some(answer),
        broken_connections: 0,
    }
}

#[tokio::test]
async fn fault_25_a_hot_contract_beside_a_cold_one() {
    let _machine = alone().await;
    let mut farm = builder().apis(2).start().await;
    let client = farm.client().clone();
    let addresses = load_recorders(&client, 2).await;
    let (hot, cold) = (addresses[0].clone(), &addresses[1..]);
    let before = p99_of(&farm, cold, SPARSE, wait::pass(Duration::from_secs(4))).await;
    // Its page is busy without a break, and some hundred calls wait for it all the time.
    let mut callers = JoinSet::new();
    for caller in 0..300 {
        let (client, address) = (farm.clients[1].clone(), hot.clone());
        callers.spawn(async move {
            for round in 0_u64.. {
                let argument = json!({ "id": caller * 1_000_000 + round, "ms": 3 });
                let answer = client.execute(&address, "work", &argument).await;
                assert_eq!(answer.status, 200, "{answer:?}");
            }
        });
    }
    wait::until_true("calls to wait", DEFAULT_LIMIT, async || {
        client.contract(&hot).await["queueDepth"].as_u64() > Some(250)
    })
    .await;
    let meanwhile = p99_of(&farm, cold, SPARSE, wait::pass(Duration::from_secs(4))).await;
    assert!(
        client.contract(&hot).await["queueDepth"].as_u64() > Some(250),
        "the hot contract had no backlog"
    );
    callers.shutdown().await;
    eprintln!("p99 of the cold contract {before:.1?}, beside a hot one {meanwhile:.1?}");
    assert!(meanwhile <= ACCEPTABLE_P99.max(2 * before), "{meanwhile:?}");
    farm.wait_until_recovered().await;
    farm.stop().await;
}

#[tokio::test]
async fn fault_30_a_load_of_50_mb_during_1000_calls_per_second() {
    const PACE: Pace = Pace {
        callers: 100,
        every: Duration::from_millis(100),
    };
    let _machine = alone().await;
    // The page takes long to read a text of that length, on two cores that also run the callers. It
    // also needs memory for it.
    let mut farm = builder()
        .apis(2)
        .env("LOAD_TIMEOUT_MS", "30000")
        .env("CHROMIUM_HEAP_MB", "512")
        .start()
        .await;
    let client = farm.client().clone();
    let addresses = load_recorders(&client, 4).await;
    let before = p99_of(&farm, &addresses, PACE, wait::pass(Duration::from_secs(3))).await;
    // The client's own work is not part of the measurement.
    let large = format!("{CONTRACT}//{}", "x".repeat(50_000_000));
    let body = json!({ "contractAddress": "large", "executable": large }).to_string();
    let loading = async {
        let start = Instant::now();
        let answer = farm.clients[1].post_text("/loadSmartContract", body).await;
        answer.is_no_content();
        eprintln!("a load of 50 MB: {:.2?}", start.elapsed());
    };
    let meanwhile = p99_of(&farm, &addresses, PACE, loading).await;
    eprintln!("p99 at 1,000 calls per second {before:.1?}, during a load of 50 MB {meanwhile:.1?}");
    assert!(meanwhile <= ACCEPTABLE_P99.max(2 * before), "{meanwhile:?}");
    assert_eq!(
        client.execute("large", "add", &json!(1)).await.data()["count"],
        1
    );
    farm.wait_until_recovered().await;
    farm.stop().await;
}
