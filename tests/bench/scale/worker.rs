//! A simulated worker: the queue's part of one, with contracts that answer at once.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::value::RawValue;
use shared::protocol::frame::{Reply, encode_item, pack_replies, unpack_jobs};
use shared::protocol::id::{ContractAddress, WorkerId};
use shared::protocol::job::{ContractSpec, EngineKind, Job};
use shared::protocol::reply::Output;
use shared::queue::inbox::{self, Received};
use shared::queue::leases::{Renewal, WorkerInfo};
use shared::queue::ownership::{LoadId, Outcome, Sandbox, Standing};
use shared::queue::references::Reference;
use shared::queue::settlement::Settlement;
use shared::queue::timing::{COMPARE, HEARTBEAT};
use shared::queue::{Queue, QueueError, ReaperConfig, RedisConfig, placement, reaper};
use shared::service::lifecycle::Lifecycle;

/// How many records a worker compares in one round trip.
const PAGE: usize = 100;

const ENGINE: EngineKind = EngineKind::Javascript;

/// When reapers act, and what follows. The defaults of the settings.
pub(super) const REAPER: ReaperConfig = ReaperConfig {
    grace: Duration::from_secs(10),
    quarantine: Duration::from_mins(10),
};

/// A worker. Its tasks run until its [`Lifecycle`] stops.
pub(super) struct Worker {
    pub(super) id: WorkerId,
    pub(super) queue: Queue,
    pub(super) life: Lifecycle,
    capacity: usize,
    owned: Mutex<Vec<Owned>>,
    /// How many contracts all workers together have taken over.
    taken_over: Arc<AtomicUsize>,
}

/// What a worker knows of a contract of its own.
#[derive(Clone)]
struct Owned {
    address: ContractAddress,
    load: LoadId,
    digest: String,
}

impl Worker {
    /// Connects and registers, as a worker's start does.
    pub(super) async fn start(
        redis: &RedisConfig,
        capacity: usize,
        taken_over: Arc<AtomicUsize>,
    ) -> Result<Arc<Self>, QueueError> {
        let worker = Self {
            id: WorkerId::random(),
            queue: Queue::connect(redis).await?,
            life: Lifecycle::new(),
            capacity,
            owned: Mutex::default(),
            taken_over,
        };
        worker.queue.register_worker(worker.id).await?;
        worker.report().await?;
        let worker = Arc::new(worker);
        let answering = answer(worker.clone());
        worker.life.spawn("answers", answering);
        Ok(worker)
    }

    /// Starts everything that a worker does beside its calls.
    pub(super) fn maintain(self: &Arc<Self>) {
        let life = &self.life;
        life.spawn("heartbeat", beat(self.clone()));
        life.spawn("comparison", compare(self.clone()));
        life.spawn("placement", place(self.clone()));
        life.spawn("presence", hold_subscription(self.clone()));
        let reaping = reaper::run(self.queue.clone(), REAPER, life.clone());
        life.spawn("reaper", reaping);
    }

    /// Stops at once, as a worker that is killed.
    pub(super) async fn die(&self) {
        self.life.stop();
        self.life.join().await;
    }

    /// Loads a contract, as a worker that a load was given to.
    pub(super) async fn load(
        &self,
        address: &ContractAddress,
        spec: &ContractSpec,
    ) -> Result<(), QueueError> {
        let queue = &self.queue;
        queue.enlist_contract(address).await?;
        let standing = queue.ownership(address).await?.standing;
        let claimed = queue.claim(address, standing, self.id, Some(spec)).await?;
        let generation = claimed.done().expect("nobody else claims it");
        let load = LoadId::new(generation);
        let reference = Reference::new(address, &load);
        assert!(queue.keep_blob(&spec.digest, &reference).await?);
        let standing = Standing::of(self.id, generation);
        let recorded = queue
            .record_load(address, standing, (&load, spec), &sandbox())
            .await?;
        assert_eq!(recorded, Outcome::Done(generation));
        self.own(address, &load, spec);
        Ok(())
    }

    fn own(&self, address: &ContractAddress, load: &LoadId, spec: &ContractSpec) {
        self.lock().push(Owned {
            address: address.clone(),
            load: load.clone(),
            digest: spec.digest.clone(),
        });
    }

