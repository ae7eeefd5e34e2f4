//! Compares the contracts of this worker with the registry, and repairs what differs.
//!
//! No single lost write, dropped message or dead process may strand a contract. So every worker
//! compares all its contracts with their records from time to time: at a fixed interval, after
//! Redis was unreachable, and after the worker had to take another id. It reads the records in
//! pages, each in one round trip, and looks closer only at those that differ.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt;
use shared::protocol::id::{ContractAddress, WorkerId};
use shared::protocol::reply::FailureCode;
use shared::queue::QueueError;
use shared::queue::ownership::Outcome;
use shared::queue::timing::{COMPARE, PAST};
use shared::service::moment::Moment;

use crate::contracts::{Comparison, ContractHandle, Tenure};
use crate::executables;
use crate::worker::Worker;

/// How many records are read in one round trip.
const PAGE: usize = 100;

/// How many contracts are repaired or resumed concurrently.
const CONCURRENT_REPAIRS: usize = 16;

/// How soon a comparison that failed is repeated.
const RETRY: Duration = Duration::from_secs(1);

type Owned = (ContractAddress, Arc<ContractHandle>);

/// Compares when it is due or requested, until the process drains.
pub(crate) async fn run(worker: Arc<Worker>) {
    let mut pause = COMPARE;
    loop {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = worker.comparison.notified() => {}
            () = worker.life.draining() => return,
        }
        let comparing = async {
            worker.fence.opened().await;
            compare_all(&worker).await
        };
        let compared = tokio::select! {
            compared = comparing => compared,
            () = worker.life.draining() => return,
        };
        pause = COMPARE;
        if let Err(error) = compared {
            tracing::debug!(%error, "contracts not compared with the registry yet");
            pause = RETRY;
        }
    }
}

/// Compares every contract of this worker once, and has its readers inspect what was delivered to
/// it: Redis may have delivered entries that never arrived.
async fn compare_all(worker: &Arc<Worker>) -> Result<(), QueueError> {
    worker.catch_up.request();
    let in_service = |(_, contract): &Owned| contract.tenure.is_in_service();
    let contracts: Vec<Owned> = worker
        .contracts
        .all()
        .into_iter()
        .filter(in_service)
        .collect();
    for page in contracts.chunks(PAGE) {
        compare_page(worker, page).await?;
    }
    release_unknown(worker).await
}

async fn compare_page(worker: &Arc<Worker>, page: &[Owned]) -> Result<(), QueueError> {
    let queue = &worker.queue;
    let addresses: Vec<_> = page.iter().map(|(address, _)| address.clone()).collect();
    let found = queue.ownerships(&addresses).await?;
    let references: Vec<_> = page
        .iter()
        .map(|(_, contract)| (contract.spec.digest.as_str(), contract.tenure.reference()))
        .collect();
    let are_kept = queue.are_blobs_kept(&references).await?;
    let digests: Vec<_> = references.iter().map(|(digest, _)| *digest).collect();
    let listed = queue.enlist_missing(&addresses, &digests).await?;
    worker.metrics.repairs.listed.increment(listed);
    let different =
        page.iter()
            .zip(found.iter().zip(are_kept))
            .filter(|((_, contract), (found, is_kept))| {
                let tenure = &contract.tenure;
                !is_kept
                    || tenure.worker() != worker.id()
                    || tenure.compare_with(found) != Comparison::Equal
            });
    let repairs = different.map(|((address, contract), _)| Ok((address, contract)));
    futures::stream::iter(repairs)
        .try_for_each_concurrent(CONCURRENT_REPAIRS, |(address, contract)| {
            repair(worker, address, contract)
        })
        .await
}

/// Repairs one contract whose record differs, or seemed to: it is read again, while nothing else
/// changes it here.
async fn repair(
    worker: &Arc<Worker>,
    address: &ContractAddress,
    contract: &Arc<ContractHandle>,
) -> Result<(), QueueError> {
    // A load or an unload that is in progress decides itself.
    let Some(_lock) = worker.contracts.try_lock(address) else {
        return Ok(());
    };
    if !worker.contracts.is_current(address, &contract.status) {
        return Ok(());
    }
    let id = worker.id();
    if contract.tenure.worker() != id {
        return resume(worker, id, (address, contract), false).await;
    }
    match contract.tenure.compare().await? {
        Comparison::Equal => {}
        Comparison::Older => {
            if restore(id, contract).await? {
                tracing::warn!(contract = %address, "contract record restored");
                worker.metrics.repairs.restored.increment(1);
            } else {
                close_elsewhere(worker, address, contract);
                return Ok(());
            }
        }
        Comparison::Newer => {
            close_elsewhere(worker, address, contract);
            return Ok(());
        }
    }
    keep_executable(worker, contract).await
}

