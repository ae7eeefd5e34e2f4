//! Tests of the queue against a real Redis: what one side sends, the other side receives.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

mod access;
mod blobs;
mod contracts;
mod deaths;
mod delivery;
mod epochs;
mod executables;
mod failover;
mod keys;
mod logs;
mod memory;
mod ownership;
mod registry;
mod tenants;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use redis_servers::{Kind, Redis};
use shared::protocol::frame::{
    Envelope, Reply, encode_item, pack_replies, unpack_jobs, unpack_replies,
};
use shared::protocol::id::{ApiId, ContractAddress, JobId, WorkerId};
use shared::protocol::job::{Argument, ContractSpec, EngineKind, Execute, Job, Limits, Load};
use shared::protocol::reply::{FailureCode, Output};
use shared::queue::inbox::{InboxObserver, Outgoing, Undelivered};
use shared::queue::leases::WorkerInfo;
use shared::queue::ownership::{LoadId, Outcome, Sandbox, Standing};
use shared::queue::references::Reference;
use shared::queue::{EntryRef, Queue, inbox, placement, replies};
use shared::service::lifecycle::Lifecycle;
use tokio::sync::mpsc;

const LONG: Duration = Duration::from_secs(10);

fn address(text: &str) -> ContractAddress {
    text.parse().unwrap()
}

fn spec(digest: &str) -> ContractSpec {
    ContractSpec {
        engine: EngineKind::Javascript,
        digest: digest.to_owned(),
        limits: Limits::default(),
        idempotent: false,
        replicas: 1,
        keep_logs: false,
    }
}

fn info() -> WorkerInfo {
    WorkerInfo {
        engines: vec![EngineKind::Javascript],
        capacity: 2,
        used: 0,
        draining: false,
        version: "1".to_owned(),
        highest_limits: Vec::new(),
    }
}

fn call(id: u64, deadline: u64) -> Envelope {
    let execute = Execute {
        address: address("abcd"),
        method: format!("m{id}"),
        argument: Argument::None,
        schemas: None,
        logs: None,
    };
    Envelope {
        id: JobId(id),
        deadline,
        attempt: 1,
        trace: None,
        request: None,
        job: Job::Execute(execute),
    }
}

async fn worker(queue: &Queue) -> WorkerId {
    let worker = WorkerId::random();
    assert!(queue.register_worker(worker).await.unwrap());
    queue.report_worker(worker, &info()).await.unwrap();
    worker
}

/// The next id of a worker, registered.
async fn next_id(queue: &Queue, worker: WorkerId) -> WorkerId {
    let next = worker.next_epoch();
    assert!(queue.register_worker(next).await.unwrap());
    next
}

/// Makes `worker` the owner of a contract and loads it. Returns its generation.
async fn load(
    queue: &Queue,
    contract: &ContractAddress,
    worker: WorkerId,
    spec: &ContractSpec,
) -> u64 {
    let expected = queue.ownership(contract).await.unwrap().standing;
    let claimed = queue.claim(contract, expected, worker, Some(spec)).await;
    let generation = claimed.unwrap().done().expect("the claim is granted");
    let standing = Standing::of(worker, generation);
    let id = LoadId::new(generation);
    let recorded = queue
        .record_load(contract, standing, (&id, spec), &Sandbox::default())
        .await;
    assert_eq!(recorded.unwrap(), Outcome::Done(generation));
    generation
}

/// Collects the events of a writer.
#[derive(Clone, Default)]
struct Events(Arc<Mutex<Vec<Failed>>>);

/// Jobs, and why they were not delivered.
type Failed = (Vec<JobId>, Undelivered);

impl InboxObserver for Events {
    fn undelivered(&self, jobs: Vec<JobId>, reason: Undelivered) {
        self.0.lock().unwrap().push((jobs, reason));
    }

    fn depth(&self, _entries: u64) {}
}

/// Sends the calls `1..=count` and waits until the writer has finished.
async fn send(queue: &Queue, api: ApiId, worker: WorkerId, count: u64) -> Events {
    let events = Events::default();
    let (jobs, writing) = inbox::writer(queue.clone(), api, worker, events.clone());
    let deadline = queue.clock().after(LONG);
    let feeding = async {
        for id in 1..=count {
            let item = encode_item(&call(id, deadline));
            jobs.send(Outgoing {
                id: JobId(id),
                item,
            })
            .await
            .unwrap();
        }
        drop(jobs);
    };
    tokio::join!(writing, feeding);
    events
}

