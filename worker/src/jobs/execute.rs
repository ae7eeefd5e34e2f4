//! Puts a call into its contract's queue.

use std::sync::Arc;

use shared::protocol::id::ContractAddress;
use shared::protocol::job::{Argument, Execute, MAX_LINES};
use shared::protocol::reply::{Failure, FailureCode};

use crate::contracts::{Call, Tenure};
use crate::settle::Delivery;
use crate::worker::Worker;

pub(crate) fn enqueue(worker: &Arc<Worker>, execute: Execute, delivery: Delivery) {
    let Execute {
        address,
        method,
        argument,
        schemas,
        logs,
    } = execute;
    let Some(contract) = worker.contracts.get(&address) else {
        delivery.refuse(not_assigned());
        return repair_registry(worker, &address);
    };
    let (argument, stored) = match argument {
        Argument::None => (None, None),
        Argument::Json(json) => (Some(json), None),
        Argument::Stored(name) => (None, Some(name)),
    };
    contract.call(Call {
        method,
        argument,
        schemas,
        logs: logs.map_or(0, |lines| lines.min(MAX_LINES)),
        stored,
        delivery,
        losses: 0,
    });
}

/// Releases a contract that the registry assigns to this worker by mistake.
///
/// The api that sent the call considers this worker the owner. If the registry agrees, a claim's
/// reply was lost, or a claim could not be withdrawn.
fn repair_registry(worker: &Arc<Worker>, address: &ContractAddress) {
    let Some(repair) = worker.contracts.begin_repair(address) else {
        return;
    };
    let (worker, address) = (worker.clone(), address.clone());
    worker.life.clone().spawn("registry repair", async move {
        let _lock = worker.contracts.lock(&address).await;
        if worker.contracts.get(&address).is_none() {
            match Tenure::release_unknown(&worker, &address).await {
                Ok(true) => {
                    worker.metrics.repairs.released.increment(1);
                    tracing::warn!(contract = %address, "stale registry assignment removed");
                }
                Ok(false) => {}
                Err(error) => {
                    tracing::debug!(contract = %address, %error, "registry repair failed");
                }
            }
        }
        drop(repair);
    });
}

/// The failure of a job whose sender used an outdated route: this worker does not own the contract.
pub(crate) fn not_assigned() -> Failure {
    let message = "The contract is not assigned to this worker; try again";
    Failure::not_started(FailureCode::NotHosted, message)
}