/// Keeps the contracts that no other worker has taken, now that this worker has the id `id`, and
/// closes the others. Can be repeated after a failure.
pub(crate) async fn resume_all(
    worker: &Arc<Worker>,
    id: WorkerId,
    lost_data: bool,
) -> Result<(), QueueError> {
    let in_service = |(_, contract): &Owned| contract.tenure.is_in_service();
    let contracts = worker.contracts.all().into_iter().filter(in_service);
    futures::stream::iter(contracts.map(Ok))
        .try_for_each_concurrent(CONCURRENT_REPAIRS, |(address, contract)| async move {
            let resumed = resume(worker, id, (&address, &contract), lost_data).await;
            if let (true, Err(error)) = (worker.queue.is_cluster(), &resumed) {
                // The server with its record may be away. Until the comparison resumes it, no api
                // sends calls of it to this worker.
                tracing::debug!(contract = %address, %error, "contract not resumed yet");
                return Ok(());
            }
            resumed
        })
        .await
}

async fn resume(
    worker: &Arc<Worker>,
    id: WorkerId,
    (address, contract): (&ContractAddress, &Arc<ContractHandle>),
    lost_data: bool,
) -> Result<(), QueueError> {
    if let Outcome::Refused(found) = contract.tenure.resume(id).await? {
        let may_restore = lost_data || found.generation > 0 || may_be_lost(worker, contract);
        if !may_restore || !restore(id, contract).await? {
            close_elsewhere(worker, address, contract);
            return Ok(());
        }
        worker.metrics.repairs.restored.increment(1);
    }
    if lost_data {
        keep_executable(worker, contract).await?;
    }
    Ok(())
}

/// Whether Redis may have lost a contract of which there is no trace.
///
/// Nobody has unloaded it while this worker owned it. Had somebody done it since, it would have
/// left a trace for [`PAST`]. So if that is not over, a server of Redis has lost its data.
fn may_be_lost(worker: &Worker, contract: &ContractHandle) -> bool {
    let owned = worker.identity.owned_until(contract.tenure.worker());
    owned.is_some_and(|moment| Moment::now() - moment < PAST / 2)
}

/// Writes a contract's record back. False if the contract is not this worker's any more.
async fn restore(id: WorkerId, contract: &ContractHandle) -> Result<bool, QueueError> {
    let sandbox = contract.status.sandbox().record();
    let outcome = contract.tenure.restore(id, &contract.spec, sandbox).await?;
    Ok(outcome.done().is_some())
}

/// Keeps the executable for the contract's load. Stores it again if Redis does not have it (any
/// more).
async fn keep_executable(worker: &Worker, contract: &ContractHandle) -> Result<(), QueueError> {
    let (queue, digest) = (&worker.queue, &contract.spec.digest);
    if let Some(executable) = contract.executable()
        && executables::keep(queue, digest, executable, &contract.tenure.reference()).await?
    {
        worker.metrics.repairs.executables.increment(1);
    }
    Ok(())
}

/// Releases the contracts that the registry assigns to this worker, and that it does not have.
async fn release_unknown(worker: &Arc<Worker>) -> Result<(), QueueError> {
    let id = worker.id();
    let listed = worker.queue.owned_by(id).await?;
    let known: HashSet<_> = worker.contracts.all().into_iter().map(|(a, _)| a).collect();
    for address in listed.iter().filter(|address| !known.contains(address)) {
        // A load that is in progress holds the lock, and decides itself.
        let Some(_lock) = worker.contracts.try_lock(address) else {
            continue;
        };
        if worker.contracts.get(address).is_some() {
            continue;
        }
        if Tenure::release_unknown(worker, address).await? {
            tracing::warn!(contract = %address, "stale registry assignment removed");
            worker.metrics.repairs.released.increment(1);
        } else {
            worker.queue.remove_owned(address, id).await?;
        }
    }
    Ok(())
}

/// Closes, in the background, a contract that is not this worker's any more.
fn close_elsewhere(
    worker: &Arc<Worker>,
    address: &ContractAddress,
    contract: &Arc<ContractHandle>,
) {
    worker.metrics.repairs.closed.increment(1);
    let (worker, address, contract) = (worker.clone(), address.clone(), contract.clone());
    worker
        .life
        .clone()
        .spawn("close lost contract", async move {
            close(&worker, &address, &contract).await;
        });
}

/// Closes a contract that is not this worker's any more: another worker owns it, or it was
/// unloaded. Its capacity is free when its sandbox is closed.
pub(crate) async fn close(worker: &Worker, address: &ContractAddress, contract: &ContractHandle) {
    tracing::warn!(contract = %address, "contract reassigned to another worker");
    let permit = worker
        .contracts
        .remove_if_current(address, &contract.status);
    contract.stop(FailureCode::NotHosted).await;
    drop(permit);
    worker.announce().await;
}

#[cfg(test)]
mod tests;
