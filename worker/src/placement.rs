//! Takes contracts to host from an engine's placement stream, while there is room.

use std::sync::Arc;
use std::time::Duration;

use shared::protocol::frame::{Envelope, JobFrame, Reply, encode_item, pack_replies, unpack_jobs};
use shared::protocol::id::ApiId;
use shared::protocol::job::{EngineKind, Job, Load};
use shared::protocol::reply::{Failure, FailureCode};
use shared::queue::QueueError;
use shared::queue::contracts::Route;
use shared::queue::placement::{Reader, Received};
use shared::service::backoff::Backoff;
use tokio::sync::Semaphore;

use crate::contracts::Place;
use crate::jobs::load::Reason;
use crate::settle::Ran;
use crate::{Worker, jobs, runner};

/// Loads under way at once, per engine: making sandboxes is work for every core.
const LOADS_UNDER_WAY: usize = 4;

/// How often a replica is passed on by workers that host another one, and how long each keeps it.
/// Then no worker is left for it; it is offered again with a call.
const PASSES: u32 = 10;
const PASS_AFTER: Duration = Duration::from_millis(100);

/// Runs until the process drains.
pub(crate) async fn run(worker: Arc<Worker>, engine: EngineKind) {
    let mut reader = Reader::new(worker.queue.clone(), engine, worker.id);
    let loads = Arc::new(Semaphore::new(LOADS_UNDER_WAY));
    while !worker.life.is_draining() {
        let permits = async {
            let load = loads.clone().acquire_owned().await;
            (
                load.expect("the semaphore is never closed"),
                worker.contracts.place().await,
            )
        };
        let (load_permit, place) = tokio::select! {
            permits = permits => permits,
            () = worker.life.draining() => break,
        };
        // Not to be dropped half-way: what it was about to bring would be lost.
        let Some(received) = reader.read().await else {
            continue;
        };
        let (worker, tasks) = (worker.clone(), worker.life.clone());
        tasks.spawn("load", async move {
            settle(&worker, engine, received, place).await;
            drop(load_permit);
        });
    }
    let all = u32::try_from(LOADS_UNDER_WAY).unwrap_or(u32::MAX);
    drop(loads.acquire_many(all).await);
    if let Err(error) = worker.queue.leave_placement_group(engine, worker.id).await {
        tracing::warn!(%engine, %error, "could not leave the placement group");
    }
}

/// Carries one load out, answers it, and removes it from the stream.
async fn settle(worker: &Arc<Worker>, engine: EngineKind, received: Received, place: Place) {
    let Received { entry, frame } = received;
    if let Err(error) = carry_out(worker, engine, &frame, place).await {
        // It stays pending: the contract is placed again by whoever clears up.
        tracing::error!(%error, entry, "a load could not be settled");
        return;
    }
    let mut backoff = Backoff::redis();
    while let Err(error) = worker.queue.settle_load(engine, &entry).await {
        tracing::warn!(%error, entry, "could not remove a settled load yet");
        tokio::select! {
            () = backoff.wait() => {}
            () = worker.life.stopping() => return,
        }
    }
}

async fn carry_out(
    worker: &Arc<Worker>,
    engine: EngineKind,
    frame: &[u8],
    place: Place,
) -> Result<(), QueueError> {
    let JobFrame { api, jobs, .. } = match unpack_jobs(frame) {
        Ok(frame) => frame,
        Err(error) => {
            tracing::error!(%error, "a load that cannot be read");
            let stream = worker.queue.keys().placement(engine);
            return worker
                .queue
                .record_unreadable(&stream, frame, &error.to_string())
                .await;
        }
    };
    let mut place = Some(place);
    for envelope in jobs {
        let Job::Load(load) = &envelope.job else {
            continue;
        };
        if worker.life.is_draining() {
            worker.queue.place(engine, api, &envelope).await?;
        } else if let Some(place) = place.take() {
            load_one(worker, api, &envelope, load, place).await?;
        }
    }
    Ok(())
}

async fn load_one(
    worker: &Arc<Worker>,
    api: Option<ApiId>,
    envelope: &Envelope,
    load: &Load,
    place: Place,
) -> Result<(), QueueError> {
    if envelope.deadline <= worker.queue.clock().now_ms() {
        return Ok(());
    }
    let Some(api) = api else {
        let is_here = worker.contracts.get(&load.address).is_some();
        if !is_here && worker.contracts.has_sibling_of(&load.address) {
            drop(place);
            return pass_on(worker, envelope, load.spec.engine).await;
        }
        return adopt(worker, load, place).await;
    };
    let mut span = runner::span(worker, envelope);
    let outcome = jobs::load::host(worker, load, place, Reason::Asked).await;
    Ran::default().tell(&mut span, &outcome);
    drop(span);
    let reply = Reply {
        id: envelope.id,
        generation: None,
        ran_us: None,
        outcome,
    };
    let frame = pack_replies(worker.id, [encode_item(&reply)]);
    worker.queue.settle(worker.id, &[(api, frame)], &[]).await
}

/// Leaves a replica to another worker, since this one hosts another replica of the same contract.
async fn pass_on(
    worker: &Worker,
    envelope: &Envelope,
    engine: EngineKind,
) -> Result<(), QueueError> {
    if envelope.attempt >= PASSES {
        return Ok(());
    }
    // So that it does not come back at once.
    tokio::select! {
        () = tokio::time::sleep(PASS_AFTER) => {}
        () = worker.life.draining() => {}
    }
    let envelope = Envelope {
        attempt: envelope.attempt + 1,
        ..envelope.clone()
    };
    worker.queue.place(engine, None, &envelope).await
}

/// Takes over a contract whose host is gone. Nobody awaits it: it is as it was loaded, or it is
/// left alone.
async fn adopt(worker: &Arc<Worker>, load: &Load, place: Place) -> Result<(), QueueError> {
    match worker.queue.route(&load.address).await? {
        Route::Unassigned(record) if record.spec == load.spec => {}
        _ => return Ok(()),
    }
    match jobs::load::host(worker, load, place, Reason::Orphaned).await {
        Err(Failure { code, message, .. }) if code != FailureCode::NotHosted => {
            tracing::error!(contract = %load.address, message, "could not take a contract over");
        }
        _ => {}
    }
    Ok(())
}