/// Reads an inbox until `count` jobs have arrived. Returns the jobs and their entries.
async fn read(reader: &mut inbox::Reader, count: usize) -> (Vec<u64>, Vec<EntryRef>) {
    let (mut jobs, mut entries) = (Vec::new(), Vec::new());
    while jobs.len() < count {
        for received in reader.read().await {
            let frame = unpack_jobs(&received.frame).unwrap();
            jobs.extend(frame.jobs.iter().map(|job| job.id.0));
            entries.push(received.entry);
        }
    }
    (jobs, entries)
}

/// A frame with one reply.
fn reply_frame(worker: WorkerId, id: u64) -> Vec<u8> {
    let reply = Reply {
        id: JobId(id),
        generation: None,
        ran_us: None,
        cpu_us: None,
        outcome: Ok(Output::Done),
    };
    pack_replies(worker, [encode_item(&reply)])
}

/// Reads a reply stream until `count` replies have arrived.
async fn read_replies(reader: &mut replies::Reader, count: usize) -> Vec<u64> {
    let mut ids = Vec::new();
    while ids.len() < count {
        for frame in reader.read().await {
            let replies = unpack_replies(&frame).unwrap().replies;
            ids.extend(replies.iter().map(|reply| reply.id.0));
        }
    }
    ids
}

#[tokio::test]
async fn jobs_arrive_in_order_and_are_packed() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    let worker = worker(&queue).await;
    let events = send(&queue, ApiId::random(), worker, 1000).await;
    let (jobs, entries) = read(&mut inbox::Reader::new(queue.clone(), worker), 1000).await;
    assert_eq!(jobs, (1..=1000).collect::<Vec<_>>());
    assert!(
        entries.len() < 500,
        "{} frames for 1000 jobs",
        entries.len()
    );
    assert!(events.0.lock().unwrap().is_empty());
}

#[tokio::test]
async fn jobs_for_a_missing_inbox_are_undelivered() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    let events = send(&queue, ApiId::random(), WorkerId::random(), 3).await;
    let refused = events.0.lock().unwrap().clone();
    let jobs: Vec<u64> = refused
        .iter()
        .flat_map(|(jobs, _)| jobs)
        .map(|job| job.0)
        .collect();
    assert_eq!(jobs, [1, 2, 3]);
    assert!(
        refused
            .iter()
            .all(|(_, refusal)| *refusal == Undelivered::NoInbox)
    );
    assert_eq!(redis.keys().await, Vec::<String>::new());
}

#[tokio::test]
async fn a_new_connection_reads_entries_lost_by_the_old_one() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    let worker = worker(&queue).await;
    send(&queue, ApiId::random(), worker, 2).await;
    // Delivered but never returned by the reader, as after a broken connection.
    let (lost, _) = read(&mut inbox::Reader::new(queue.clone(), worker), 2).await;
    send(&queue, ApiId::random(), worker, 3).await;
    let mut reader = inbox::Reader::new(queue.clone(), worker);
    let (jobs, _) = read(&mut reader, 5).await;
    assert_eq!(jobs, [lost, vec![1, 2, 3]].concat());
}

/// The number of entries that are rightly pending does not matter.
#[tokio::test]
async fn a_new_connection_finds_a_lost_entry_after_many_pending_ones() {
    const SLOW: usize = 200;
    let redis = Redis::start();
    let queue = redis.queue().await;
    let worker = worker(&queue).await;
    for _ in 0..SLOW {
        send(&queue, ApiId::random(), worker, 1).await;
    }
    let mut reader = inbox::Reader::new(queue.clone(), worker);
    let (_, _in_hand) = read(&mut reader, SLOW).await;
    send(&queue, ApiId::random(), worker, 1).await;
    let inbox = queue.keys().inbox(worker);
    let lost = ["XREADGROUP", "GROUP", "g", "c", "STREAMS", &inbox, ">"];
    redis.command::<redis::Value>(&lost).await;
    redis
        .command::<()>(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"])
        .await;
    let reading = tokio::time::timeout(LONG, read(&mut reader, 1));
    let (jobs, _) = reading.await.expect("the lost entry is read");
    assert_eq!(jobs, [1]);
}

/// The attempt that got no answer may have reached an inbox that is gone by now.
#[tokio::test]
async fn a_frame_that_may_have_arrived_has_an_unknown_outcome() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    redis.signal("STOP");
    let sending = tokio::spawn({
        let queue = queue.clone();
        async move { send(&queue, ApiId::random(), WorkerId::random(), 1).await }
    });
    // Longer than a command may take.
    tokio::time::sleep(Duration::from_secs(3)).await;
    redis.signal("CONT");
    let events = sending.await.unwrap();
    let refused = events.0.lock().unwrap().clone();
    assert_eq!(refused, [(vec![JobId(1)], Undelivered::Unknown)]);
}

