//! Puts a call into its contract's queue.

use std::sync::Arc;

use serde_json::value::RawValue;
use shared::protocol::id::ContractAddress;
use shared::protocol::job::{Argument, Execute};
use shared::protocol::reply::{Failure, FailureCode};
use shared::service::backoff::Backoff;

use crate::contracts::{Call, Tenure};
use crate::settle::Delivery;
use crate::worker::Worker;

pub(crate) fn enqueue(worker: &Arc<Worker>, execute: Execute, delivery: Delivery) {
    let Execute {
        address,
        method,
        argument,
    } = execute;
    match argument {
        Argument::None => queue_call(worker, &address, method, None, delivery),
        Argument::Json(json) => queue_call(worker, &address, method, Some(json), delivery),
        Argument::Stored(name) => {
            let worker = worker.clone();
            worker.life.clone().spawn("argument", async move {
                match fetch(&worker, &name, delivery.deadline).await {
                    Ok(json) => queue_call(&worker, &address, method, Some(json), delivery),
                    Err(failure) => delivery.refuse(failure),
                }
            });
        }
    }
}

fn queue_call(
    worker: &Arc<Worker>,
    address: &ContractAddress,
    method: String,
    argument: Option<Box<RawValue>>,
    delivery: Delivery,
) {
    let Some(contract) = worker.contracts.get(address) else {
        delivery.refuse(not_assigned());
        return repair_registry(worker, address);
    };
    contract.call(Call {
        method,
        argument,
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

/// Reads an argument that was too large for a frame. While Redis fails, it is tried again until the
/// call's deadline.
async fn fetch(worker: &Worker, name: &str, deadline: u64) -> Result<Box<RawValue>, Failure> {
    let failed = |code, message: &str| Failure::not_started(code, message);
    let mut backoff = Backoff::redis();
    let is_late = || worker.queue.clock().until(deadline).is_zero();
    loop {
        match worker.queue.fetch_body(name).await {
            Ok(Some(text)) => {
                let damaged = |_| failed(FailureCode::Rejected, "The stored argument is damaged");
                return RawValue::from_string(text).map_err(damaged);
            }
            _ if is_late() => {
                let message = "The call reached its deadline before its argument was read";
                return Err(failed(FailureCode::Expired, message));
            }
            Ok(None) => {
                let message = "The queue has lost the argument of the call. Try again";
                return Err(failed(FailureCode::ExecutableMissing, message));
            }
            Err(error) => tracing::warn!(%error, "stored argument not fetched yet"),
        }
        tokio::select! {
            () = backoff.wait() => {}
            () = worker.life.stopping() => {
                let message = "The worker stopped before it read the argument of the call";
                return Err(failed(FailureCode::Draining, message));
            }
        }
    }
}
