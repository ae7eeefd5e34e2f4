//! Entries that Redis delivered to a connection that was dead already, and streams that begin
//! again.

use std::time::Duration;

use redis::Value;
use shared::protocol::frame::Envelope;
use shared::protocol::id::{ApiId, JobId, WorkerId};
use shared::protocol::job::{EngineKind, Job, Load};
use shared::queue::blobs::digest;
use shared::queue::{CatchUpRequest, Queue, inbox, placement, replies};

use super::redis::Redis;
use super::{LONG, address, read, read_replies, reply_frame, send, spec, worker};

async fn drop_connections(redis: &Redis) {
    redis
        .command::<Value>(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"])
        .await;
}

/// Delivers the next entry of an inbox to nobody, as Redis does while it does not know yet that a
/// connection is dead.
async fn deliver_to_nobody(redis: &Redis, queue: &Queue, worker: WorkerId) {
    let inbox = queue.keys().inbox(worker);
    let read = ["XREADGROUP", "GROUP", "g", "c", "COUNT", "1"];
    let delivered: Value = redis
        .command(&[&read[..], &["STREAMS", &inbox, ">"]].concat())
        .await;
    assert_ne!(delivered, Value::Nil);
}

/// Row 7: the lost entry is older than one that has arrived since.
#[tokio::test]
async fn an_entry_lost_between_two_that_arrived_is_read() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    let worker = worker(&queue).await;
    let mut reader = inbox::Reader::new(queue.clone(), worker);
    send(&queue, ApiId::random(), worker, 1).await;
    let (_, mut in_hand) = read(&mut reader, 1).await;
    drop_connections(&redis).await;
    assert!(reader.read().await.is_empty(), "the connection is gone");
    assert!(reader.read().await.is_empty(), "connected again");
    // The old connection still waits in Redis, so the next entry goes there.
    send(&queue, ApiId::random(), worker, 1).await;
    deliver_to_nobody(&redis, &queue, worker).await;
    send(&queue, ApiId::random(), worker, 2).await;
    let reading = tokio::time::timeout(LONG, read(&mut reader, 3));
    let (_, entries) = reading.await.expect("all are read");
    in_hand.extend(entries);
    let pending = inbox_pending(&redis, &queue, worker).await;
    assert_eq!(pending, in_hand.len(), "an entry is left over");
}

async fn inbox_pending(redis: &Redis, queue: &Queue, worker: WorkerId) -> usize {
    let inbox = queue.keys().inbox(worker);
    let pending: Vec<(String, String, u64, u64)> = redis
        .command(&["XPENDING", &inbox, "g", "-", "+", "1000"])
        .await;
    pending.len()
}

#[tokio::test]
async fn a_request_finds_a_lost_entry_on_a_healthy_connection() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    let worker = worker(&queue).await;
    let requests = CatchUpRequest::default();
    let mut reader = inbox::Reader::new(queue.clone(), worker).answering(requests.clone());
    assert!(reader.read().await.is_empty());
    send(&queue, ApiId::random(), worker, 1).await;
    deliver_to_nobody(&redis, &queue, worker).await;
    requests.send();
    let (jobs, _) = read(&mut reader, 1).await;
    assert_eq!(jobs, [1]);
}

/// Redis may lose the acknowledgement in a failover. Then the entry is pending for ever, unless the
/// worker is told.
#[tokio::test]
async fn a_settled_entry_that_is_pending_again_is_returned_as_such() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    let worker = worker(&queue).await;
    let mut reader = inbox::Reader::new(queue.clone(), worker);
    send(&queue, ApiId::random(), worker, 2).await;
    let (_, mut entries) = read(&mut reader, 2).await;
    // Settled by dropping the entries, while Redis still has them.
    let count = entries.len();
    let held = entries.pop();
    drop(entries);
    reader.catch_up_requests().send();
    let mut returned = 0;
    while returned < count - usize::from(held.is_some()) {
        let received = reader.read().await;
        assert!(received.iter().all(|entry| entry.returned_before));
        returned += received.len();
    }
}

#[tokio::test]
async fn an_entry_that_was_deleted_while_it_was_pending_does_not_stay_pending() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    let worker = worker(&queue).await;
    send(&queue, ApiId::random(), worker, 1).await;
    let mut reader = inbox::Reader::new(queue.clone(), worker);
    let (_, entries) = read(&mut reader, 1).await;
    let inbox = queue.keys().inbox(worker);
    redis
        .command::<u64>(&["XDEL", &inbox, entries[0].id()])
        .await;
    reader.catch_up_requests().send();
    assert!(reader.read().await.is_empty());
    assert_eq!(inbox_pending(&redis, &queue, worker).await, 0);
}

