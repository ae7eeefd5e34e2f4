//! Makes a contract ready to be called: a new one from the placement stream, or another
//! executable for one that is hosted here.

use std::sync::Arc;
use std::time::Instant;

use shared::protocol::job::{EngineKind, Load};
use shared::protocol::reply::{Failure, FailureCode, Output};
use shared::queue::QueueError;
use shared::queue::contracts::{Claim, ContractRecord};

use super::execute::not_hosted;
use super::record::Record;
use crate::Worker;
use crate::contracts::host::{HostTask, Hosting};
use crate::contracts::{Host, HostEnds, Place};
use crate::sandbox::{Blueprint, Engine, Instance, StartError};
use crate::settle::{Delivery, Ran};

/// Why a contract is not ready.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    /// The caller is told.
    #[error(transparent)]
    Failed(#[from] Failure),
    /// Redis is in trouble.
    #[error(transparent)]
    Queue(#[from] QueueError),
}

impl From<StartError> for LoadError {
    fn from(error: StartError) -> Self {
        Self::Failed(match error {
            StartError::Invalid(message) => {
                Failure::started(FailureCode::InvalidExecutable, message)
            }
            StartError::Unavailable(message) => {
                Failure::not_started(FailureCode::SandboxUnavailable, message)
            }
        })
    }
}

/// A load that came through the inbox: the contract should be hosted here.
pub(crate) async fn reload(worker: Arc<Worker>, load: Load, delivery: Delivery) {
    let outcome = match (load.spec.engine, &worker.chromium, &worker.docker) {
        (EngineKind::Javascript, Some(engine), _) => reload_with(&worker, engine, &load).await,
        (EngineKind::Docker, _, Some(engine)) => reload_with(&worker, engine, &load).await,
        (engine, ..) => Err(no_engine(engine)),
    };
    delivery.settle(outcome_of(&load, outcome), Ran::default());
}

/// Why a contract is to be hosted here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// Somebody loads it and awaits the outcome.
    Asked,
    /// Its host is gone. It has lived before, so it is not given up when it does not at once.
    Orphaned,
}

/// A load that came through the placement stream: the contract is to be hosted here.
pub(crate) async fn host(
    worker: &Arc<Worker>,
    load: &Load,
    place: Place,
    reason: Reason,
) -> Result<Output, Failure> {
    let outcome = match (load.spec.engine, &worker.chromium, &worker.docker) {
        (EngineKind::Javascript, Some(engine), _) => {
            host_with(worker, engine, load, place, reason).await
        }
        (EngineKind::Docker, _, Some(engine)) => {
            host_with(worker, engine, load, place, reason).await
        }
        (engine, ..) => Err(no_engine(engine)),
    };
    outcome_of(load, outcome)
}

fn no_engine(engine: EngineKind) -> LoadError {
    let message = format!("This worker does not offer {engine} contracts");
    Failure::not_started(FailureCode::NoCapacity, message).into()
}

fn outcome_of(load: &Load, outcome: Result<(), LoadError>) -> Result<Output, Failure> {
    match outcome {
        Ok(()) => Ok(Output::Done),
        Err(LoadError::Failed(failure)) => Err(failure),
        Err(LoadError::Queue(error)) => {
            tracing::warn!(contract = %load.address, %error, "cannot load");
            let message = "The queue is unavailable";
            Err(Failure::not_started(
                FailureCode::SandboxUnavailable,
                message,
            ))
        }
    }
}

/// Switches a hosted contract over to another executable; no call falls between.
async fn reload_with<E: Engine>(
    worker: &Arc<Worker>,
    engine: &E,
    load: &Load,
) -> Result<(), LoadError> {
    let address = &load.address;
    let _turn = worker.contracts.turn(address).await;
    let Some(old) = worker.contracts.get(address) else {
        // The registry names this worker, wrongly: the next look must find the contract free.
        worker.queue.release(address, worker.id).await?;
        return Err(not_hosted().into());
    };
    if old.spec == load.spec {
        return Ok(());
    }
    let executable = fetch(worker, load).await?;
    let next = old.status.generation() + 1;
    let instance = start(worker, engine, blueprint(load, &executable, next)).await?;
    let generation = match claim(worker, load).await {
        Ok(generation) => generation,
        Err(error) => {
            instance.close().await;
            return Err(error);
        }
    };
    let (host, ends) = worker
        .contracts
        .successor(&old, load.spec.clone(), generation);
    host.keep_executable(executable.clone());
    serve(
        worker,
        engine,
        load,
        executable,
        (generation, ends),
        Ok(instance),
    )
    .await;
    worker.contracts.switch(address, host);
    if old.spec.digest != load.spec.digest {
        worker.queue.release_blob(&old.spec.digest, address).await?;
    }
    tracing::info!(contract = %address, generation, "switched to another executable");
    Ok(())
}

