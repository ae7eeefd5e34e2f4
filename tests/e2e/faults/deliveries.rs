//! Jobs and replies on their way between a worker and Redis are lost or refused.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{FAILOVER, builder, load_recorders, shared};
use crate::support::farm::Farm;
use crate::support::proxy::{Condition, Proxy, Role};
use crate::support::wait::{self, DEFAULT_LIMIT};

/// How soon an entry must be found that Redis delivered to a dead connection: the longest read of
/// the old connection, one of the new connection, and some time for the call.
const FOUND_WITHIN: Duration = Duration::from_secs(7);

/// How many blocking reads of an inbox wait in Redis.
async fn waiting_reads(farm: &Farm) -> usize {
    let clients: String = farm.redis_command(&["CLIENT", "LIST"]).await;
    let is_inbox = |line: &&str| line.contains("cmd=xreadgroup") && line.contains("flags=b");
    clients.lines().filter(is_inbox).count()
}

/// Redis does not notice that a worker's connection is gone, and delivers the next job to it. The
/// worker has connected again before, so it receives the job after that one.
#[tokio::test]
async fn row_7_a_job_is_delivered_to_a_half_open_connection() {
    let _machine = shared().await;
    let mut farm = builder().workers(0).start().await;
    let proxy = Proxy::start(farm.redis.port()).await;
    farm.join_with(&[("REDIS_URL", &proxy.url())]).await;
    let client = farm.client().clone();
    // No room for another contract: the placement stream is not read meanwhile.
    let addresses = load_recorders(&client, 1).await;
    let address = addresses[0].clone();
    client.execute(&address, "add", &json!(0)).await.data();
    let before = waiting_reads(&farm).await;
    assert_eq!(proxy.set_present(Role::Inbox, Condition::HalfOpen), 1);
    wait::until_true("the worker to read again", DEFAULT_LIMIT, async || {
        waiting_reads(&farm).await > before
    })
    .await;
    let sent = Instant::now();
    let first = tokio::spawn({
        let (client, address) = (client.clone(), address.clone());
        async move { client.execute(&address, "add", &json!(1)).await }
    });
    wait::until_true("the first job to be delivered", DEFAULT_LIMIT, async || {
        farm.backlog().await == 1
    })
    .await;
    client.execute(&address, "add", &json!(2)).await.data();
    assert_eq!(first.await.expect("the call ends").data()["id"], 1);
    eprintln!("lost job found after {:.2?}", sent.elapsed());
    assert!(sent.elapsed() < FOUND_WITHIN, "{:?}", sent.elapsed());
    farm.wait_until_recovered().await;
    assert_eq!(farm.backlog().await, 0, "an entry is left pending");
    farm.stop().await;
}

#[tokio::test]
async fn row_7_one_direction_of_a_worker_s_connection_is_cut() {
    let _machine = shared().await;
    let mut farm = builder().workers(0).start().await;
    let proxy = Proxy::start(farm.redis.port()).await;
    farm.join_with(&[("REDIS_URL", &proxy.url())]).await;
    let client = farm.client().clone();
    let addresses = load_recorders(&client, 1).await;
    for (id, condition) in [(1, Condition::RepliesLost), (2, Condition::RequestsLost)] {
        assert_eq!(proxy.set_present(Role::Inbox, condition), 1);
        let sent = Instant::now();
        let answer = client.execute(&addresses[0], "add", &json!(id)).await;
        assert_eq!(answer.data()["count"], id, "{condition:?}");
        eprintln!("{condition:?}: answered after {:.2?}", sent.elapsed());
        assert!(sent.elapsed() < FOUND_WITHIN, "{:?}", sent.elapsed());
        proxy.heal();
        farm.wait_until_recovered().await;
    }
    assert_eq!(farm.backlog().await, 0, "an entry is left pending");
    farm.stop().await;
}

/// Redis refuses the reply of a worker, which then dies. What remains of the job is its entry in
/// the inbox: it tells that the job may have run.
#[tokio::test]
async fn row_5_a_worker_dies_at_maxmemory() {
    let _machine = shared().await;
    let mut farm = builder().start().await;
    let client = farm.client().clone();
    let addresses = load_recorders(&client, 1).await;
    farm.join().await;
    client.execute(&addresses[0], "add", &json!(1)).await.data();
    let call = tokio::spawn({
        let (client, address) = (client.clone(), addresses[0].clone());
        async move {
            let argument = json!({ "id": 2, "ms": 800 });
            client.execute(&address, "wait", &argument).await
        }
    });
    wait::until_true("the call to be delivered", DEFAULT_LIMIT, async || {
        farm.backlog().await == 1
    })
    .await;
    let used = farm.used_memory().await;
    farm.config_set("maxmemory", &(used / 2).to_string()).await;
    let refused = "jobs not settled yet";
    wait::until_true("the reply to be refused twice", DEFAULT_LIMIT, async || {
        farm.workers[0].log().matches(refused).count() >= 2
    })
    .await;
    assert_eq!(
        farm.backlog().await,
        1,
        "the entry of an unanswered job is gone"
    );
    farm.workers[0].kill().await;
    let killed = Instant::now();
    farm.config_set("maxmemory", "0").await;
    let answer = call.await.expect("the call ends");
    assert_eq!(answer.data()["id"], 2, "it runs again on the other worker");
    eprintln!("killed worker to answer: {:.2?}", killed.elapsed());
    assert!(killed.elapsed() < FAILOVER, "{:?}", killed.elapsed());
    farm.wait_until_recovered().await;
    farm.stop().await;
}