async fn place(queue: &Queue, id: u64) {
    let load = Load {
        address: address("abcd"),
        spec: spec("1"),
        seen: None,
    };
    let envelope = Envelope {
        id: JobId(id),
        deadline: queue.clock().after(LONG),
        attempt: 1,
        trace: None,
        request: None,
        job: Job::Load(load),
    };
    let placed = queue.place(EngineKind::Javascript, Some(ApiId::random()), &envelope);
    placed.await.unwrap();
}

/// Row 7: the placement reader had no catch-up at all.
#[tokio::test]
async fn a_load_lost_with_a_connection_is_read_again() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    let worker = worker(&queue).await;
    let mut reader = placement::Reader::new(queue.clone(), EngineKind::Javascript, worker);
    assert!(reader.read().await.is_none());
    place(&queue, 1).await;
    let stream = queue.keys().placement(EngineKind::Javascript);
    let name = worker.to_string();
    let read = ["XREADGROUP", "GROUP", "workers", &name];
    let delivered: Value = redis
        .command(&[&read[..], &["STREAMS", &stream, ">"]].concat())
        .await;
    assert_ne!(delivered, Value::Nil);
    drop_connections(&redis).await;
    let reading = async {
        loop {
            if let Some(load) = reader.read().await {
                return load;
            }
        }
    };
    let load = tokio::time::timeout(LONG, reading).await.unwrap();
    assert!(!load.returned_before);
    reader.catch_up_requests().send();
    assert!(reader.read().await.is_none(), "it is in hand");
}

/// Row 16: the clock of Redis may go back while Redis loses its data.
#[tokio::test]
async fn replies_in_a_new_stream_with_lower_ids_are_read() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    let (worker, api) = (WorkerId::random(), ApiId::random());
    let stream = queue.keys().replies(api);
    queue.api_heartbeat(api).await.unwrap();
    let mut reader = replies::Reader::new(queue.clone(), api);
    // An id of the year 2286, as if the clock had been there.
    let future = "9999999999999-1";
    let frame = reply_frame(worker, 1);
    let text = String::from_utf8(frame).unwrap();
    redis
        .command::<String>(&["XADD", &stream, future, "b", &text])
        .await;
    assert_eq!(read_replies(&mut reader, 1).await, [1]);
    redis.command::<()>(&["FLUSHALL"]).await;
    queue.api_heartbeat(api).await.unwrap();
    let frames = [(api, reply_frame(worker, 2))];
    queue.settle(worker, &frames, &[]).await.unwrap();
    let reading = tokio::time::timeout(LONG, read_replies(&mut reader, 1));
    assert_eq!(reading.await.expect("the new stream is read"), [2]);
}

/// The same for an inbox.
#[tokio::test]
async fn jobs_in_a_new_inbox_with_lower_ids_are_read() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    let worker = worker(&queue).await;
    let inbox = queue.keys().inbox(worker);
    let mut reader = inbox::Reader::new(queue.clone(), worker);
    send(&queue, ApiId::random(), worker, 1).await;
    read(&mut reader, 1).await;
    redis
        .command::<()>(&["XSETID", &inbox, "9999999999999-1"])
        .await;
    send(&queue, ApiId::random(), worker, 1).await;
    read(&mut reader, 1).await;
    redis.command::<()>(&["FLUSHALL"]).await;
    assert!(queue.register_worker(worker).await.unwrap());
    send(&queue, ApiId::random(), worker, 1).await;
    let reading = tokio::time::timeout(LONG, read(&mut reader, 1));
    reading.await.expect("the new inbox is read");
}

/// Row 13: a patient command may take longer than the library allows by default, 500 ms.
#[tokio::test]
async fn a_patient_command_outlasts_a_slow_redis() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    let worker = worker(&queue).await;
    redis.signal("STOP");
    let looking = tokio::spawn(async move { queue.owned_by(worker).await });
    // Longer than a command on the way of a call may take.
    tokio::time::sleep(Duration::from_millis(2_300)).await;
    redis.signal("CONT");
    assert_eq!(looking.await.unwrap().unwrap(), []);
}

/// Row 16: no key without an expiry, wherever the connection breaks.
#[tokio::test]
async fn a_key_and_its_expiry_are_one_transaction() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    let (api, content) = (ApiId::random(), vec![b'x'; 600 * 1024]);
    queue.api_heartbeat(api).await.unwrap();
    assert!(redis.expires(&queue.keys().replies(api)).await);
    let digest = digest(&content);
    queue.stage_blob(&digest, &content, LONG).await.unwrap();
    assert!(redis.expires(&queue.keys().blob(&digest)).await);
    // The reply stream, three pieces of the executable, and its name.
    let stats: String = redis.command(&["INFO", "commandstats"]).await;
    assert!(stats.contains("cmdstat_multi:calls=5"), "{stats}");
}
