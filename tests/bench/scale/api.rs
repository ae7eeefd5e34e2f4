//! A simulated api: the queue's part of one, and its callers.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::value::RawValue;
use shared::protocol::frame::{Envelope, Item, encode_item, unpack_replies};
use shared::protocol::id::{ApiId, JobId, WorkerId};
use shared::protocol::job::{Argument, Execute, Job};
use shared::queue::inbox::{self, InboxObserver, Outgoing, Undelivered};
use shared::queue::timing::HEARTBEAT;
use shared::queue::{Queue, QueueError, RedisConfig, reaper, replies};
use shared::service::lifecycle::Lifecycle;
use tokio::sync::{Notify, mpsc};

use super::crowd::Calling;
use super::worker::{REAPER, stagger};

/// How often an api removes the replies that it has read.
const TRIM_EVERY: Duration = Duration::from_secs(1);
/// How often an api checks the connections of the workers that it sends to.
const CHECK_EVERY: Duration = Duration::from_millis(200);
/// How often an api checks that Redis answers.
const PROBE_EVERY: Duration = Duration::from_millis(100);
/// How long the calls may take. Far more than they do.
const DEADLINE: Duration = Duration::from_secs(10);
/// The callers that an api has at most.
pub(super) const CALLERS: usize = 64;
/// The bits of a job id that number the calls of one caller. The others name the caller.
const CALL_BITS: u32 = 16;

/// An api. Its tasks run until its [`Lifecycle`] stops.
pub(super) struct Api {
    id: ApiId,
    pub(super) queue: Queue,
    pub(super) life: Lifecycle,
    writers: Mutex<HashMap<WorkerId, mpsc::Sender<Outgoing>>>,
    callers: Vec<Caller>,
    /// Calls that were answered.
    pub(super) answered: AtomicU64,
    /// Calls that did not reach a worker.
    undelivered: AtomicU64,
    /// Whether latencies are recorded.
    pub(super) records: AtomicBool,
    latencies: Mutex<Vec<Duration>>,
}

/// A caller, which waits for all its calls before it makes the next ones.
#[derive(Default)]
struct Caller {
    waits_for: AtomicUsize,
    is_answered: Notify,
}

impl Api {
    /// Connects and registers, as an api's start does.
    pub(super) async fn start(redis: &RedisConfig) -> Result<Arc<Self>, QueueError> {
        let api = Self {
            id: ApiId::random(),
            queue: Queue::connect(redis).await?,
            life: Lifecycle::new(),
            writers: Mutex::default(),
            callers: (0..CALLERS).map(|_| Caller::default()).collect(),
            answered: AtomicU64::new(0),
            undelivered: AtomicU64::new(0),
            records: AtomicBool::new(false),
            latencies: Mutex::default(),
        };
        api.queue.api_heartbeat(api.id).await?;
        let api = Arc::new(api);
        api.life.spawn("replies", read_replies(api.clone()));
        api.life.spawn("heartbeat", beat(api.clone()));
        Ok(api)
    }

    /// Starts everything that an api does beside its calls.
    pub(super) fn maintain(self: &Arc<Self>) {
        let life = &self.life;
        life.spawn("worker connections", check_workers(self.clone()));
        life.spawn("probes", probe(self.clone()));
        let reaping = reaper::run(self.queue.clone(), REAPER, life.clone());
        life.spawn("reaper", reaping);
    }

    /// Starts callers. Each calls a random one of `workers`, until `life` stops.
    pub(super) fn call(
        self: &Arc<Self>,
        workers: &Arc<[WorkerId]>,
        calling: Calling,
        life: &Lifecycle,
    ) {
        for caller in 0..calling.callers {
            let (api, workers, stop) = (self.clone(), workers.clone(), life.clone());
            life.spawn("caller", async move {
                api.call_until(&stop, caller, &workers, calling).await;
            });
        }
    }

    /// Ends when all calls are answered: their numbers are used again.
    async fn call_until(
        self: &Arc<Self>,
        stop: &Lifecycle,
        number: usize,
        workers: &[WorkerId],
        calling: Calling,
    ) {
        let caller = &self.callers[number];
        let calls = calling.in_a_frame;
        let mut first = 0;
        stagger(calling.interval).await;
        while !stop.is_stopping() {
            let worker = workers[rand::random_range(0..workers.len())];
            let deadline = self.queue.clock().after(DEADLINE);
            let ids = (0..calls).map(|call| job_id(number, first + call));
            let start = Instant::now();
            caller.waits_for.store(calls, Ordering::Release);
            let writer = self.writer(worker);
            for id in ids {
                let item = call(id, deadline);
                writer.try_send(Outgoing { id, item }).expect("it has room");
            }
            caller.is_answered.notified().await;
            if self.records.load(Ordering::Relaxed) {
                self.latencies().push(start.elapsed());
            }
            first += calls;
            tokio::time::sleep(calling.interval.saturating_sub(start.elapsed())).await;
        }
    }

