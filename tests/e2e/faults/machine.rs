//! The whole machine restarts: Redis, the apis and the workers end at once and start together.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{load_recorders, shared};
use crate::support::client::Client;
use crate::support::farm::Farm;
use crate::support::wait::{self, DEFAULT_LIMIT};

/// The default of `EXECUTE_DEADLINE_MS`: a call that arrives as soon as the farm says that it is
/// there is answered, or says when to repeat it.
const DEADLINE: Duration = Duration::from_secs(10);

/// Waits until an api says this about the farm.
async fn says(client: &Client, status: &str) {
    wait::until_true(
        &format!("the farm to be {status}"),
        DEFAULT_LIMIT,
        async || client.farm_status().await.as_deref() == Some(status),
    )
    .await;
}

#[tokio::test]
async fn a_restart_of_the_whole_machine() {
    let _machine = shared().await;
    let mut farm = Farm::builder().workers(3).start().await;
    farm.enable_append_only_file().await;
    let addresses = load_recorders(farm.client(), 6).await;
    farm.redis.process.kill().await;
    for process in farm.apis.iter_mut().chain(&mut farm.workers) {
        process.kill().await;
    }
    farm.clients.clear();

    farm.restart_redis_with_data().await;
    let started = Instant::now();
    farm.spawn_api(&[]);
    for _ in 0..3 {
        farm.spawn_worker(&[]);
    }
    let client = farm.client().clone();
    // The dead workers do not count, although their leases are in the data.
    says(&client, "recovering").await;
    eprintln!(
        "start of Redis until workers are there: {:.2?}",
        started.elapsed()
    );
    let ready = client.get("/readyz").await.json();
    assert!(
        (1..=3).contains(&ready["workers"].as_u64().unwrap_or_default()),
        "{ready}"
    );
    let left = ready["recoversInSeconds"].as_u64().unwrap_or_default();
    assert!((1..=10).contains(&left), "{ready}");

    // A call that comes now waits, and its answer says whether to repeat it.
    let sent = Instant::now();
    let early = client.execute(&addresses[0], "known", &json!([])).await;
    assert!(
        sent.elapsed() < DEADLINE + Duration::from_secs(1),
        "{early:?}"
    );
    eprintln!(
        "a call at once: {} after {:.2?}",
        early.outcome(),
        sent.elapsed()
    );
    if early.status != 200 {
        early.error(503, "no_capacity");
        assert!(early.never_started(), "{early:?}");
    }
    says(&client, "ready").await;
    eprintln!(
        "start of Redis until the farm is ready: {:.2?}",
        started.elapsed()
    );
    for address in &addresses {
        client.execute(address, "known", &json!([])).await.data();
    }
    eprintln!(
        "start of Redis until every contract answers: {:.2?}",
        started.elapsed()
    );
    farm.stop().await;
}
