//! What becomes of a dead worker's jobs and contracts.

use shared::queue::contracts::{Claim, Route};
use shared::queue::orphans::Orphan;
use shared::queue::{ReaperConfig, reaper};

use super::*;

/// Waits for `count` replies to `api`: the job and the code of its failure each.
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

/// Two at once, as in a farm.
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

/// Waits until a worker has been cleared up after.
async fn is_forgotten(queue: &Queue, redis: &Redis, worker: WorkerId) {
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
async fn a_dead_worker_is_cleared_up_after() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    let (api, dead) = (ApiId::random(), worker(&queue).await);
    queue.api_heartbeat(api).await.unwrap();
    let contract = address("abcd");
    queue
        .claim(&contract, dead, None, &spec("1"))
        .await
        .unwrap();
    send(&queue, api, dead, 1).await;
    read(&mut inbox::Reader::new(queue.clone(), dead), 1).await;
    send(&queue, api, dead, 2).await;

    queue.abandon_worker(dead).await.unwrap();
    let life = reapers(&queue);

    // The job that it was given may have been started; those that it was not given were not.
    let mut told = failures(&queue, api, 3).await;
    told.sort_unstable_by_key(|(id, code)| (*code != FailureCode::WorkerLost, *id));
    let expected = [
        (1, FailureCode::WorkerLost),
        (1, FailureCode::NotHosted),
        (2, FailureCode::NotHosted),
    ];
    assert_eq!(told, expected);
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
    let Route::Unplaced(record) = queue.route(&contract).await.unwrap() else {
        panic!("it has no host")
    };
    assert_eq!(record.owner, None);
    life.stop();
    life.join().await;
    let left = redis.keys().await;
    assert!(!left.iter().any(|key| key.contains("{w:")), "{left:?}");
}

#[tokio::test]
async fn the_third_death_within_an_hour_quarantines() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    let contract = address("abcd");
    for death in 1..=3 {
        let worker = worker(&queue).await;
        let claimed = queue.claim(&contract, worker, None, &spec("1")).await;
        assert!(matches!(claimed.unwrap(), Claim::Granted(_)));
        let orphan = queue.orphan(&contract, worker, true, 60_000).await.unwrap();
        let expected = if death < 3 {
            Orphan::Free
        } else {
            Orphan::Quarantined
        };
        assert_eq!(orphan, expected, "death {death}");
        // Whoever died over it did not come to offer it, or to tell of it.
        let again = queue.orphan(&contract, worker, true, 60_000).await;
        assert_eq!(again.unwrap(), expected, "death {death}, again");
    }
    let route = queue.route(&contract).await.unwrap();
    assert!(matches!(route, Route::Quarantined(_)), "{route:?}");
    // Loading it again lifts it.
    let next = worker(&queue).await;
    queue
        .claim(&contract, next, None, &spec("1"))
        .await
        .unwrap();
    let route = queue.route(&contract).await.unwrap();
    assert!(matches!(route, Route::Hosted(..)), "{route:?}");
}

#[tokio::test]
async fn a_worker_that_was_only_slow_keeps_what_nobody_took() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    let (slow, other) = (worker(&queue).await, worker(&queue).await);
    let (kept, taken, gone) = (address("kept"), address("taken"), address("gone"));
    let mut records = Vec::new();
    for contract in [&kept, &taken, &gone] {
        queue.claim(contract, slow, None, &spec("1")).await.unwrap();
        records.push(queue.contract(contract).await.unwrap().unwrap());
    }
    for contract in [&kept, &taken] {
        queue.orphan(contract, slow, false, 1000).await.unwrap();
    }
    queue.claim(&taken, other, None, &spec("1")).await.unwrap();
    queue.forget(&gone, Some(slow)).await.unwrap();
    let keeps = async |contract, record, lost_data| {
        let reclaimed = queue.reclaim(contract, slow, record, lost_data).await;
        reclaimed.unwrap()
    };
    assert!(keeps(&kept, &records[0], false).await);
    assert!(!keeps(&taken, &records[1], false).await);
    assert!(
        !keeps(&gone, &records[2], false).await,
        "unloaded meanwhile"
    );
    assert!(keeps(&gone, &records[2], true).await, "Redis lost its data");
    let restored = queue.contract(&gone).await.unwrap().unwrap();
    assert_eq!(restored, records[2]);
}

