//! Redis that fails over, and a cluster that moves its data.

use std::time::Instant;

use shared::queue::leases::Renewal;

use super::redis::Server;
use super::*;

/// From the death of a primary until its replica serves: to notice takes 2 s in the tests, and the
/// vote some more.
const FAILOVER: Duration = Duration::from_secs(30);

/// Waits until the replica of every primary has what was written.
async fn replicated(redis: &Redis) {
    redis.command::<u64>(&["WAIT", "1", "20000"]).await;
}

async fn becomes_held(queue: &Queue, worker: WorkerId) {
    let start = Instant::now();
    while !matches!(queue.renew_lease(worker).await, Ok(Renewal::Held)) {
        assert!(start.elapsed() < FAILOVER);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Row F35: what was acknowledged and replicated is there, and the same connections serve again.
#[tokio::test]
async fn sentinels_lead_to_the_new_primary() {
    let mut redis = Redis::of_kind("sentinel");
    let queue = redis.queue().await;
    let (worker, api) = (worker(&queue).await, ApiId::random());
    queue.api_heartbeat(api).await.unwrap();
    let mut reader = inbox::Reader::new(queue.clone(), worker);
    assert!(reader.read().await.is_empty());
    redis.sentinels_know_each_other().await;
    replicated(&redis).await;
    redis.servers()[0].kill();
    becomes_held(&queue, worker).await;
    send(&queue, api, worker, 10).await;
    let (jobs, entries) = read(&mut reader, 10).await;
    assert_eq!(jobs.len(), 10);
    let replies = [(api, reply_frame(worker, 1))];
    queue.settle(worker, &replies, &entries).await.unwrap();
    assert!(queue.workers().await.is_ok(), "the pool, too");
}

/// Row F34: the death of a primary delays what is on it, and nothing else.
#[tokio::test]
async fn the_death_of_a_primary_disturbs_its_own_keys_only() {
    let mut redis = Redis::of_kind("cluster");
    let queue = redis.queue().await;
    let mut on = [const { Vec::new() }; 3];
    while on.iter().any(Vec::is_empty) {
        let worker = WorkerId::random();
        let server = redis.server_of(&queue.keys().lease(worker)).await;
        if on[server].is_empty() {
            assert!(queue.register_worker(worker).await.unwrap());
            on[server].push(worker);
        }
    }
    replicated(&redis).await;
    redis.servers()[0].kill();
    let dead = tokio::spawn({
        let (queue, worker) = (queue.clone(), on[0][0]);
        async move { becomes_held(&queue, worker).await }
    });
    while !dead.is_finished() {
        for worker in [on[1][0], on[2][0]] {
            let asked = Instant::now();
            assert_eq!(queue.renew_lease(worker).await.unwrap(), Renewal::Held);
            assert!(
                asked.elapsed() < Duration::from_millis(400),
                "{:?}",
                asked.elapsed()
            );
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    dead.await.unwrap();
}

/// Row F36: the slots of inbox and replies go from node to node while jobs are sent and answered.
#[tokio::test]
async fn slots_that_move_lose_nothing() {
    const JOBS: u64 = 2_000;
    let mut redis = Redis::of_kind("cluster");
    let queue = redis.queue().await;
    let (worker, api) = (worker(&queue).await, ApiId::random());
    queue.api_heartbeat(api).await.unwrap();
    let serving = tokio::spawn(serve(queue.clone(), worker, JOBS));
    let sending = tokio::spawn({
        let queue = queue.clone();
        async move {
            let mut failed = Vec::new();
            for _ in 0..JOBS / 20 {
                failed.extend(
                    send(&queue, api, worker, 20)
                        .await
                        .0
                        .lock()
                        .unwrap()
                        .drain(..),
                );
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            failed
        }
    });
    let mut reader = replies::Reader::new(queue.clone(), api);
    let replied = tokio::spawn(async move {
        let all = read_replies(&mut reader, usize::try_from(JOBS).unwrap());
        tokio::time::timeout(3 * LONG, all)
            .await
            .expect("all are answered")
    });
    for key in [queue.keys().inbox(worker), queue.keys().replies(api)]
        .iter()
        .cycle()
        .take(6)
    {
        let from = redis.server_of(key).await;
        move_slot(redis.servers(), key, from, (from + 1) % 3).await;
        assert_eq!(queue.renew_lease(worker).await.unwrap(), Renewal::Held);
    }
    assert_eq!(sending.await.unwrap(), []);
    serving.await.unwrap();
    assert_eq!(replied.await.unwrap().len(), usize::try_from(JOBS).unwrap());
}

/// Answers `count` jobs.
async fn serve(queue: Queue, worker: WorkerId, count: u64) {
    let mut reader = inbox::Reader::new(queue.clone(), worker);
    let mut settlement = replies::Settlement::new(queue);
    let mut served = 0;
    while served < count {
        for received in reader.read().await {
            let frame = unpack_jobs(&received.frame).unwrap();
            let api = frame.api.unwrap();
            let replies = frame
                .jobs
                .iter()
                .map(|job| (api, reply_frame(worker, job.id.0)));
            let replies: Vec<_> = replies.collect();
            let entries = [received.entry];
            while settlement.settle(worker, &replies, &entries).await.is_err() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            served += u64::try_from(replies.len()).unwrap();
        }
    }
    settlement.acknowledge().await.unwrap();
}

/// As `redis-cli --cluster reshard` does it, for the slot of one key.
async fn move_slot(servers: &[Server], key: &str, from: usize, to: usize) {
    let slot = ask::<u16>(&servers[from], &["CLUSTER", "KEYSLOT", key])
        .await
        .to_string();
    let mut ids = Vec::new();
    for server in [&servers[from], &servers[to]] {
        ids.push(ask::<String>(server, &["CLUSTER", "MYID"]).await);
    }
    let set = ["CLUSTER", "SETSLOT", &slot];
    ask::<()>(&servers[to], &[&set[..], &["IMPORTING", &ids[0]]].concat()).await;
    ask::<()>(
        &servers[from],
        &[&set[..], &["MIGRATING", &ids[1]]].concat(),
    )
    .await;
    let port = servers[to].port.to_string();
    loop {
        let keys = ["CLUSTER", "GETKEYSINSLOT", &slot, "1"];
        let Some(key) = ask::<Vec<String>>(&servers[from], &keys).await.pop() else {
            break;
        };
        let migrate = ["MIGRATE", "127.0.0.1", &port, &key, "0", "5000"];
        ask::<()>(&servers[from], &migrate).await;
        // Clients meet a slot of which one half has gone.
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    for server in [to, from, 3 - from - to] {
        ask::<()>(&servers[server], &[&set[..], &["NODE", &ids[1]]].concat()).await;
    }
}

async fn ask<T: ::redis::FromRedisValue>(server: &Server, parts: &[&str]) -> T {
    let command = ::redis::cmd(parts[0]).arg(&parts[1..]).to_owned();
    let mut connection = server.connection().await;
    command
        .query_async(&mut connection)
        .await
        .unwrap_or_else(|error| panic!("{parts:?}: {error}"))
}
