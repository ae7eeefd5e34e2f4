//! Redis that fails over, and a cluster that moves its data.
//!
//! The whole farm meets the same failures in `tests/e2e/faults/`.

use std::collections::BTreeSet;
use std::time::Instant;

use shared::queue::leases::Renewal;
use shared::queue::settlement::Settlement;

use super::*;

/// From the death of a primary until its replica serves. Noticing it takes 5 s in the tests, and
/// the election some more; an idle machine needs 7 s.
const FAILOVER: Duration = Duration::from_secs(30);

/// A renewal at a server that is well, on a busy machine: less than any failover takes.
const PROMPT: Duration = Duration::from_secs(2);

async fn becomes_held(queue: &Queue, worker: WorkerId, within: Duration) {
    let start = Instant::now();
    loop {
        let renewed = queue.renew_lease(worker).await;
        if matches!(renewed, Ok(Renewal::Held)) {
            return;
        }
        assert!(start.elapsed() < within, "{renewed:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Row 35: what was acknowledged and replicated is there, and the same connections serve again.
#[tokio::test]
async fn sentinels_lead_to_the_new_primary() {
    let mut redis = Redis::exclusive(Kind::Sentinel);
    let queue = redis.queue().await;
    let (worker, api) = (worker(&queue).await, ApiId::random());
    queue.api_heartbeat(api).await.unwrap();
    let mut reader = inbox::Reader::new(queue.clone(), worker);
    assert!(reader.read().await.is_empty());
    redis.replicated().await;
    redis.server_mut(0).kill();
    becomes_held(&queue, worker, FAILOVER).await;
    send(&queue, api, worker, 10).await;
    let (jobs, entries) = read(&mut reader, 10).await;
    assert_eq!(jobs.len(), 10);
    let replies = [(api, reply_frame(worker, 1))];
    queue.settle(worker, &replies, &entries).await.unwrap();
    let pooled = async {
        while queue.workers().await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let pooled = tokio::time::timeout(FAILOVER, pooled).await;
    pooled.expect("the pool leads to the new primary, too");
}

/// Row 34: the death of a primary delays what is on it, and nothing else.
#[tokio::test]
async fn the_death_of_a_primary_disturbs_its_own_keys_only() {
    let mut redis = Redis::exclusive(Kind::Cluster);
    let queue = redis.queue().await;
    let mut on: [Option<WorkerId>; 3] = [None; 3];
    while on.iter().any(Option::is_none) {
        let worker = WorkerId::random();
        let server = redis.server_of(&queue.keys().lease(worker)).await;
        if on[server].is_none() {
            assert!(queue.register_worker(worker).await.unwrap());
            on[server] = Some(worker);
        }
    }
    let [affected, others @ ..] = on.map(Option::unwrap);
    redis.replicated().await;
    redis.server_mut(0).kill();
    let held = tokio::spawn({
        let queue = queue.clone();
        async move { becomes_held(&queue, affected, FAILOVER).await }
    });
    while !held.is_finished() {
        for worker in others {
            becomes_held(&queue, worker, PROMPT).await;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    held.await.unwrap();
}

/// Row 36: the slots of inbox and replies go from server to server while jobs are sent and
/// answered.
#[tokio::test]
async fn slots_that_move_lose_nothing() {
    const JOBS: u64 = 2_000;
    let redis = Redis::exclusive(Kind::Cluster);
    let queue = redis.queue().await;
    let (worker, api) = (worker(&queue).await, ApiId::random());
    queue.api_heartbeat(api).await.unwrap();
    let serving = tokio::spawn(serve(queue.clone(), worker, JOBS));
    let sending = tokio::spawn(send_all(queue.clone(), api, worker, JOBS));
    let mut reader = replies::Reader::new(queue.clone(), api);
    let replied = tokio::spawn(async move {
        let all = read_replies(&mut reader, usize::try_from(JOBS).unwrap());
        tokio::time::timeout(6 * LONG, all)
            .await
            .expect("all are answered")
    });
    let keys = [queue.keys().inbox(worker), queue.keys().replies(api)];
    for key in keys.iter().cycle().take(6) {
        let from = redis.server_of(key).await;
        let pause = Duration::from_millis(30);
        redis.move_slot(key, from, (from + 1) % 3, pause).await;
        becomes_held(&queue, worker, PROMPT).await;
    }
    assert_eq!(sending.await.unwrap(), []);
    serving.await.unwrap();
    assert_eq!(replied.await.unwrap().len(), usize::try_from(JOBS).unwrap());
}

/// The api whose replies cannot be stored does not keep the other one waiting.
#[tokio::test]
async fn replies_wait_for_a_server_that_is_away() {
    let redis = Redis::exclusive(Kind::Cluster);
    let queue = redis.queue().await;
    let worker = worker(&queue).await;
    let own = redis.server_of(&queue.keys().inbox(worker)).await;
    let away = (own + 1) % 3;
    let (near, far) = (
        api_on(&redis, &queue, own).await,
        api_on(&redis, &queue, away).await,
    );
    send(&queue, near, worker, 2).await;
    let (_, entries) = read(&mut inbox::Reader::new(queue.clone(), worker), 2).await;
    redis.replicated().await;
    redis.servers()[away].signal("STOP");
    let mut settlement = Settlement::new(queue.clone());
    for number in 1..=2 {
        let replies = [far, near].map(|api| (api, reply_frame(worker, number)));
        let settling = settlement.settle(worker, &replies, &entries);
        tokio::time::timeout(PROMPT, settling)
            .await
            .unwrap()
            .unwrap();
    }
    let mut reader = replies::Reader::new(queue.clone(), near);
    assert_eq!(read_replies(&mut reader, 2).await, [1, 2]);
    let pending = queue.inbox_depth(worker).await.unwrap();
    assert!(
        pending > 0,
        "not acknowledged before all replies are stored"
    );
    // Its replica may have taken its place by now.
    redis.servers()[away].signal("CONT");
    let start = Instant::now();
    while settlement.is_due_after().is_some() {
        assert!(start.elapsed() < FAILOVER);
        // Its result is that something is left.
        let _ = settlement.finish().await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // One that got no answer may have been stored all the same, and is sent again.
    let mut reader = replies::Reader::new(queue.clone(), far);
    let mut stored = BTreeSet::new();
    while stored.len() < 2 {
        stored.extend(read_replies(&mut reader, 1).await);
    }
    assert_eq!(stored, BTreeSet::from([1, 2]));
    assert_eq!(queue.inbox_depth(worker).await.unwrap(), 0);
}

/// An api whose reply stream is on this server.
async fn api_on(redis: &Redis, queue: &Queue, server: usize) -> ApiId {
    loop {
        let api = ApiId::random();
        if redis.server_of(&queue.keys().replies(api)).await == server {
            queue.api_heartbeat(api).await.unwrap();
            return api;
        }
    }
}

/// Sends jobs, 20 at a time. Returns those that were not delivered.
async fn send_all(queue: Queue, api: ApiId, worker: WorkerId, count: u64) -> Vec<Failed> {
    let mut failed = Vec::new();
    for _ in 0..count / 20 {
        let events = send(&queue, api, worker, 20).await;
        failed.append(&mut events.0.lock().unwrap());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    failed
}

/// Answers `count` jobs.
async fn serve(queue: Queue, worker: WorkerId, count: u64) {
    let mut reader = inbox::Reader::new(queue.clone(), worker);
    let mut settlement = Settlement::new(queue);
    let mut served = 0;
    while served < count {
        for received in reader.read().await {
            let frame = unpack_jobs(&received.frame).unwrap();
            let api = frame.api.unwrap();
            let jobs = frame.jobs.iter();
            let replies: Vec<_> = jobs
                .map(|job| (api, reply_frame(worker, job.id.0)))
                .collect();
            let entries = [received.entry];
            while settlement.settle(worker, &replies, &entries).await.is_err() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            served += u64::try_from(replies.len()).unwrap();
        }
    }
    settlement.finish().await.unwrap();
}
