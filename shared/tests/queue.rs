//! The queue against a real Redis: what one side puts in, the other side gets out.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on shall fail where it stands"
)]

mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use shared::frame::{Envelope, Reply, encode_item, pack_replies, unpack_jobs, unpack_replies};
use shared::id::{ApiId, ContractAddress, JobId, WorkerId};
use shared::job::{Argument, ContractSpec, Engine, Execute, Job, Limits, Load};
use shared::lifecycle::Lifecycle;
use shared::queue::contracts::{Claim, Orphan, Route};
use shared::queue::inbox::{Outgoing, Refusal, Refusals};
use shared::queue::leases::WorkerInfo;
use shared::queue::reaper::ReaperConfig;
use shared::queue::{Queue, blobs, inbox, placement, reaper, replies};
use shared::reply::{FailureCode, Output};
use support::Redis;
use tokio::sync::mpsc;

const LONG: Duration = Duration::from_secs(10);

fn address(text: &str) -> ContractAddress {
    text.parse().unwrap()
}

fn spec(digest: &str) -> ContractSpec {
    ContractSpec {
        engine: Engine::Javascript,
        digest: digest.to_owned(),
        limits: Limits::default(),
        idempotent: false,
    }
}

fn info() -> WorkerInfo {
    WorkerInfo {
        engines: vec![Engine::Javascript],
        capacity: 2,
        used: 0,
        draining: false,
        version: "1".to_owned(),
    }
}

fn call(id: u64, deadline: u64) -> Envelope {
    let execute = Execute {
        address: address("abcd"),
        method: format!("m{id}"),
        argument: Argument::None,
    };
    Envelope {
        id: JobId(id),
        deadline,
        attempt: 1,
        trace: None,
        job: Job::Execute(execute),
    }
}

async fn worker(queue: &Queue) -> WorkerId {
    let worker = WorkerId::random();
    assert!(queue.register_worker(worker).await.unwrap());
    queue.report_worker(worker, &info()).await.unwrap();
    worker
}

/// Collects what a writer reports.
#[derive(Clone, Default)]
struct News(Arc<Mutex<Vec<Refused>>>);

/// Jobs, and why they were refused.
type Refused = (Vec<JobId>, Refusal);

impl Refusals for News {
    fn refused(&self, jobs: Vec<JobId>, refusal: Refusal) {
        self.0.lock().unwrap().push((jobs, refusal));
    }

    fn depth(&self, _entries: u64) {}
}

/// Sends the calls `1..=count` and waits until the writer is done.
async fn send(queue: &Queue, api: ApiId, worker: WorkerId, count: u64) -> News {
    let news = News::default();
    let (jobs, writing) = inbox::writer(queue.clone(), api, worker, news.clone());
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
    news
}

/// Reads the jobs of an inbox until `count` have come; gives them and their entries.
async fn read(reader: &mut inbox::Reader, count: usize) -> (Vec<u64>, Vec<String>) {
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

#[tokio::test]
async fn jobs_arrive_in_order_and_are_packed() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    let worker = worker(&queue).await;
    let news = send(&queue, ApiId::random(), worker, 1000).await;
    let (jobs, entries) = read(&mut inbox::Reader::new(queue.clone(), worker), 1000).await;
    assert_eq!(jobs, (1..=1000).collect::<Vec<_>>());
    assert!(
        entries.len() < 500,
        "{} frames for 1000 jobs",
        entries.len()
    );
    assert!(news.0.lock().unwrap().is_empty());
}

#[tokio::test]
async fn an_inbox_that_is_not_there_refuses() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    let news = send(&queue, ApiId::random(), WorkerId::random(), 3).await;
    let refused = news.0.lock().unwrap().clone();
    let jobs: Vec<u64> = refused
        .iter()
        .flat_map(|(jobs, _)| jobs)
        .map(|job| job.0)
        .collect();
    assert_eq!(jobs, [1, 2, 3]);
    assert!(
        refused
            .iter()
            .all(|(_, refusal)| *refusal == Refusal::NoInbox)
    );
    assert_eq!(redis.keys().await, Vec::<String>::new());
}

