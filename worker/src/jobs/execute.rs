//! Brings a call into its contract's queue.

use std::sync::Arc;

use serde_json::value::RawValue;
use shared::protocol::id::ContractAddress;
use shared::protocol::job::{Argument, Execute};
use shared::protocol::reply::{Failure, FailureCode};

use crate::Worker;
use crate::contracts::Call;
use crate::settle::Delivery;

pub(crate) fn enqueue(worker: &Arc<Worker>, execute: Execute, delivery: Delivery) {
    let Execute {
        address,
        method,
        argument,
    } = execute;
    match argument {
        Argument::None => hand_in(worker, &address, method, None, delivery),
        Argument::Json(json) => hand_in(worker, &address, method, Some(json), delivery),
        Argument::Stored(name) => {
            let worker = worker.clone();
            worker.life.clone().spawn("argument", async move {
                match fetch(&worker, &name).await {
                    Ok(json) => hand_in(&worker, &address, method, Some(json), delivery),
                    Err(failure) => delivery.refuse(failure),
                }
            });
        }
    }
}

fn hand_in(
    worker: &Arc<Worker>,
    address: &ContractAddress,
    method: String,
    argument: Option<Box<RawValue>>,
    delivery: Delivery,
) {
    let Some(host) = worker.contracts.get(address) else {
        delivery.refuse(not_hosted());
        return amend(worker, address);
    };
    host.call(Call {
        method,
        argument,
        delivery,
        losses: 0,
    });
}

/// Whoever sent the call takes this worker for the contract's host. Should the registry say so, too,
/// that is mended: a claim whose answer was lost, or that could not be taken back.
fn amend(worker: &Arc<Worker>, address: &ContractAddress) {
    let Some(amendment) = worker.contracts.amend(address) else {
        return;
    };
    let (worker, address) = (worker.clone(), address.clone());
    worker.life.clone().spawn("amend", async move {
        let _turn = worker.contracts.turn(&address).await;
        if worker.contracts.get(&address).is_none() {
            match worker.queue.release(&address, worker.id).await {
                Ok(true) => {
                    tracing::warn!(contract = %address, "the registry took it to be hosted here");
                }
                Ok(false) => {}
                Err(error) => {
                    tracing::debug!(contract = %address, %error, "cannot mend the registry");
                }
            }
        }
        drop(amendment);
    });
}

/// The worker does not have the contract: the caller's route is old.
pub(crate) fn not_hosted() -> Failure {
    Failure::not_started(FailureCode::NotHosted, "The contract is not hosted here")
}

/// Reads an argument that was too large for a frame.
async fn fetch(worker: &Worker, name: &str) -> Result<Box<RawValue>, Failure> {
    let expired = |message: &str| Failure::not_started(FailureCode::Expired, message);
    match worker.queue.fetch_body(name).await {
        Ok(Some(text)) => {
            RawValue::from_string(text).map_err(|_| expired("The stored argument is damaged"))
        }
        Ok(None) => Err(expired("The stored argument has expired")),
        Err(error) => {
            tracing::warn!(%error, "cannot fetch an argument");
            Err(expired("The stored argument cannot be read"))
        }
    }
}
