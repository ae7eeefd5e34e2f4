//! The first phase of a shutdown: hands the contracts over to other workers and empties the inbox.

use std::time::Duration;

use shared::protocol::id::ContractAddress;
use shared::protocol::job::EngineKind;
use shared::protocol::reply::FailureCode;
use shared::queue::QueueError;
use shared::service::backoff::Backoff;
use tokio::sync::Semaphore;

use crate::contracts::ContractHandle;
use crate::worker::Worker;

/// The maximum number of contracts that are handed over concurrently. Calls of those contracts wait
/// for the new owner, while the other contracts are still served here.
const CONCURRENT_HANDOVERS: usize = 4;

/// How long a handover may take before the remaining contracts are no longer held back.
const HANDOVER_LIMIT: Duration = Duration::from_secs(5);

/// How often the registry is checked for the new owner of a contract.
const CHECK_INTERVAL: Duration = Duration::from_millis(50);

/// The interval between attempts to close an inbox that still has entries.
const CLOSE_INTERVAL: Duration = Duration::from_millis(20);

/// Hands every contract over to a worker with capacity, finishes the running calls and closes the
/// inbox. Returns false if the process had to stop before that was complete.
pub(crate) async fn hand_over(worker: &Worker) -> bool {
    let work = async {
        worker.announce().await;
        hand_over_all(worker).await;
        close_inbox(worker).await;
    };
    tokio::select! {
        () = work => {
            tracing::info!("worker drained");
            true
        }
        () = worker.life.stopping() => {
            tracing::warn!("worker stopped before it was drained");
            false
        }
    }
}

/// Runs until this worker owns no contract, and no load in progress can add one.
async fn hand_over_all(worker: &Worker) {
    let slots = Semaphore::new(CONCURRENT_HANDOVERS);
    loop {
        // Checked before the table: a load that has ended by now has its contract in the table.
        let may_grow = !worker.placements.is_empty();
        let contracts = worker.contracts.all();
        if !contracts.is_empty() {
            let handovers = contracts
                .iter()
                .map(|(address, _)| hand_over_one(worker, address, &slots));
            futures::future::join_all(handovers).await;
        } else if may_grow {
            worker.placements.wait().await;
        } else {
            return;
        }
    }
}

async fn hand_over_one(worker: &Worker, address: &ContractAddress, slots: &Semaphore) {
    // The semaphore is closed once waiting for new owners is of no use.
    let slot = slots.acquire().await;
    let _lock = worker.contracts.lock(address).await;
    // The contract may have been unloaded or replaced while this task waited.
    let Some(contract) = worker.contracts.get(address) else {
        return;
    };
    release(worker, address, &contract).await;
    let permit = worker.contracts.remove(address);
    let handover = async {
        // The other replicas of a contract serve its calls, and their workers cannot take this one.
        let is_only = contract.spec.replicas == 1;
        let engine = contract.spec.engine;
        if is_only && slot.is_ok() && !wait_for_owner(worker, address, engine).await {
            slots.close();
        }
    };
    tokio::join!(contract.stop(FailureCode::Draining), handover);
    drop(permit);
}

/// Waits until another worker owns the contract. False if no other worker has capacity, or if it
/// takes too long.
async fn wait_for_owner(worker: &Worker, address: &ContractAddress, engine: EngineKind) -> bool {
    let checks = async {
        loop {
            match worker.queue.contract(address).await {
                Ok(Some(record)) if record.owner.is_none() => {}
                // The contract has an owner or was unloaded. If Redis fails, waiting is of no use.
                _ => return true,
            }
            if !is_capacity_elsewhere(worker, engine).await {
                return false;
            }
            tokio::time::sleep(CHECK_INTERVAL).await;
        }
    };
    tokio::time::timeout(HANDOVER_LIMIT, checks)
        .await
        .unwrap_or(false)
}

async fn is_capacity_elsewhere(worker: &Worker, engine: EngineKind) -> bool {
    let workers = worker.queue.workers().await.unwrap_or_default();
    let mut others = workers.iter().filter(|(id, _)| *id != worker.id());
    others.any(|(_, info)| info.free(engine) > 0)
}

/// Unassigns the contract and offers it to the other workers. Retries until that succeeds, because
/// no process fails over a worker that has left the farm.
async fn release(worker: &Worker, address: &ContractAddress, contract: &ContractHandle) {
    let mut backoff = Backoff::redis();
    while let Err(error) = try_to_release(worker, address, contract).await {
        tracing::warn!(contract = %address, %error, "contract not handed over yet");
        backoff.wait().await;
    }
}

async fn try_to_release(
    worker: &Worker,
    address: &ContractAddress,
    contract: &ContractHandle,
) -> Result<(), QueueError> {
    let queue = &worker.queue;
    // On a retry, the contract may be unassigned already.
    if contract.tenure.release().await? || queue.is_offer_due(address).await? {
        queue.offer(address.clone(), contract.spec.clone()).await?;
    }
    Ok(())
}

/// Waits until the inbox is empty and settled, and closes it in the same step. Later writers see
/// that the inbox is gone.
async fn close_inbox(worker: &Worker) {
    loop {
        match worker.queue.close_inbox(worker.id()).await {
            Ok(true) => return,
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "inbox not closed yet"),
        }
        tokio::time::sleep(CLOSE_INTERVAL).await;
    }
}
