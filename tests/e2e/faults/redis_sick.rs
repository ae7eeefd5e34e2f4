//! Redis runs but is frozen, full, misconfigured, or loses its scripts and clients.

use std::time::{Duration, Instant};

use serde_json::json;
use tempfile::TempDir;

use super::redis_down::is_refused_at_once;
use super::{builder, generations, load_recorders, shared};
use crate::support::call_log::{CONTRACT, Call};
use crate::support::chaos::{freeze, thaw};
use crate::support::client::Client;
use crate::support::load::{Load, Pace};
use crate::support::process::Process;
use crate::support::programs;
use crate::support::redis_server::RedisServer;
use crate::support::scrape::Scrape;
use crate::support::wait::{self, DEFAULT_LIMIT};

#[tokio::test]
async fn fault_21_freeze_redis_for_3_s() {
    let _machine = shared().await;
    let mut farm = builder().apis(2).workers(2).start().await;
    let client = farm.client().clone();
    let addresses = load_recorders(&client, 4).await;
    let before = generations(&client, &addresses).await;
    let load = Load::start(&farm.clients, &addresses, Pace::STEADY);
    load.full_pace().await;
    let frozen = Instant::now();
    freeze(farm.redis.process());
    let opened = is_refused_at_once(&client, &addresses[0]).await - frozen;
    eprintln!("freeze of Redis until calls are refused at once: {opened:.2?}");
    wait::pass(Duration::from_secs(3).saturating_sub(frozen.elapsed())).await;
    thaw(farm.redis.process());
    eprintln!("thaw to full pace: {:.2?}", load.full_pace().await);
    load.end()
        .await
        .check(&client, &["ok", "queue_unavailable"])
        .await;
    assert_eq!(
        generations(&client, &addresses).await,
        before,
        "contracts moved to another worker"
    );
    farm.wait_until_recovered().await;
    farm.stop().await;
}

/// Calls that reach the workers after their deadline do not blame them.
#[tokio::test]
async fn fault_21_freeze_redis_until_calls_expire() {
    const EXPIRY: Duration = Duration::from_secs(2);
    let _machine = shared().await;
    let deadline = EXPIRY.as_millis().to_string();
    let farm = builder().env("EXECUTE_DEADLINE_MS", &deadline);
    let mut farm = farm.start().await;
    let client = farm.client().clone();
    let addresses = load_recorders(&client, 4).await;
    let load = Load::start(&farm.clients, &addresses, Pace::STEADY);
    load.full_pace().await;
    freeze(farm.redis.process());
    // The first calls have expired, and their callers still wait for an answer.
    wait::pass(EXPIRY + Duration::from_millis(300)).await;
    thaw(farm.redis.process());
    load.full_pace().await;
    let log = load.end().await;
    log.check(&client, &["ok", "queue_unavailable"]).await;
    let expired = |call: &&Call| call.took() >= EXPIRY && call.never_started();
    let count = log.calls.iter().filter(expired).count();
    assert!(count > 0, "no call has expired");
    farm.wait_until_recovered().await;
    farm.stop().await;
}

/// A freeze for longer than a lease triggers no failover: no worker could renew its lease
/// meanwhile. The apis check for dead workers before the workers can renew.
#[tokio::test]
async fn fault_21_freeze_redis_for_longer_than_a_lease() {
    let _machine = shared().await;
    let mut farm = builder().apis(2).workers(3).start().await;
    let client = farm.client().clone();
    let addresses = load_recorders(&client, 6).await;
    let before = generations(&client, &addresses).await;
    let load = Load::start(&farm.clients, &addresses, Pace::STEADY);
    load.full_pace().await;
    freeze(farm.redis.process());
    wait::pass(Duration::from_secs(6)).await;
    farm.workers.iter_mut().for_each(freeze);
    thaw(farm.redis.process());
    wait::pass(Duration::from_secs(2)).await;
    farm.workers.iter_mut().for_each(thaw);
    eprintln!(
        "thaw after 6 s to full pace: {:.2?}",
        load.full_pace().await
    );
    // Longer than a lease, so that a mistaken failover would have happened.
    wait::pass(Duration::from_secs(7)).await;
    let known = ["ok", "queue_unavailable", "outcome_unknown"];
    load.end().await.check(&client, &known).await;
    for client in &farm.clients {
        let reaps = Scrape::of(client).await.count("execution_reaps_total");
        assert_eq!(reaps, 0, "a living worker was failed over");
    }
    assert_eq!(
        generations(&client, &addresses).await,
        before,
        "contracts moved to another worker"
    );
    farm.wait_until_recovered().await;
    farm.stop().await;
}