#[tokio::test]
async fn a_new_connection_brings_what_the_old_one_lost() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    let worker = worker(&queue).await;
    send(&queue, ApiId::random(), worker, 2).await;
    // Delivered, but never handed on, as on a connection that breaks.
    let (lost, _) = read(&mut inbox::Reader::new(queue.clone(), worker), 2).await;
    send(&queue, ApiId::random(), worker, 3).await;
    let mut reader = inbox::Reader::new(queue.clone(), worker);
    let (jobs, _) = read(&mut reader, 5).await;
    assert_eq!(jobs, [lost, vec![1, 2, 3]].concat());
}

#[tokio::test]
async fn an_inbox_closes_only_when_all_is_settled() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    let worker = worker(&queue).await;
    send(&queue, ApiId::random(), worker, 1).await;
    assert!(!queue.close_inbox(worker).await.unwrap(), "unread");
    let (_, entries) = read(&mut inbox::Reader::new(queue.clone(), worker), 1).await;
    assert!(!queue.close_inbox(worker).await.unwrap(), "unsettled");
    queue.settle(worker, &[], &entries).await.unwrap();
    assert!(queue.close_inbox(worker).await.unwrap());
    let news = send(&queue, ApiId::random(), worker, 1).await;
    assert_eq!(news.0.lock().unwrap()[0].1, Refusal::NoInbox);
}

#[tokio::test]
async fn replies_reach_their_api_and_are_trimmed() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    let (api, gone, worker) = (ApiId::random(), ApiId::random(), WorkerId::random());
    queue.api_heartbeat(api).await.unwrap();
    let reply = |id| {
        let outcome = Ok(Output::Done);
        let reply = Reply {
            id: JobId(id),
            generation: None,
            ran_us: None,
            outcome,
        };
        pack_replies(worker, [encode_item(&reply)])
    };
    let frames = [(api, reply(1)), (gone, reply(2)), (api, reply(3))];
    queue.settle(worker, &frames, &[]).await.unwrap();

    let mut reader = replies::Reader::new(queue.clone(), api);
    let mut ids = Vec::new();
    while ids.len() < 2 {
        for frame in reader.read().await {
            ids.extend(
                unpack_replies(&frame)
                    .unwrap()
                    .replies
                    .iter()
                    .map(|reply| reply.id.0),
            );
        }
    }
    assert_eq!(ids, [1, 3]);
    queue.trim_replies(api, reader.last()).await.unwrap();
    queue.remove_api(api).await.unwrap();
    assert_eq!(
        redis.keys().await,
        Vec::<String>::new(),
        "nothing for the api that is gone"
    );
}

#[tokio::test]
async fn a_contract_has_one_owner() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    let (one, other) = (worker(&queue).await, worker(&queue).await);
    let contract = address("abcd");
    assert_eq!(queue.route(&contract).await.unwrap(), Route::NotLoaded);

    assert_eq!(
        queue.claim(&contract, one, None, &spec("1")).await.unwrap(),
        Claim::Granted(1)
    );
    let refused = queue
        .claim(&contract, other, None, &spec("2"))
        .await
        .unwrap();
    assert_eq!(refused, Claim::OwnedBy(one));
    assert_eq!(
        queue.raise_generation(&contract, one).await.unwrap(),
        Some(2)
    );
    assert_eq!(
        queue.raise_generation(&contract, other).await.unwrap(),
        None
    );
    let Route::Hosted(host, record) = queue.route(&contract).await.unwrap() else {
        panic!()
    };
    assert_eq!((host, record.spec, record.generation), (one, spec("1"), 2));

    // Dead, and known to be: another worker may take over.
    queue.remove_worker(one).await.unwrap();
    assert!(matches!(
        queue.route(&contract).await.unwrap(),
        Route::Unplaced(_)
    ));
    let taken = queue
        .claim(&contract, other, Some(one), &spec("1"))
        .await
        .unwrap();
    assert_eq!(taken, Claim::Granted(3));

    assert!(
        !queue.forget(&contract, Some(one)).await.unwrap(),
        "not the owner any more"
    );
    assert!(queue.forget(&contract, Some(other)).await.unwrap());
    assert_eq!(queue.route(&contract).await.unwrap(), Route::NotLoaded);
}

