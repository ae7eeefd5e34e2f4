//! What becomes of a dead worker's jobs and contracts.

use shared::queue::contracts::{Claim, Orphan, Route};
use shared::queue::reaper::{self, ReaperConfig};

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

    // Its lease ends, and it reports no more: as if it had died some seconds ago.
    redis
        .command::<()>(&["DEL", &queue.keys().lease(dead)])
        .await;
    let workers = queue.keys().workers();
    redis
        .command::<()>(&["ZADD", &workers, "1", &dead.to_string()])
        .await;
    let (life, config) = (
        Lifecycle::new(),
        ReaperConfig {
            grace: Duration::ZERO,
            quarantine: LONG,
        },
    );
    life.spawn("reaper", reaper::run(queue.clone(), config, life.clone()));
    life.spawn("reaper", reaper::run(queue.clone(), config, life.clone()));

    // The job that it was given may have been started; those that it was not given were not.
    let mut told = failures(&queue, api, 3).await;
    told.sort_unstable_by_key(|(id, code)| (*code != FailureCode::WorkerLost, *id));
    let expected = [
        (1, FailureCode::WorkerLost),
        (1, FailureCode::NotHosted),
        (2, FailureCode::NotHosted),
    ];
    assert_eq!(told, expected);
    let mut offers = placement::Reader::new(queue.clone(), Engine::Javascript, WorkerId::random());
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
        let orphan = queue.orphan(&contract, worker, 60_000).await.unwrap();
        let expected = if death < 3 {
            Orphan::Free
        } else {
            Orphan::Quarantined
        };
        assert_eq!(orphan, expected, "death {death}");
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
        queue.orphan(contract, slow, 1000).await.unwrap();
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
