//! Tests of the clean-up after dead workers: their jobs, contracts and loads.

use std::cmp::Ordering::Equal;

use shared::queue::contracts::Route;
use shared::queue::ownership::Failover;
use shared::queue::{ReaperConfig, reaper};

use super::contracts::route_of;
use super::*;

/// Waits for `count` failed replies to `api`. Returns each job with its failure code.
async fn failures(queue: &Queue, api: ApiId, count: usize) -> Vec<(u64, FailureCode)> {
    let mut reader = replies::Reader::new(queue.clone(), api);
    let mut failures = Vec::new();
    while failures.len() < count {
        for frame in reader.read().await {
            for reply in unpack_replies(&frame).unwrap().replies {
                failures.push((reply.id.0, reply.outcome.unwrap_err().code));
            }
        }
    }
    failures
}

/// Runs two reapers at once, as in a farm.
fn reapers(queue: &Queue) -> Lifecycle {
    let life = Lifecycle::new();
    let config = ReaperConfig {
        grace: Duration::ZERO,
        quarantine: LONG,
    };
    for _ in 0..2 {
        life.spawn("reaper", reaper::run(queue.clone(), config, life.clone()));
    }
    life
}

/// Waits until the clean-up after a worker is complete.
async fn cleaned_up(queue: &Queue, redis: &Redis, worker: WorkerId) {
    let workers = queue.keys().workers();
    let worker = worker.to_string();
    while redis
        .command::<Option<f64>>(&["ZSCORE", &workers, &worker])
        .await
        .is_some()
    {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_dead_worker_is_cleaned_up() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    let (api, dead) = (ApiId::random(), worker(&queue).await);
    queue.api_heartbeat(api).await.unwrap();
    let contract = address("abcd");
    load(&queue, &contract, dead, &spec("1")).await;
    send(&queue, api, dead, 1).await;
    read(&mut inbox::Reader::new(queue.clone(), dead), 1).await;
    send(&queue, api, dead, 2).await;

    queue.abandon_worker(dead).await.unwrap();
    let life = reapers(&queue);

    // The delivered job may have been started. The others were not.
    let mut failed = failures(&queue, api, 3).await;
    failed.sort_unstable_by_key(|(id, code)| (*code != FailureCode::WorkerLost, *id));
    let expected = [
        (1, FailureCode::WorkerLost),
        (1, FailureCode::NotHosted),
        (2, FailureCode::NotHosted),
    ];
    assert_eq!(failed, expected);
    let mut offers =
        placement::Reader::new(queue.clone(), EngineKind::Javascript, WorkerId::random());
    let offer = loop {
        if let Some(offer) = offers.read().await {
            break unpack_jobs(&offer.frame).unwrap();
        }
    };
    let Job::Load(load) = &offer.jobs[0].job else {
        panic!("{offer:?}");
    };
    assert_eq!((&load.address, &load.spec), (&contract, &spec("1")));
    let Route::Unassigned(record) = route_of(&queue, &contract).await else {
        panic!("it has no owner")
    };
    assert_eq!(record.owner, None);
    life.stop();
    life.join().await;
    let left = redis.keys().await;
    assert!(!left.iter().any(|key| key.contains("{w:")), "{left:?}");
}

#[tokio::test]
async fn only_running_contracts_are_quarantined() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    let (api, called, idle) = (ApiId::random(), address("abcd"), address("idle"));
    let life = reapers(&queue);
    for _ in 0..3 {
        let worker = worker(&queue).await;
        for contract in [&called, &idle] {
            load(&queue, contract, worker, &spec("1")).await;
        }
        send(&queue, api, worker, 1).await;
        read(&mut inbox::Reader::new(queue.clone(), worker), 1).await;
        queue.abandon_worker(worker).await.unwrap();
        cleaned_up(&queue, &redis, worker).await;
    }
    let route = route_of(&queue, &called).await;
    assert!(matches!(route, Route::Quarantined(_)), "{route:?}");
    let route = route_of(&queue, &idle).await;
    assert!(matches!(route, Route::Unassigned(_)), "{route:?}");
    assert_eq!(queue.dead_letters(|_| true).await.unwrap().len(), 1);
    life.stop();
    life.join().await;
}

/// A worker was only slow: it goes on under its next id. Whether or not it gets its contract back,
/// it did not die of it.
#[tokio::test]
async fn a_slow_worker_does_not_count_as_a_death() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    let contract = address("abcd");
    for round in 0..6 {
        let slow = worker(&queue).await;
        let generation = load(&queue, &contract, slow, &spec("1")).await;
        let host = queue.contract(&contract).await.unwrap().unwrap();
        let standing = Standing::of(slow, generation);
        let reaped = queue.fail_over(&contract, standing, true, 60_000).await;
        assert_eq!(reaped.unwrap(), Failover::Released, "round {round}");
        let is_taken = round % 2 == 0;
        if is_taken {
            load(&queue, &contract, worker(&queue).await, &spec("1")).await;
        }
        let next = next_id(&queue, slow).await;
        let resumed = queue
            .resume_ownership(&contract, standing, next, &host.load)
            .await
            .unwrap();
        assert_eq!(resumed.done().is_none(), is_taken, "round {round}");
        let record: Vec<Option<String>> = redis
            .command(&["HMGET", "test:{c:abcd}", "death1", "death2"])
            .await;
        assert_eq!(record, [Some("0".to_owned()), Some("0".to_owned())]);
        let left = queue.ownership(&contract).await.unwrap().standing;
        queue.drop_ownership(&contract, left).await.unwrap();
    }
}