    /// How many contracts it owns.
    pub(super) fn owns(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Owned>> {
        self.owned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn report(&self) -> Result<(), QueueError> {
        let info = WorkerInfo {
            engines: vec![ENGINE],
            capacity: self.capacity,
            used: self.owns(),
            draining: false,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            highest_limits: Vec::new(),
        };
        self.queue.report_worker(self.id, &info).await
    }

    /// Takes over the contract of an offer, unless another worker has it.
    async fn take_over(&self, address: &ContractAddress) -> Result<(), QueueError> {
        let queue = &self.queue;
        let Some(record) = queue.contract(address).await? else {
            return Ok(());
        };
        if record.owner.is_some() {
            return Ok(());
        }
        let claimed = queue.claim(address, record.standing(), self.id, None);
        let Some(generation) = claimed.await?.done() else {
            return Ok(());
        };
        let executable = queue.fetch_blob(&record.spec.digest).await?;
        assert!(executable.is_some(), "{address} refers to it");
        let standing = Standing::of(self.id, generation);
        queue.note_sandbox(address, standing, &sandbox()).await?;
        self.own(address, &record.load, &record.spec);
        self.taken_over.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

fn sandbox() -> Sandbox {
    Sandbox {
        endpoints: vec!["add".to_owned(), "initialise".to_owned()],
        image: None,
        schemas: None,
    }
}

/// A pause that keeps a thousand workers from doing the same at the same moment.
pub(super) async fn stagger(within: Duration) {
    tokio::time::sleep(within.mul_f64(rand::random_range(0.0..1.0))).await;
}

/// Reads the inbox, and answers every frame with one frame.
async fn answer(worker: Arc<Worker>) {
    let mut reader = inbox::Reader::new(worker.queue.clone(), worker.id);
    let mut settlement = Settlement::new(worker.queue.clone());
    loop {
        let received = tokio::select! {
            received = read(&mut reader, &mut settlement) => received,
            () = worker.life.stopping() => return,
        };
        let mut frames = Vec::with_capacity(received.len());
        let mut entries = Vec::with_capacity(received.len());
        for Received { entry, frame, .. } in received {
            let frame = unpack_jobs(&frame).expect("an api of this process has packed it");
            let replies = frame.jobs.iter().map(|job| {
                encode_item(&Reply {
                    id: job.id,
                    generation: Some(1),
                    ran_us: Some(12),
                    cpu_us: None,
                    outcome: Ok(Output::Result(result())),
                })
            });
            let api = frame.api.expect("an api awaits the replies");
            frames.push((api, pack_replies(worker.id, replies)));
            entries.push(entry);
        }
        let settled = settlement.settle(worker.id, &frames, &entries).await;
        settled.expect("Redis takes replies");
    }
}

/// Waits for frames. Acknowledges meanwhile what the last settlement has left.
async fn read(reader: &mut inbox::Reader, settlement: &mut Settlement) -> Vec<Received> {
    let reading = reader.read();
    tokio::pin!(reading);
    while let Some(span) = settlement.is_due_after() {
        tokio::select! {
            received = &mut reading => return received,
            () = tokio::time::sleep(span) => {
                settlement.finish().await.expect("Redis takes acknowledgements");
            }
        }
    }
    reading.await
}

fn result() -> Box<RawValue> {
    RawValue::from_string("3".to_owned()).expect("it is JSON")
}

async fn beat(worker: Arc<Worker>) {
    stagger(HEARTBEAT).await;
    let mut interval = tokio::time::interval(HEARTBEAT);
    loop {
        tokio::select! {
            _ = interval.tick() => {}
            () = worker.life.stopping() => return,
        }
        let renewal = worker.queue.renew_lease(worker.id).await;
        if !matches!(renewal, Ok(Renewal::Held)) {
            eprintln!("scale: a lease was not renewed: {renewal:?}");
            continue;
        }
        let reported = worker.report().await;
        let depth = worker.queue.inbox_depth(worker.id).await;
        if let Err(error) = reported.and(depth) {
            eprintln!("scale: a heartbeat failed: {error}");
        }
    }
}

/// Compares the contracts with their records, as a worker does from time to time.
async fn compare(worker: Arc<Worker>) {
    let comparing = async {
        stagger(COMPARE).await;
        loop {
            if let Err(error) = compare_all(&worker).await {
                eprintln!("scale: a comparison failed: {error}");
            }
            tokio::time::sleep(COMPARE).await;
        }
    };
    tokio::select! {
        () = comparing => {}
        () = worker.life.stopping() => {}
    }
}

async fn compare_all(worker: &Worker) -> Result<(), QueueError> {
    let owned = worker.lock().clone();
    for page in owned.chunks(PAGE) {
        let addresses: Vec<_> = page.iter().map(|owned| owned.address.clone()).collect();
        worker.queue.ownerships(&addresses).await?;
        let references: Vec<_> = page
            .iter()
            .map(|owned| (&*owned.digest, Reference::new(&owned.address, &owned.load)))
            .collect();
        worker.queue.are_blobs_kept(&references).await?;
        let digests: Vec<_> = page.iter().map(|owned| owned.digest.as_str()).collect();
        worker.queue.enlist_missing(&addresses, &digests).await?;
    }
    Ok(())
}

/// Reads the placement stream while there is room, and takes over what is offered.
async fn place(worker: Arc<Worker>) {
    let mut reader = placement::Reader::new(worker.queue.clone(), ENGINE, worker.id);
    loop {
        let received = tokio::select! {
            received = reader.read(), if worker.owns() < worker.capacity => received,
            () = worker.life.stopping() => return,
        };
        let Some(received) = received else { continue };
        let frame = unpack_jobs(&received.frame).expect("a reaper has packed it");
        let mut offers: VecDeque<_> = frame.jobs.into();
        while let Some(offer) = offers.pop_front() {
            let Job::Load(load) = offer.job else { continue };
            if let Err(error) = worker.take_over(&load.address).await {
                eprintln!("scale: {} was not taken over: {error}", load.address);
            }
        }
        if let Err(error) = worker.queue.settle_load(ENGINE, &received.entry).await {
            eprintln!("scale: an offer was not settled: {error}");
        }
    }
}

async fn hold_subscription(worker: Arc<Worker>) {
    while !worker.life.is_stopping() {
        let Ok(mut presence) = worker.queue.subscribe_alive(worker.id).await else {
            tokio::time::sleep(HEARTBEAT).await;
            continue;
        };
        tokio::select! {
            () = presence.ended() => {}
            () = worker.life.stopping() => return,
        }
    }
}