#[tokio::test]
async fn only_what_was_running_is_quarantined() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    let (api, called, idle) = (ApiId::random(), address("abcd"), address("idle"));
    let life = reapers(&queue);
    for _ in 0..3 {
        let worker = worker(&queue).await;
        for contract in [&called, &idle] {
            let claimed = queue.claim(contract, worker, None, &spec("1")).await;
            assert!(matches!(claimed.unwrap(), Claim::Granted(_)));
        }
        send(&queue, api, worker, 1).await;
        read(&mut inbox::Reader::new(queue.clone(), worker), 1).await;
        queue.abandon_worker(worker).await.unwrap();
        is_forgotten(&queue, &redis, worker).await;
    }
    let route = queue.route(&called).await.unwrap();
    assert!(matches!(route, Route::Quarantined(_)), "{route:?}");
    let route = queue.route(&idle).await.unwrap();
    assert!(matches!(route, Route::Unplaced(_)), "{route:?}");
    assert_eq!(queue.dead_letters().await.unwrap().len(), 1);
    life.stop();
    life.join().await;
}

#[tokio::test]
async fn loads_that_a_dead_worker_had_taken_are_offered_anew() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    let dead = worker(&queue).await;
    let load = Load {
        address: address("abcd"),
        spec: spec("1"),
    };
    queue.offer(load.clone()).await.unwrap();
    let mut taken = placement::Reader::new(queue.clone(), EngineKind::Javascript, dead);
    while taken.read().await.is_none() {}
    queue.abandon_worker(dead).await.unwrap();
    let life = reapers(&queue);
    is_forgotten(&queue, &redis, dead).await;
    let mut next =
        placement::Reader::new(queue.clone(), EngineKind::Javascript, WorkerId::random());
    let received = next.read().await.expect("it is there at once");
    let offered = unpack_jobs(&received.frame).unwrap();
    assert!(
        matches!(&offered.jobs[0].job, Job::Load(again) if again.address == load.address),
        "{offered:?}"
    );
    let stream = queue.keys().placement(EngineKind::Javascript);
    let members = redis
        .command::<Vec<std::collections::HashMap<String, ::redis::Value>>>(&[
            "XINFO",
            "CONSUMERS",
            &stream,
            "workers",
        ])
        .await;
    assert_eq!(members.len(), 1, "the dead one is still a member");
    life.stop();
    life.join().await;
}

#[tokio::test]
async fn a_frame_of_another_version_is_answered_for_a_dead_worker() {
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
    let told = failures(&queue, api, 2).await;
    let expected = [(7, FailureCode::NotHosted), (8, FailureCode::NotHosted)];
    assert_eq!(told, expected);
    is_forgotten(&queue, &redis, dead).await;
    assert!(queue.dead_letters().await.unwrap().is_empty());
    life.stop();
    life.join().await;
}

#[tokio::test]
async fn nobody_registers_while_being_cleared_up_after() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    let worker = WorkerId::random();
    let lock = queue.keys().reap_lock(worker);
    redis.command::<()>(&["SET", &lock, "1"]).await;
    assert!(!queue.register_worker(worker).await.unwrap());
    assert_eq!(redis.keys().await, std::slice::from_ref(&lock));
    redis.command::<()>(&["DEL", &lock]).await;
    assert!(queue.register_worker(worker).await.unwrap());
}

#[tokio::test]
async fn a_contract_is_not_stuck_with_an_owner_whom_nobody_knows() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    let (known, contract) = (worker(&queue).await, address("abcd"));
    queue
        .claim(&contract, known, None, &spec("1"))
        .await
        .unwrap();
    assert!(!queue.free_abandoned(&contract, known).await.unwrap());
    // Whoever clears up after it frees the contract.
    queue.abandon_worker(known).await.unwrap();
    assert!(!queue.free_abandoned(&contract, known).await.unwrap());
    queue.remove_worker(known).await.unwrap();
    assert!(queue.free_abandoned(&contract, known).await.unwrap());
    assert!(queue.is_offer_due(&contract).await.unwrap());
}