/// Only the death of the slow worker is taken back, whichever it was in the order.
#[tokio::test]
async fn deaths_of_other_workers_still_count() {
    for slow in 0..2 {
        let redis = Redis::start();
        let queue = redis.queue().await;
        let contract = address("abcd");
        let mut died = Vec::new();
        for _ in 0..2 {
            died.push(die_running(&queue, &contract).await);
        }
        let (standing, load) = &died[slow];
        let next = next_id(&queue, standing.owner.unwrap()).await;
        let resumed = queue
            .resume_ownership(&contract, *standing, next, load)
            .await;
        let left = usize::from(resumed.unwrap().done().is_some());
        assert_eq!(left, slow, "the later one gets it back");
        let now = queue.ownership(&contract).await.unwrap().standing;
        queue.drop_ownership(&contract, now).await.unwrap();
        // One counts. Two more are three within an hour.
        die_running(&queue, &contract).await;
        let route = route_of(&queue, &contract).await;
        assert!(matches!(route, Route::Unassigned(_)), "{slow}: {route:?}");
        die_running(&queue, &contract).await;
        let route = route_of(&queue, &contract).await;
        assert!(matches!(route, Route::Quarantined(_)), "{slow}: {route:?}");
    }
}

/// A worker claims the contract and dies while it runs it.
async fn die_running(queue: &Queue, contract: &ContractAddress) -> (Standing, LoadId) {
    let dead = worker(queue).await;
    let generation = load(queue, contract, dead, &spec("1")).await;
    let load = queue.contract(contract).await.unwrap().unwrap().load;
    let standing = Standing::of(dead, generation);
    let reaped = queue.fail_over(contract, standing, true, 60_000).await;
    assert_ne!(reaped.unwrap(), Failover::Gone);
    (standing, load)
}

#[tokio::test]
async fn pending_loads_of_a_dead_worker_are_offered_again() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    let dead = worker(&queue).await;
    let contract = address("abcd");
    queue.offer(contract.clone(), spec("1")).await.unwrap();
    let usage = async |id, usage| {
        let least = queue.compare_usage(EngineKind::Javascript, id, usage);
        least.await.unwrap()
    };
    let living = WorkerId::random();
    assert_eq!(usage(living, 0.5).await.total_cmp(&0.5), Equal);
    assert_eq!(usage(dead, 0.25).await.total_cmp(&0.25), Equal);
    assert_eq!(usage(living, 0.5).await.total_cmp(&0.25), Equal);
    let mut taken = placement::Reader::new(queue.clone(), EngineKind::Javascript, dead);
    while taken.read().await.is_none() {}
    queue.abandon_worker(dead).await.unwrap();
    let life = reapers(&queue);
    cleaned_up(&queue, &redis, dead).await;
    let mut next =
        placement::Reader::new(queue.clone(), EngineKind::Javascript, WorkerId::random());
    let received = next.read().await.expect("the load is offered at once");
    let offered = unpack_jobs(&received.frame).unwrap();
    assert!(
        matches!(&offered.jobs[0].job, Job::Load(again) if again.address == contract),
        "{offered:?}"
    );
    let stream = queue.keys().placement(EngineKind::Javascript);
    let members = redis
        .command::<Vec<std::collections::HashMap<String, redis::Value>>>(&[
            "XINFO",
            "CONSUMERS",
            &stream,
            "workers",
        ])
        .await;
    assert_eq!(members.len(), 1, "the dead worker is still a consumer");
    assert_eq!(usage(living, 0.5).await.total_cmp(&0.5), Equal);
    life.stop();
    life.join().await;
}

/// A worker that is cut off may write after its reaper has cleaned up.
#[tokio::test]
async fn what_a_worker_that_is_gone_writes_late_does_not_count() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    let (living, gone) = (worker(&queue).await, worker(&queue).await);
    queue.remove_worker(gone).await.unwrap();
    let usage = async |id, usage| {
        let least = queue.compare_usage(EngineKind::Javascript, id, usage);
        least.await.unwrap()
    };
    usage(gone, 0.25).await;
    assert_eq!(usage(living, 0.5).await.total_cmp(&0.5), Equal);
    // Nobody compares with the most used ones. The sweep removes them.
    usage(gone, 0.75).await;
    assert!(queue.sweep().await.unwrap());
    let listed = queue.keys().worker_usage(EngineKind::Javascript);
    let listed: Vec<String> = redis.command(&["ZRANGE", &listed, "0", "-1"]).await;
    assert_eq!(listed, [living.to_string()]);
}

#[tokio::test]
async fn the_reaper_replies_to_frames_of_another_version() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    let (api, dead) = (ApiId::random(), worker(&queue).await);
    queue.api_heartbeat(api).await.unwrap();
    let frame = format!(r#"{{"v":99,"api":"{api}","jobs":[{{"id":7}},{{"id":8}}]}}"#);
    let inbox = queue.keys().inbox(dead);
    redis
        .command::<()>(&["XADD", &inbox, "*", "b", &frame])
        .await;
    queue.abandon_worker(dead).await.unwrap();
    let life = reapers(&queue);
    let failed = failures(&queue, api, 2).await;
    let expected = [(7, FailureCode::NotHosted), (8, FailureCode::NotHosted)];
    assert_eq!(failed, expected);
    cleaned_up(&queue, &redis, dead).await;
    assert!(queue.dead_letters(|_| true).await.unwrap().is_empty());
    life.stop();
    life.join().await;
}