#[tokio::test]
async fn an_inbox_closes_only_when_it_is_empty() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    let worker = worker(&queue).await;
    send(&queue, ApiId::random(), worker, 1).await;
    assert!(!queue.close_inbox(worker).await.unwrap(), "unread");
    let (_, entries) = read(&mut inbox::Reader::new(queue.clone(), worker), 1).await;
    assert!(!queue.close_inbox(worker).await.unwrap(), "unacknowledged");
    queue.settle(worker, &[], &entries).await.unwrap();
    assert!(queue.close_inbox(worker).await.unwrap());
    let events = send(&queue, ApiId::random(), worker, 1).await;
    assert_eq!(events.0.lock().unwrap()[0].1, Undelivered::NoInbox);
}

#[tokio::test]
async fn replies_reach_their_api_and_are_trimmed() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    let (api, gone, worker) = (ApiId::random(), ApiId::random(), WorkerId::random());
    queue.api_heartbeat(api).await.unwrap();
    let reply = |id| reply_frame(worker, id);
    let frames = [(api, reply(1)), (gone, reply(2)), (api, reply(3))];
    queue.settle(worker, &frames, &[]).await.unwrap();

    let mut reader = replies::Reader::new(queue.clone(), api);
    assert_eq!(read_replies(&mut reader, 2).await, [1, 3]);
    queue.trim_replies(api, reader.last()).await.unwrap();
    queue.remove_api(api).await.unwrap();
    assert_eq!(
        redis.keys().await,
        Vec::<String>::new(),
        "nothing is stored for the missing api"
    );
}

#[tokio::test]
async fn a_load_is_taken_by_one_worker_and_loads_spread() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    let (taken, mut loads) = mpsc::channel(16);
    let readers: Vec<_> = (0..2)
        .map(|number| {
            let (queue, taken) = (queue.clone(), taken.clone());
            let mut reader =
                placement::Reader::new(queue.clone(), EngineKind::Javascript, WorkerId::random());
            tokio::spawn(async move {
                loop {
                    if let Some(load) = reader.read().await {
                        queue
                            .settle_load(EngineKind::Javascript, &load.entry)
                            .await
                            .unwrap();
                        let frame = unpack_jobs(&load.frame).unwrap();
                        if taken.send((number, frame.jobs[0].id.0)).await.is_err() {
                            return;
                        }
                    }
                }
            })
        })
        .collect();

    let mut by_reader = [0, 0];
    for id in 0..20 {
        let load = Load {
            address: address("abcd"),
            spec: spec("1"),
            seen: None,
        };
        let deadline = queue.clock().after(LONG);
        let job = Job::Load(load);
        let envelope = Envelope {
            id: JobId(id),
            deadline,
            attempt: 1,
            trace: None,
            request: None,
            job,
        };
        queue
            .place(EngineKind::Javascript, Some(ApiId::random()), &envelope)
            .await
            .unwrap();
        let (reader, taken) = loads.recv().await.unwrap();
        assert_eq!(taken, id);
        by_reader[reader] += 1;
    }
    assert!(by_reader.iter().all(|count| *count > 2), "{by_reader:?}");
    readers.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn a_worker_is_listed_while_it_lives() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    let worker = worker(&queue).await;
    assert_eq!(queue.workers().await.unwrap(), [(worker, info())]);
    assert!(queue.is_alive(worker).await.unwrap());
    queue.remove_worker(worker).await.unwrap();
    assert_eq!(queue.workers().await.unwrap(), []);
    assert!(!queue.is_alive(worker).await.unwrap());
    assert_eq!(redis.keys().await, Vec::<String>::new());
}

#[tokio::test]
async fn an_unreadable_frame_is_recorded_without_its_payload() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    queue
        .record_unreadable("in", b"secret", "undecodable")
        .await
        .unwrap();
    assert_eq!(redis.keys().await, ["test:dead-letters"]);
}

#[tokio::test]
async fn a_farm_keeps_its_name_when_the_data_is_lost() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    let farm = queue.farm(None).await.unwrap();
    assert_eq!(queue.farm(None).await.unwrap(), farm);
    redis.command::<()>(&["FLUSHALL"]).await;
    let after = queue.farm(Some(&farm)).await.unwrap();
    assert_eq!(after.name, farm.name);
    assert_ne!(after.data, farm.data);
    assert_eq!(queue.farm(None).await.unwrap(), after);
}
