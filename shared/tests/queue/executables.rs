//! The count of the bytes that executables take, and its limit.

use super::{LONG, Queue};
use redis_servers::Redis;

/// Reserves room for an executable and stores it, as an api does.
async fn store(queue: &Queue, name: &str, bytes: usize, limit: u64) -> bool {
    if !queue.reserve_executable(name, bytes, limit).await.unwrap() {
        return false;
    }
    let content = vec![b'x'; bytes];
    queue.stage_blob(name, &content, LONG).await.unwrap();
    true
}

/// Sweeps although somebody has just done so.
async fn sweep(redis: &Redis, queue: &Queue) {
    redis.command::<()>(&["DEL", "test:lock:sweep"]).await;
    assert!(queue.sweep().await.unwrap());
}

/// As if the last load of an executable was long ago.
async fn age(redis: &Redis, name: &str) {
    let _: i64 = redis.command(&["ZADD", "test:blobs", "1", name]).await;
}

#[tokio::test]
async fn loads_at_the_same_time_do_not_exceed_the_limit() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    let names: Vec<_> = (0..20).map(|n| n.to_string()).collect();
    let stores = names.iter().map(|name| store(&queue, name, 100, 1_000));
    let accepted = futures::future::join_all(stores).await;
    assert_eq!(accepted.iter().filter(|accepted| **accepted).count(), 10);
    assert_eq!(queue.executable_bytes().await.unwrap(), 1_000);
    // What is there already is not counted again.
    let index = accepted.iter().position(|accepted| *accepted).unwrap();
    assert!(store(&queue, &names[index], 100, 1_000).await);
    assert_eq!(queue.executable_bytes().await.unwrap(), 1_000);
}

#[tokio::test]
async fn an_executable_that_is_gone_is_not_counted() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    assert!(store(&queue, "gone", 100, 1_000).await);
    assert!(store(&queue, "kept", 10, 1_000).await);
    // A process that died before it had registered what it reserved.
    assert!(queue.reserve_executable("lost", 50, 1_000).await.unwrap());
    redis.command::<()>(&["DEL", "test:{blob:gone}"]).await;
    age(&redis, "gone").await;
    sweep(&redis, &queue).await;
    assert_eq!(queue.executable_bytes().await.unwrap(), 10);
    // An older version has stored it, or the count was lost.
    redis.command::<()>(&["DEL", "test:executables"]).await;
    sweep(&redis, &queue).await;
    let counted = queue.executable_bytes().await.unwrap();
    assert_eq!(counted, 256 * 1024, "whole pieces");
}

#[tokio::test]
async fn what_nobody_needs_makes_room() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    for name in ["unused", "needed", "recent"] {
        assert!(store(&queue, name, 300, 1_000).await);
    }
    redis
        .command::<()>(&["SADD", "test:{blob:needed}:refs", "a@1-0"])
        .await;
    age(&redis, "unused").await;
    age(&redis, "needed").await;
    assert!(store(&queue, "next", 300, 1_000).await);
    let mut left = Vec::new();
    for name in ["unused", "needed", "recent"] {
        let key = queue.keys().blob(name);
        if redis.command::<bool>(&["EXISTS", &key]).await {
            left.push(name);
        }
    }
    assert_eq!(left, ["needed", "recent"]);
    assert_eq!(queue.executable_bytes().await.unwrap(), 900);
    assert!(!store(&queue, "too much", 300, 1_000).await);
    assert!(!store(&queue, "huge", 1_001, 1_000).await);
}

#[tokio::test]
async fn the_executable_of_a_failed_load_is_discarded_unless_it_is_needed() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    let staged = async |name: &str| {
        assert!(store(&queue, name, 100, 1_000).await);
        let at = queue.executable_loaded_at(name).await.unwrap();
        at.expect("it is registered")
    };
    let (failed, again, needed) = (
        staged("failed").await,
        staged("again").await,
        staged("needed").await,
    );
    let _later = staged("again").await;
    redis
        .command::<()>(&["SADD", "test:{blob:needed}:refs", "a@1-0"])
        .await;
    for (name, at) in [("failed", failed), ("again", again), ("needed", needed)] {
        queue.discard_executable(name, at).await.unwrap();
    }
    assert_eq!(queue.executable_bytes().await.unwrap(), 200);
    assert_eq!(queue.executable_loaded_at("failed").await.unwrap(), None);
}