#[tokio::test]
async fn fault_22_the_memory_of_redis_is_full() {
    let _machine = shared().await;
    let mut farm = builder().workers(2).start().await;
    let client = farm.client().clone();
    let addresses = load_recorders(&client, 4).await;
    let before = generations(&client, &addresses).await;
    let load = Load::start(&farm.clients, &addresses, Pace::STEADY);
    load.full_pace().await;

    // Over four fifths but not full: calls in flight finish and new ones are refused.
    let used = farm.used_memory().await;
    farm.config_set("maxmemory", &(used + used / 10).to_string())
        .await;
    is_refused_as_overloaded(&client, &addresses[0]).await;
    // Completely full, for longer than a lease: the workers must survive.
    farm.config_set("maxmemory", &(used / 2).to_string()).await;
    wait::pass(Duration::from_secs(7)).await;
    assert_ne!(
        client
            .execute(&addresses[0], "known", &json!([]))
            .await
            .status,
        200
    );
    let workers = farm.redis.workers("exec:").await;
    for worker in &workers {
        let lives: bool = farm
            .redis_command(&["EXISTS", &format!("exec:{{w:{worker}}}:lease")])
            .await;
        assert!(lives, "{worker} has lost its lease");
    }
    farm.config_set("maxmemory", "0").await;
    eprintln!("room again to full pace: {:.2?}", load.full_pace().await);
    load.end()
        .await
        .check(&client, &["ok", "overloaded", "queue_unavailable"])
        .await;
    assert_eq!(
        generations(&client, &addresses).await,
        before,
        "contracts moved to another worker"
    );
    client.must_load("another", CONTRACT).await;
    farm.wait_until_recovered().await;
    farm.stop().await;
}

/// Unloading frees memory, and a drain moves contracts: both go on while loads and calls are
/// refused.
#[tokio::test]
async fn fault_22_unload_and_drain_while_memory_is_short() {
    let _machine = shared().await;
    let farm = builder().workers(2).start().await;
    let client = farm.client().clone();
    let addresses = load_recorders(&client, 4).await;
    // A tenth of it is room enough for what goes on.
    let filler = ["SETRANGE", "filler", "50000000", "x"];
    farm.redis_command::<()>(&filler).await;
    let used = farm.used_memory().await;
    farm.config_set("maxmemory", &(used + used / 10).to_string())
        .await;
    is_refused_as_overloaded(&client, &addresses[0]).await;
    let ready = client.get("/readyz").await;
    assert_eq!(ready.status, 200, "load balancers must send unloads");
    assert_eq!(ready.json()["refuses"], json!(["loads", "calls"]));
    client.unload(&addresses[0]).await.is_no_content();
    let drained = client.owner(&addresses[1]).await.expect("it has an owner");
    assert_eq!(client.drain(&drained).await.status, 202);
    wait::until_true("the contract to move", DEFAULT_LIMIT, async || {
        let owner = client.owner(&addresses[1]).await;
        owner.is_some_and(|owner| owner != drained)
    })
    .await;
    farm.redis_command::<()>(&["DEL", "filler"]).await;
    farm.config_set("maxmemory", "0").await;
    wait::until_true("calls to be taken", DEFAULT_LIMIT, async || {
        let answer = client.execute(&addresses[1], "known", &json!([])).await;
        answer.status == 200
    })
    .await;
    wait::until_true("the drained worker to end", DEFAULT_LIMIT, async || {
        client.workers().await.len() == 1
    })
    .await;
    farm.stop().await;
}

async fn is_refused_as_overloaded(client: &Client, address: &str) {
    let refused = wait::until("calls to be refused", DEFAULT_LIMIT, async || {
        let answer = client.execute(address, "known", &json!([])).await;
        Some(answer).filter(|answer| answer.status != 200)
    })
    .await;
    assert_eq!(refused.error(503, "overloaded")["started"], false);
    client
        .load("another", CONTRACT)
        .await
        .error(503, "overloaded");
}

#[tokio::test]
async fn fault_23_scripts_flushed_and_clients_killed_for_30_s() {
    let _machine = shared().await;
    let mut farm = builder().apis(2).workers(2).start().await;
    let client = farm.client().clone();
    let addresses = load_recorders(&client, 4).await;
    let before = generations(&client, &addresses).await;
    let load = Load::start(&farm.clients, &addresses, Pace::STEADY);
    load.full_pace().await;
    let start = Instant::now();
    let mut rounds = 0;
    while start.elapsed() < Duration::from_secs(30) {
        farm.script_flush().await;
        farm.client_kill().await;
        rounds += 1;
        wait::pass(Duration::from_millis(500)).await;
    }
    eprintln!(
        "{rounds} rounds; then to full pace: {:.2?}",
        load.full_pace().await
    );
    let log = load.end().await;
    let (all, well) = (log.calls.len(), log.succeeded());
    log.check(&client, &["ok", "queue_unavailable"]).await;
    assert!(well * 10 >= all * 9, "{well} of {all} succeeded");
    assert_eq!(
        generations(&client, &addresses).await,
        before,
        "contracts moved to another worker"
    );
    farm.wait_until_recovered().await;
    farm.stop().await;
}

#[tokio::test]
async fn fault_24_a_wrong_eviction_policy() {
    let _machine = shared().await;
    let folder = TempDir::new().expect("a folder can be made");
    let mut redis =
        RedisServer::start_on(programs::free_port(), "volatile-ttl", folder.path()).await;
    for mut command in [programs::api(), programs::worker()] {
        command
            .env("REDIS_URL", redis.url())
            .env("EXECUTION_API_PORT", "0")
            .env("TMPDIR", folder.path());
        let mut process = Process::start("refuses", command, folder.path());
        let status = process.end(DEFAULT_LIMIT).await;
        let log = process.log();
        assert!(
            status.code().is_some_and(|code| code != 0),
            "{status}: {log}"
        );
        assert!(
            log.contains("maxmemory-policy") && log.contains("volatile-ttl"),
            "{log}"
        );
        assert!(!log.contains("panicked"), "{log}");
    }
    assert_eq!(redis.keys().await, Vec::<String>::new());
    redis.process().terminate().await;
}