/// Hosts a contract that is new here.
async fn host_with<E: Engine>(
    worker: &Arc<Worker>,
    engine: &E,
    load: &Load,
    place: Place,
    reason: Reason,
) -> Result<(), LoadError> {
    let address = &load.address;
    let _turn = worker.contracts.turn(address).await;
    if worker.contracts.has_sibling_of(address) {
        // Two loads of one address at once: the second finds its way through the inbox. Replicas
        // are there for another worker each.
        return Err(not_hosted().into());
    }
    let before = worker.queue.contract(address).await?;
    let generation = claim(worker, load).await?;
    let spec = load.spec.clone();
    let (host, ends) = worker.contracts.open(address, spec, generation, place);
    let started = match fetch(worker, load).await {
        Ok(executable) => {
            host.keep_executable(executable.clone());
            let plan = blueprint(load, &executable, generation);
            Ok((start(worker, engine, plan).await, executable))
        }
        Err(error) => Err(error),
    };
    let (instance, executable) = match (started, reason) {
        (Ok((Err(error), _)), Reason::Asked) => {
            give_up(worker, load, before, &host, ends).await;
            return Err(error.into());
        }
        (Err(error), _) => {
            let lost = reason == Reason::Orphaned && is_gone(&error);
            give_up(worker, load, before.filter(|_| !lost), &host, ends).await;
            if lost {
                record_loss(worker, load).await;
            }
            return Err(error);
        }
        (Ok((instance, executable)), _) => (instance, executable),
    };
    if !worker.contracts.is_served_by(address, &host.status) {
        // The lease was lost meanwhile, and with it the contract.
        if let Ok(instance) = instance {
            instance.close().await;
        }
        give_up(worker, load, before, &host, ends).await;
        return Err(not_hosted().into());
    }
    match &instance {
        Ok(_) => {
            tracing::info!(contract = %address, generation, engine = %load.spec.engine, "loaded");
        }
        Err(error) => {
            tracing::warn!(contract = %address, generation, %error, "took a contract over, but it does not live yet");
        }
    }
    let ends = (generation, ends);
    serve(worker, engine, load, executable, ends, instance).await;
    worker.announce().await;
    Ok(())
}

/// Makes a contract's first instance on this worker.
async fn start<E: Engine>(
    worker: &Worker,
    engine: &E,
    plan: Blueprint<'_>,
) -> Result<E::Instance, StartError> {
    let begun = Instant::now();
    let started = engine.start(plan).await;
    worker
        .metrics
        .of(plan.spec.engine)
        .load
        .record(begun.elapsed());
    started
}

/// A contract's first instance on this worker.
fn blueprint<'a>(load: &'a Load, executable: &'a str, generation: u64) -> Blueprint<'a> {
    Blueprint {
        address: &load.address,
        generation,
        spec: &load.spec,
        executable,
        image: None,
    }
}

/// Takes back what hosting a contract began with. What was loaded before stays loaded.
async fn give_up(
    worker: &Worker,
    load: &Load,
    before: Option<ContractRecord>,
    host: &Host,
    mut ends: HostEnds,
) {
    let (queue, address) = (&worker.queue, &load.address);
    let withdrawn = match before {
        Some(before) => {
            queue
                .roll_back_claim(address, worker.id, &before.spec)
                .await
        }
        None => queue.remove_contract(address, Some(worker.id)).await,
    };
    if let Err(error) = withdrawn {
        tracing::warn!(contract = %address, %error, "cannot withdraw a failed load");
    }
    drop(worker.contracts.remove(address));
    ends.calls.close();
    while let Ok(call) = ends.calls.try_recv() {
        host.status.call_refused();
        call.delivery.refuse(not_hosted());
    }
}

/// Makes this worker the contract's owner; gives the new generation.
async fn claim(worker: &Worker, load: &Load) -> Result<u64, LoadError> {
    let Load { address, spec } = load;
    let mut displaced = None;
    loop {
        match worker
            .queue
            .claim(address, worker.id, displaced, spec)
            .await?
        {
            Claim::Granted(generation) => return Ok(generation),
            Claim::OwnedBy(owner) if worker.queue.is_alive(owner).await? => {
                return Err(not_hosted().into());
            }
            Claim::OwnedBy(owner) => displaced = Some(owner),
        }
    }
}

/// Gets the executable and keeps it in the store for as long as the contract is loaded.
async fn fetch(worker: &Worker, load: &Load) -> Result<Arc<str>, LoadError> {
    let missing = || Failure::not_started(FailureCode::ExecutableMissing, "It is not in the store");
    let digest = &load.spec.digest;
    let blob = worker.queue.fetch_blob(digest).await?.ok_or_else(missing)?;
    // Up to 50 MB to check and to copy: nothing else would run on this thread.
    let text = tokio::task::spawn_blocking(|| String::from_utf8(blob).map(Arc::from))
        .await
        .expect("checking a text does not panic");
    text.map_err(|_| {
        let message = "The executable is not UTF-8 text";
        Failure::started(FailureCode::InvalidExecutable, message).into()
    })
}

/// Records that a contract was forgotten, since nobody can ever host it again.
async fn record_loss(worker: &Worker, load: &Load) {
    let fields = [
        ("kind", "lost"),
        ("contract", load.address.as_str()),
        ("reason", "its executable is not in the store any more"),
    ];
    if let Err(error) = worker.queue.record_dead_letter(&fields).await {
        tracing::warn!(contract = %load.address, %error, "cannot record a lost contract");
    }
}

/// Whether the executable is in the store no longer.
fn is_gone(error: &LoadError) -> bool {
    matches!(error, LoadError::Failed(failure) if failure.code == FailureCode::ExecutableMissing)
}

/// Starts the host task, which tries again where there is no instance yet.
async fn serve<E: Engine>(
    worker: &Arc<Worker>,
    engine: &E,
    load: &Load,
    executable: Arc<str>,
    (generation, ends): (u64, HostEnds),
    instance: Result<E::Instance, StartError>,
) {
    if let Ok(instance) = &instance {
        let record = Record {
            address: load.address.clone(),
            digest: load.spec.digest.clone(),
            executable: executable.clone(),
            endpoints: instance.endpoints().unwrap_or_default().to_vec(),
            image: instance.image().map(str::to_owned),
            status: ends.status.clone(),
        };
        record.keep(worker).await;
    }
    let hosting = Hosting {
        engine: engine.clone(),
        address: load.address.clone(),
        spec: load.spec.clone(),
        executable,
        generation,
    };
    let task = HostTask::new(worker.clone(), hosting, ends);
    worker.life.spawn("contract", task.run(instance));
}
