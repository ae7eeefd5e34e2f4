//! Redis at maxmemory refuses whatever needs memory.

use std::time::Duration;

use shared::protocol::id::{ApiId, JobId};
use shared::queue::inbox;
use shared::queue::inbox::Undelivered;
use shared::queue::replies;

use super::{read, read_replies, reply_frame, send, worker};
use redis_servers::Redis;

async fn set_limit(redis: &Redis, bytes: &str) {
    redis
        .command::<()>(&["CONFIG", "SET", "maxmemory", bytes])
        .await;
}

/// Row 5: without its reply, an entry is the only proof that its jobs may have run.
#[tokio::test]
async fn a_refused_reply_acknowledges_nothing() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    let (worker, api) = (worker(&queue).await, ApiId::random());
    queue.api_heartbeat(api).await.unwrap();
    send(&queue, api, worker, 1).await;
    let (_, entries) = read(&mut inbox::Reader::new(queue.clone(), worker), 1).await;
    let frames = [(api, reply_frame(worker, 1))];
    set_limit(&redis, "1").await;
    assert!(queue.settle(worker, &frames, &entries).await.is_err());
    assert_eq!(queue.inbox_depth(worker).await.unwrap(), 1);
    set_limit(&redis, "0").await;
    queue.settle(worker, &frames, &entries).await.unwrap();
    assert_eq!(queue.inbox_depth(worker).await.unwrap(), 0);
    let mut reader = replies::Reader::new(queue, api);
    assert_eq!(read_replies(&mut reader, 1).await, [1]);
}

/// Acknowledging alone frees memory, so Redis accepts it.
#[tokio::test]
async fn entries_without_replies_are_acknowledged() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    let worker = worker(&queue).await;
    send(&queue, ApiId::random(), worker, 1).await;
    let (_, entries) = read(&mut inbox::Reader::new(queue.clone(), worker), 1).await;
    set_limit(&redis, "1").await;
    queue.settle(worker, &[], &entries).await.unwrap();
    assert_eq!(queue.inbox_depth(worker).await.unwrap(), 0);
}

/// Row 16: a frame that Redis refused has certainly not arrived.
#[tokio::test]
async fn a_frame_that_was_refused_was_never_started() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    let worker = worker(&queue).await;
    set_limit(&redis, "1").await;
    let sending = tokio::spawn({
        let queue = queue.clone();
        async move { send(&queue, ApiId::random(), worker, 1).await }
    });
    let refused = async {
        let stats = || redis.command::<String>(&["INFO", "errorstats"]);
        while !stats().await.contains("errorstat_OOM") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    refused.await;
    redis
        .command::<()>(&["DEL", &queue.keys().inbox(worker)])
        .await;
    set_limit(&redis, "0").await;
    let events = sending.await.unwrap();
    let undelivered = events.0.lock().unwrap().clone();
    assert_eq!(undelivered, [(vec![JobId(1)], Undelivered::NoInbox)]);
}
