//! Tests of leases, the fence, and the ids that a worker takes.

use shared::queue::contracts::Route;
use shared::queue::leases::{Fate, Renewal};
use shared::queue::ownership::Host;
use shared::queue::{QueueError, ReaperConfig, reaper};

use super::contracts::route_of;
use super::*;

fn reaper_config() -> ReaperConfig {
    ReaperConfig {
        grace: Duration::ZERO,
        quarantine: LONG,
    }
}

#[tokio::test]
async fn an_id_is_registered_once() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    let worker = worker(&queue).await;
    assert!(!queue.register_worker(worker).await.unwrap());
    let next = worker.next_epoch();
    assert!(next.same_process(worker));
    assert!(queue.register_worker(next).await.unwrap());
    let dead = queue.keys().dead_inbox(worker);
    redis
        .command::<()>(&["RENAME", &queue.keys().inbox(worker), &dead])
        .await;
    assert!(
        !queue.register_worker(worker).await.unwrap(),
        "it was fenced"
    );
}

#[tokio::test]
async fn a_lapsed_lease_can_be_renewed_until_the_fence() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    let worker = worker(&queue).await;
    assert_eq!(queue.fate(worker).await.unwrap(), Fate::Lives);
    redis
        .command::<()>(&["DEL", &queue.keys().lease(worker)])
        .await;
    assert_eq!(queue.fate(worker).await.unwrap(), Fate::Lapsed);
    assert!(!Fate::Lapsed.may_be_replaced());
    assert_eq!(queue.renew_lease(worker).await.unwrap(), Renewal::Held);
    assert_eq!(queue.fate(worker).await.unwrap(), Fate::Lives);

    let inbox = queue.keys().inbox(worker);
    let dead = queue.keys().dead_inbox(worker);
    redis.command::<()>(&["RENAME", &inbox, &dead]).await;
    redis
        .command::<()>(&["DEL", &queue.keys().lease(worker)])
        .await;
    assert_eq!(queue.fate(worker).await.unwrap(), Fate::Fenced);
    assert_eq!(queue.renew_lease(worker).await.unwrap(), Renewal::Fenced);
    assert!(
        !queue.is_alive(worker).await.unwrap(),
        "it cannot come back"
    );
    redis.command::<()>(&["DEL", &dead]).await;
    assert_eq!(queue.fate(worker).await.unwrap(), Fate::Cleared);
    assert_eq!(queue.renew_lease(worker).await.unwrap(), Renewal::Fenced);
}

/// Row 4: a reaper that is late takes nothing from a worker that lives under its next id.
#[tokio::test]
async fn row_4_a_late_reaper_takes_nothing_from_the_next_id() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    let fenced = worker(&queue).await;
    let contract = address("abcd");
    let generation = load(&queue, &contract, fenced, &spec("1")).await;
    let record = queue.contract(&contract).await.unwrap().unwrap();
    queue.abandon_worker(fenced).await.unwrap();
    let next = fenced.next_epoch();
    assert!(queue.register_worker(next).await.unwrap());
    queue.report_worker(next, &info()).await.unwrap();
    let earlier = Standing::of(fenced, generation);
    let resumed = queue
        .resume_ownership(&contract, earlier, next, &record.load)
        .await;
    assert_eq!(resumed.unwrap(), Outcome::Done(generation));
    // The first reaper is late: it is still at work, or its lock has expired.
    let life = Lifecycle::new();
    for _ in 0..2 {
        let reaping = reaper::run(queue.clone(), reaper_config(), life.clone());
        life.spawn("reaper", reaping);
    }
    while queue.fate(fenced).await.unwrap() != Fate::Cleared {
        tokio::task::yield_now().await;
    }
    let route = route_of(&queue, &contract).await;
    assert!(
        matches!(route, Route::Assigned(owner, _) if owner == next),
        "{route:?}"
    );
    life.stop();
    life.join().await;
}

/// Row 4: the lock of another reaper stays.
#[tokio::test]
async fn row_4_a_reaper_removes_only_its_own_lock() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    let worker = worker(&queue).await;
    let lock = queue.keys().reap_lock(worker);
    redis.command::<()>(&["SET", &lock, "another"]).await;
    queue.abandon_worker(worker).await.unwrap();
    let life = Lifecycle::new();
    let reaping = reaper::run(queue.clone(), reaper_config(), life.clone());
    life.spawn("reaper", reaping);
    while queue.fate(worker).await.unwrap() != Fate::Fenced {
        tokio::task::yield_now().await;
    }
    life.stop();
    life.join().await;
    assert_eq!(redis.command::<String>(&["GET", &lock]).await, "another");
}

#[tokio::test]
async fn a_contract_whose_owner_left_no_trace_is_released() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    let (owner, contract) = (worker(&queue).await, address("abcd"));
    load(&queue, &contract, owner, &spec("1")).await;
    let record = queue.contract(&contract).await.unwrap().unwrap();
    let release = async || {
        queue
            .release_from_lost_owner(&contract, record.standing())
            .await
            .unwrap()
    };
    assert!(!release().await, "it lives");
    // The list of workers has lost the worker. The look-up puts it there again for the reaper.
    queue.abandon_worker(owner).await.unwrap();
    let (workers, member) = (queue.keys().workers(), owner.to_string());
    redis.command::<()>(&["ZREM", &workers, &member]).await;
    assert!(!release().await, "a reaper has to clean up first");
    let score: Option<f64> = redis.command(&["ZSCORE", &workers, &member]).await;
    assert_eq!(score, Some(0.0));
    queue.remove_worker(owner).await.unwrap();
    assert!(release().await);
    assert!(queue.is_offer_due(&contract).await.unwrap());
}

/// A claim may be under way for so long that a reaper has cleaned up after the worker.
#[tokio::test]
async fn a_worker_that_is_gone_owns_nothing_and_leaves_nothing() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    let gone = worker(&queue).await;
    let contract = address("abcd");
    let generation = load(&queue, &contract, gone, &spec("1")).await;
    let record = queue.contract(&contract).await.unwrap().unwrap();
    queue.abandon_worker(gone).await.unwrap();
    let life = Lifecycle::new();
    life.spawn(
        "reaper",
        reaper::run(queue.clone(), reaper_config(), life.clone()),
    );
    while queue.fate(gone).await.unwrap() != Fate::Cleared {
        tokio::task::yield_now().await;
    }
    life.stop();
    life.join().await;

    let found = queue.ownership(&contract).await.unwrap().standing;
    let claimed = queue.claim(&contract, found, gone, None).await.unwrap();
    assert_eq!(claimed, Outcome::Refused(found));
    let earlier = Standing::of(gone, generation);
    let resumed = queue.resume_ownership(&contract, earlier, gone, &record.load);
    assert!(matches!(resumed.await, Err(QueueError::Fenced(id)) if id == gone));
    let host = Host {
        generation,
        load: record.load.clone(),
        spec: record.spec.clone(),
        sandbox: Sandbox::default(),
    };
    let restored = queue.restore_ownership(&contract, gone, &host).await;
    assert!(matches!(restored, Err(QueueError::Fenced(id)) if id == gone));
    assert_eq!(queue.owned_by(gone).await.unwrap(), []);
}
