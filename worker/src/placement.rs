//! Reads an engine's placement stream and loads the contracts in it, while the worker has capacity.

use std::sync::Arc;
use std::time::Duration;

use shared::protocol::frame::{Envelope, JobFrame, Reply, encode_item, pack_replies, unpack_jobs};
use shared::protocol::id::{ApiId, ContractAddress, WorkerId};
use shared::protocol::job::{EngineKind, Job, Load};
use shared::protocol::reply::{Failure, FailureCode, Output};
use shared::queue::QueueError;
use shared::queue::placement::{Reader, Received};
use shared::queue::timing::PLACEMENT_BLOCK;
use shared::service::backoff::Backoff;
use tokio::sync::Semaphore;
use tracing::Instrument;

use crate::contracts::CapacityPermit;
use crate::settle::RunInfo;
use crate::usage::Rank;
use crate::worker::Worker;
use crate::{jobs, runner};

/// The maximum number of concurrent loads per engine: starting a sandbox uses every core.
const CONCURRENT_LOADS: usize = 4;

/// How often workers that own another replica of a contract may requeue a replica. After that, no
/// other worker is expected to take it; the next call offers it again.
const MAX_REQUEUES: u32 = 10;
/// How long a worker waits before it requeues a replica.
const REQUEUE_AFTER: Duration = Duration::from_millis(100);

/// Runs until the process drains.
pub(crate) async fn run(worker: Arc<Worker>, engine: EngineKind) {
    let mut id = worker.id();
    let mut reader = new_reader(&worker, engine, id);
    let loads = Arc::new(Semaphore::new(CONCURRENT_LOADS));
    let mut rank = Rank::new(engine);
    while !worker.life.is_draining() {
        let permits = async {
            let load = loads.clone().acquire_owned().await;
            (
                load.expect("the semaphore is never closed"),
                worker.contracts.capacity_permit().await,
            )
        };
        let (load_permit, capacity) = tokio::select! {
            permits = permits => permits,
            () = worker.life.draining() => break,
        };
        if id != worker.id() {
            // The comparison may have recorded it after the reaper of this id.
            if let Err(error) = worker.queue.forget_usage(engine, id).await {
                tracing::debug!(%engine, %error, "usage under the earlier id not forgotten");
            }
            id = worker.id();
            reader = new_reader(&worker, engine, id);
        }
        // A read that is dropped half-way may lose an entry.
        // A worker that others are less used than looks for loads as often as those read.
        let received = if rank.is_behind(&worker).await {
            tokio::select! {
                () = tokio::time::sleep(PLACEMENT_BLOCK) => reader.read_left_over().await,
                () = worker.life.draining() => break,
            }
        } else {
            reader.read().await
        };
        let Some(received) = received else {
            continue;
        };
        let (worker, tasks) = (worker.clone(), worker.life.clone());
        tasks.spawn("load", async move {
            process_entry(&worker, engine, received, capacity).await;
            drop(load_permit);
        });
    }
    let all = u32::try_from(CONCURRENT_LOADS).unwrap_or(u32::MAX);
    drop(loads.acquire_many(all).await);
    if let Err(error) = worker.queue.leave_placement_group(engine, id).await {
        tracing::warn!(%engine, %error, "worker not removed from the placement group");
    }
}

fn new_reader(worker: &Worker, engine: EngineKind, id: WorkerId) -> Reader {
    let reader = Reader::new(worker.queue.clone(), engine, id);
    reader.answering(worker.catch_up.of_placement(engine))
}

/// Runs one load, replies to it, and removes it from the stream.
async fn process_entry(
    worker: &Arc<Worker>,
    engine: EngineKind,
    received: Received,
    capacity: CapacityPermit,
) {
    let Received {
        entry,
        frame,
        returned_before,
    } = received;
    let capacity = (!returned_before).then_some(capacity);
    if let Err(error) = process_frame(worker, engine, &frame, capacity).await {
        // The entry stays pending and is no longer in hand. The next time that the reader inspects
        // what is pending, the api is told that the load may have been carried out.
        tracing::error!(%error, %entry, "load not settled");
        return;
    }
    let mut backoff = Backoff::redis();
    while let Err(error) = worker.queue.settle_load(engine, &entry).await {
        tracing::warn!(%error, %entry, "settled load not removed from the placement stream yet");
        tokio::select! {
            () = backoff.wait() => {}
            () = worker.life.stopping() => return,
        }
    }
}

