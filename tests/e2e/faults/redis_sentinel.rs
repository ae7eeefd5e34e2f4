//! A primary that sentinels watch is frozen or killed under load, and comes back.

use std::time::Instant;

use super::{generations, shared, under_load};
use crate::support::call_log::CONTRACT;
use crate::support::farm::Farm;
use crate::support::load::Load;
use redis_servers::{Kind, Role};

/// How a call may end while there is no primary.
const AFFECTED: [&str; 3] = ["ok", "queue_unavailable", "outcome_unknown"];

/// Waits until one server has taken the place of the other, and the calls succeed.
async fn fails_over(farm: &Farm, load: &Load, to: usize) {
    let start = Instant::now();
    farm.redis.several().becomes(to, Role::Primary).await;
    eprintln!("fault until the other is promoted: {:.2?}", start.elapsed());
    load.full_pace().await;
    eprintln!("fault until full pace: {:.2?}", start.elapsed());
}

/// The old primary wakes up and takes writes until the sentinels tell it not to. The next one is
/// killed, and comes back as an empty server that takes writes.
#[tokio::test]
async fn fault_35_fail_over_and_the_old_primary_comes_back() {
    let _machine = shared().await;
    let (mut farm, addresses, load) = under_load(Kind::Sentinel).await;
    let client = farm.client().clone();
    let before = generations(&client, &addresses).await;

    farm.redis.several().replicated().await;
    farm.redis.several().servers()[0].signal("STOP");
    fails_over(&farm, &load, 1).await;
    farm.redis.several().servers()[0].signal("CONT");
    farm.redis.several().becomes(0, Role::Replica).await;
    load.full_pace().await;

    farm.redis.several().replicated().await;
    farm.redis.several_mut().server_mut(1).kill();
    fails_over(&farm, &load, 0).await;
    farm.redis.several_mut().server_mut(1).restart();
    farm.redis.several().becomes(1, Role::Replica).await;
    load.full_pace().await;

    load.end().await.check(&client, &AFFECTED).await;
    assert_eq!(
        generations(&client, &addresses).await,
        before,
        "a living worker was failed over"
    );
    client.must_load("late", CONTRACT).await;
    farm.wait_until_recovered().await;
    farm.stop().await;
}

/// The replica lacks the last writes when it takes the place of the primary.
#[tokio::test]
async fn fault_37_a_failover_loses_writes() {
    let _machine = shared().await;
    let (mut farm, _, load) = under_load(Kind::Sentinel).await;
    let client = farm.client().clone();
    farm.redis.several().replicated().await;
    farm.redis.several().cut_replication(0).await;
    let cut = Instant::now();
    client.must_load("late", CONTRACT).await;
    load.full_pace().await;
    eprintln!("writes of {:.2?} are lost", cut.elapsed());
    farm.redis.several_mut().server_mut(0).kill();
    fails_over(&farm, &load, 1).await;
    load.end().await.check(&client, &AFFECTED).await;
    // Its owner has it, and writes it again.
    super::redis_down::answers(&client, "late").await;
    farm.wait_until_recovered().await;
    farm.stop().await;
}

/// A replica is only for failovers.
#[tokio::test]
async fn fault_39_kill_the_replica() {
    let _machine = shared().await;
    let (mut farm, _, load) = under_load(Kind::Sentinel).await;
    let client = farm.client().clone();
    farm.redis.several_mut().server_mut(1).kill();
    client.must_load("late", CONTRACT).await;
    load.full_pace().await;
    assert_eq!(client.farm_status().await.as_deref(), Some("ready"));
    load.end().await.check(&client, &["ok"]).await;
    farm.wait_until_recovered().await;
    farm.stop().await;
}
