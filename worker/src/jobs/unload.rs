//! Unloads a contract: running calls finish, waiting calls are refused.

use std::sync::Arc;

use shared::protocol::job::Unload;
use shared::protocol::reply::{Failure, FailureCode, Output};
use shared::queue::QueueError;

use super::execute::not_assigned;
use crate::contracts::Tenure;
use crate::settle::{Delivery, RunInfo};
use crate::worker::Worker;
use crate::{executables, reconcile};

pub(crate) async fn unload(worker: Arc<Worker>, unload: Unload, delivery: Delivery) {
    let outcome = close(&worker, &unload).await.unwrap_or_else(|error| {
        tracing::warn!(contract = %unload.address, %error, "unload failed");
        Err(Failure::started(
            FailureCode::SandboxUnavailable,
            "The queue is unavailable; try again later",
        ))
    });
    delivery.settle(outcome.map(|()| Output::Done), RunInfo::default());
}

async fn close(worker: &Worker, unload: &Unload) -> Result<Result<(), Failure>, QueueError> {
    let address = &unload.address;
    let _lock = worker.contracts.lock(address).await;
    let Some(contract) = worker.contracts.get(address) else {
        Tenure::release_unknown(worker, address).await?;
        return Ok(Err(not_assigned()));
    };
    // The registry comes first, so that new calls get the answer that the contract is not loaded.
    if !contract.tenure.unload().await? {
        // Another worker owns the contract, so nothing of it may be removed here.
        reconcile::close(worker, address, &contract).await;
        return Ok(Err(not_assigned()));
    }
    let permit = worker.contracts.remove(address);
    contract.stop(FailureCode::NotHosted).await;
    drop(permit);
    let (digest, reference) = (&contract.spec.digest, contract.tenure.reference());
    executables::release(&worker.queue, digest, &reference).await;
    worker.announce().await;
    tracing::info!(contract = %address, "contract unloaded");
    Ok(Ok(()))
}