/// However long the whole farm was away, whoever comes finds what dead workers hosted.
#[tokio::test]
async fn what_a_worker_hosts_does_not_expire() {
    const EXPIRE_EVERYTHING: &str = "
        for _, key in ipairs(redis.call('KEYS', '*')) do
            if redis.call('PTTL', key) >= 0 then redis.call('DEL', key) end
        end";
    let redis = Redis::start();
    let queue = redis.queue().await;
    let worker = worker(&queue).await;
    let contract = address("abcd");
    queue
        .claim(&contract, worker, None, &spec("1"))
        .await
        .unwrap();
    assert!(queue.renew_lease(worker).await.unwrap());
    redis.command(&["EVAL", EXPIRE_EVERYTHING, "0"]).await;
    assert!(!queue.is_alive(worker).await.unwrap());
    assert_eq!(queue.hosted_by(worker).await.unwrap(), [contract]);
}

#[tokio::test]
async fn a_disowned_contract_stays_loaded() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    let worker = worker(&queue).await;
    let contract = address("abcd");
    queue
        .claim(&contract, worker, None, &spec("1"))
        .await
        .unwrap();
    assert_eq!(
        queue.hosted_by(worker).await.unwrap(),
        std::slice::from_ref(&contract)
    );
    assert!(queue.disown(&contract, worker).await.unwrap());
    assert_eq!(queue.hosted_by(worker).await.unwrap(), []);
    let Route::Unplaced(record) = queue.route(&contract).await.unwrap() else {
        panic!()
    };
    assert_eq!((record.owner, record.generation), (None, 1));
    assert_eq!(queue.loaded().await.unwrap(), [contract]);
}

#[tokio::test]
async fn a_blob_lives_as_long_as_a_contract_refers_to_it() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    let (content, one, other) = (b"{ a() {} }".as_slice(), address("one"), address("other"));
    let digest = blobs::digest(content);
    assert!(!queue.keep_blob(&digest, &one).await.unwrap(), "not there");
    queue.stage_blob(&digest, content, LONG).await.unwrap();
    assert!(queue.keep_blob(&digest, &one).await.unwrap());
    queue
        .stage_blob(&digest, content, Duration::from_secs(1))
        .await
        .unwrap();
    assert!(queue.keep_blob(&digest, &other).await.unwrap());
    assert!(
        !queue.release_blob(&digest, &one).await.unwrap(),
        "the other needs it"
    );
    assert_eq!(
        queue.fetch_blob(&digest).await.unwrap().as_deref(),
        Some(content)
    );
    assert!(queue.release_blob(&digest, &other).await.unwrap());
    assert_eq!(queue.fetch_blob(&digest).await.unwrap(), None);
    assert_eq!(redis.keys().await, Vec::<String>::new());
}

#[tokio::test]
async fn a_stored_argument_expires() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    let deadline = queue.clock().after(LONG);
    let name = queue
        .store_body(ApiId::random(), JobId(1), b"[1]", deadline)
        .await
        .unwrap();
    assert_eq!(
        queue.fetch_body(&name).await.unwrap().as_deref(),
        Some("[1]")
    );
    queue.remove_body(&name).await.unwrap();
    assert_eq!(queue.fetch_body(&name).await.unwrap(), None);
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
                placement::Reader::new(queue.clone(), Engine::Javascript, WorkerId::random());
            tokio::spawn(async move {
                loop {
                    if let Some(load) = reader.read().await {
                        queue.placed(Engine::Javascript, &load.entry).await.unwrap();
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
        };
        let deadline = queue.clock().after(LONG);
        let job = Job::Load(load);
        let envelope = Envelope {
            id: JobId(id),
            deadline,
            attempt: 1,
            trace: None,
            job,
        };
        queue
            .place(Engine::Javascript, Some(ApiId::random()), &envelope)
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
    queue.bury("in", b"secret", "undecodable").await.unwrap();
    assert_eq!(redis.keys().await, ["test:dead-letters"]);
}

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
    redis.command(&["DEL", &queue.keys().lease(dead)]).await;
    let workers = queue.keys().workers();
    redis
        .command(&["ZADD", &workers, "1", &dead.to_string()])
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