/// Runs the load of a frame. Without `capacity` it may have been run before, so it is not run again
/// and its caller gets a failure.
async fn process_frame(
    worker: &Arc<Worker>,
    engine: EngineKind,
    frame: &[u8],
    mut capacity: Option<CapacityPermit>,
) -> Result<(), QueueError> {
    let JobFrame { api, jobs, .. } = match unpack_jobs(frame) {
        Ok(frame) => frame,
        Err(error) => {
            tracing::error!(%error, "unreadable load");
            let stream = worker.queue.keys().placement(engine);
            return worker
                .queue
                .record_unreadable(&stream, frame, &error.to_string())
                .await;
        }
    };
    let may_have_run = capacity.is_none();
    for envelope in jobs {
        let Job::Load(load) = &envelope.job else {
            continue;
        };
        if may_have_run {
            let message = "The worker lost the load. It may have been carried out";
            let outcome = Err(Failure::started(FailureCode::WorkerLost, message));
            reply(worker, api, &envelope, outcome).await?;
        } else if worker.life.is_draining() {
            worker.queue.place(engine, api, &envelope).await?;
        } else if let Some(capacity) = capacity.take() {
            process_load(worker, engine, (api, &envelope), load, capacity).await?;
        }
    }
    Ok(())
}

async fn process_load(
    worker: &Arc<Worker>,
    engine: EngineKind,
    (api, envelope): (Option<ApiId>, &Envelope),
    load: &Load,
    capacity: CapacityPermit,
) -> Result<(), QueueError> {
    if envelope.deadline <= worker.queue.clock().now_ms() {
        return Ok(());
    }
    if api.is_none() {
        let is_here = worker.contracts.get(&load.address).is_some();
        if !is_here && worker.contracts.owns_replica_of(&load.address) {
            drop(capacity);
            return requeue_replica(worker, envelope, engine).await;
        }
        take_over(worker, &load.address, engine, capacity).await;
        return Ok(());
    }
    let mut span = runner::span(worker, envelope);
    let loading = jobs::load::load_new(worker, load, capacity);
    let log = runner::log_span(envelope.request.as_deref());
    let outcome = loading.instrument(log).await;
    RunInfo::default().record(&mut span, &outcome);
    drop(span);
    reply(worker, api, envelope, outcome).await
}

/// Replies to a load. Repeats it while Redis refuses the reply, for example at maxmemory: until it
/// is stored, the entry must stay pending.
async fn reply(
    worker: &Worker,
    api: Option<ApiId>,
    envelope: &Envelope,
    outcome: Result<Output, Failure>,
) -> Result<(), QueueError> {
    let Some(api) = api else {
        return Ok(());
    };
    let reply = Reply {
        id: envelope.id,
        generation: None,
        ran_us: None,
        cpu_us: None,
        outcome,
    };
    let frames = [(api, pack_replies(worker.id(), [encode_item(&reply)]))];
    let mut backoff = Backoff::redis();
    while let Err(error) = worker.queue.settle(worker.id(), &frames, &[]).await {
        tracing::warn!(%error, "load not replied to yet");
        tokio::select! {
            () = backoff.wait() => {}
            () = worker.life.stopping() => return Err(error),
        }
    }
    Ok(())
}

/// Leaves a replica to another worker, because this worker owns another replica of the contract.
async fn requeue_replica(
    worker: &Worker,
    envelope: &Envelope,
    engine: EngineKind,
) -> Result<(), QueueError> {
    if envelope.attempt >= MAX_REQUEUES {
        return Ok(());
    }
    // The pause keeps the replica from returning to this worker at once.
    tokio::select! {
        () = tokio::time::sleep(REQUEUE_AFTER) => {}
        () = worker.life.draining() => {}
    }
    let envelope = Envelope {
        attempt: envelope.attempt + 1,
        ..envelope.clone()
    };
    worker.queue.place(engine, None, &envelope).await
}

/// Takes over a contract whose owner is gone. No caller awaits this load. So it is skipped unless
/// the contract is still loaded and unassigned. What is loaded is in its record: the offer may be
/// older.
async fn take_over(
    worker: &Arc<Worker>,
    address: &ContractAddress,
    engine: EngineKind,
    capacity: CapacityPermit,
) {
    match jobs::load::take_over(worker, address, engine, capacity).await {
        Err(Failure { code, message, .. }) if code != FailureCode::NotHosted => {
            tracing::error!(contract = %address, message, "contract not taken over");
        }
        _ => {}
    }
}
