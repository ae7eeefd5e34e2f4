//! Closes a contract: what runs is finished, what waits is refused.

use std::sync::Arc;

use shared::protocol::job::Unload;
use shared::protocol::reply::{Failure, FailureCode, Output};
use shared::queue::QueueError;

use super::execute::not_hosted;
use crate::Worker;
use crate::settle::{Delivery, Ran};

pub(crate) async fn unload(worker: Arc<Worker>, unload: Unload, delivery: Delivery) {
    let outcome = close(&worker, &unload).await.unwrap_or_else(|error| {
        tracing::warn!(contract = %unload.address, %error, "cannot unload");
        Err(Failure::started(
            FailureCode::SandboxUnavailable,
            "The queue is unavailable",
        ))
    });
    delivery.settle(outcome.map(|()| Output::Done), Ran::default());
}

async fn close(worker: &Worker, unload: &Unload) -> Result<Result<(), Failure>, QueueError> {
    let address = &unload.address;
    let _turn = worker.contracts.turn(address).await;
    let Some(host) = worker.contracts.get(address) else {
        return Ok(Err(not_hosted()));
    };
    // First out of the registry, so that calls are told that the contract is not loaded.
    worker
        .queue
        .remove_contract(address, Some(worker.id))
        .await?;
    let place = worker.contracts.remove(address);
    host.stop(FailureCode::NotHosted).await;
    drop(place);
    worker
        .queue
        .release_blob(&host.spec.digest, address)
        .await?;
    worker.announce().await;
    tracing::info!(contract = %address, "unloaded");
    Ok(Ok(()))
}