    /// The latencies that were recorded, which are then forgotten.
    pub(super) fn take_latencies(&self) -> Vec<Duration> {
        std::mem::take(&mut *self.latencies())
    }

    /// How many calls did not reach a worker.
    pub(super) fn undelivered(&self) -> u64 {
        self.undelivered.load(Ordering::Relaxed)
    }

    fn latencies(&self) -> std::sync::MutexGuard<'_, Vec<Duration>> {
        let latencies = self.latencies.lock();
        latencies.unwrap_or_else(PoisonError::into_inner)
    }

    fn writers(&self) -> std::sync::MutexGuard<'_, HashMap<WorkerId, mpsc::Sender<Outgoing>>> {
        self.writers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn writer(self: &Arc<Self>, worker: WorkerId) -> mpsc::Sender<Outgoing> {
        let mut writers = self.writers();
        let writer = writers.entry(worker).or_insert_with(|| {
            let observer = Observer(self.clone());
            let (jobs, task) = inbox::writer(self.queue.clone(), self.id, worker, observer);
            let life = self.life.clone();
            self.life.spawn("inbox writer", async move {
                tokio::select! {
                    () = task => {}
                    () = life.stopping() => {}
                }
            });
            jobs
        });
        writer.clone()
    }

    /// A call has ended.
    fn ended(&self, id: JobId) {
        let number = usize::try_from(id.0 >> CALL_BITS).expect("there are few callers");
        let caller = &self.callers[number];
        if caller.waits_for.fetch_sub(1, Ordering::AcqRel) == 1 {
            caller.is_answered.notify_one();
        }
    }
}

fn job_id(caller: usize, call: usize) -> JobId {
    let call = call % (1 << CALL_BITS);
    JobId((caller as u64) << CALL_BITS | call as u64)
}

fn call(id: JobId, deadline: u64) -> Item {
    let argument = r#"{"number1":1,"number2":2}"#.to_owned();
    let envelope: Envelope = Envelope {
        id,
        deadline,
        attempt: 1,
        trace: None,
        request: None,
        job: Job::Execute(Execute {
            address: "abcd".parse().expect("it is an address"),
            method: "add".to_owned(),
            argument: Argument::Json(RawValue::from_string(argument).expect("it is JSON")),
            logs: None,
            schemas: None,
        }),
    };
    encode_item(&envelope)
}

struct Observer(Arc<Api>);

impl InboxObserver for Observer {
    fn undelivered(&self, jobs: Vec<JobId>, _: Undelivered) {
        self.0
            .undelivered
            .fetch_add(jobs.len() as u64, Ordering::Relaxed);
        for job in jobs {
            self.0.ended(job);
        }
    }

    fn depth(&self, _: u64) {}
}

async fn read_replies(api: Arc<Api>) {
    let mut reader = replies::Reader::new(api.queue.clone(), api.id);
    let mut trimmed = Instant::now();
    loop {
        let frames = tokio::select! {
            frames = reader.read() => frames,
            () = api.life.stopping() => return,
        };
        for frame in frames {
            let replies = unpack_replies(&frame).expect("a worker of this process has packed it");
            let count = replies.replies.len() as u64;
            api.answered.fetch_add(count, Ordering::Relaxed);
            replies.replies.iter().for_each(|reply| api.ended(reply.id));
        }
        if trimmed.elapsed() > TRIM_EVERY {
            trimmed = Instant::now();
            let last = reader.last();
            let trimming = api.queue.trim_replies(api.id, last).await;
            trimming.expect("Redis trims a stream");
        }
    }
}

/// Waits for the next step of a task. False if the api stops.
async fn goes_on(life: &Lifecycle, pause: Duration) -> bool {
    tokio::select! {
        () = tokio::time::sleep(pause) => true,
        () = life.stopping() => false,
    }
}

/// A failure does no harm to what is measured, unless it is the rule.
fn report<T>(outcome: Result<T, QueueError>) {
    if let Err(error) = outcome {
        eprintln!("scale: an api met: {error}");
    }
}

async fn beat(api: Arc<Api>) {
    while goes_on(&api.life, HEARTBEAT).await {
        report(api.queue.api_heartbeat(api.id).await);
    }
}

async fn check_workers(api: Arc<Api>) {
    while goes_on(&api.life, CHECK_EVERY).await {
        let workers: Vec<_> = api.writers().keys().copied().collect();
        report(api.queue.missing_workers(&workers).await);
    }
}

async fn probe(api: Arc<Api>) {
    while goes_on(&api.life, PROBE_EVERY).await {
        report(api.queue.ping().await);
    }
}
