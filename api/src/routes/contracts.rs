//! `GET /contracts` and `GET /contracts/{contractAddress}`: the loaded contracts and their status.
//!
//! The status comes from the owning workers. For a contract that no worker reports, it is built
//! from the contract's record in Redis.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use shared::protocol::id::ContractAddress;
use shared::protocol::reply::{ContractState, ContractStatus};
use shared::queue::contracts::{ContractRecord, Route};

use crate::error::ApiError;
use crate::openapi::failures::{ContractFailures, ListFailures};
use crate::routes::{address, path};
use crate::state::AppState;

/// List the loaded contracts and their status
#[utoipa::path(
    get,
    path = "/contracts",
    tag = "Contracts",
    operation_id = "listContracts",
    responses((status = 200, body = Vec<ContractStatus>), ListFailures),
)]
pub(crate) async fn list(
    State(state): State<AppState>,
) -> Result<Json<Vec<ContractStatus>>, ApiError> {
    let workers = state.queue.workers().await?;
    let reported = state
        .dispatcher
        .inspect(workers.into_iter().map(|(id, _)| id), None)
        .await;
    let mut contracts: BTreeMap<_, _> = reported
        .into_iter()
        .map(|status| (status.contract_address.clone(), status))
        .collect();
    for address in state.queue.loaded().await? {
        if !contracts.contains_key(&address)
            && let Some(record) = state.queue.contract(&address).await?
        {
            contracts.insert(address.clone(), unassigned(&state, address, record));
        }
    }
    let mut merged: BTreeMap<_, ContractStatus> = BTreeMap::new();
    for (address, status) in contracts {
        // A contract sorts before its replicas.
        match merged.entry(address.replica(1)) {
            Entry::Vacant(entry) => {
                entry.insert(status);
            }
            Entry::Occupied(mut contract) => merge(contract.get_mut(), status),
        }
    }
    Ok(Json(merged.into_values().collect()))
}

/// Adds a replica's status to its contract's.
fn merge(contract: &mut ContractStatus, replica: ContractStatus) {
    contract.host = contract.host.take().or(replica.host);
    contract.hosts.extend(replica.hosts);
    contract.queue_depth += replica.queue_depth;
    contract.calls += replica.calls;
    contract.errors += replica.errors;
}

/// Show the status of a contract
#[utoipa::path(
    get,
    path = "/contracts/{contractAddress}",
    tag = "Contracts",
    operation_id = "showContract",
    params(
        ("contractAddress" = String, Path, pattern = "^[A-Za-z0-9._:-]{1,128}$", example = "abcd"),
    ),
    responses((status = 200, body = ContractStatus), ContractFailures),
)]
pub(crate) async fn show(
    State(state): State<AppState>,
    parts: Result<Path<String>, PathRejection>,
) -> Result<Json<ContractStatus>, ApiError> {
    let contract = address(&path(parts)?)?;
    let Some(mut status) = status(&state, &contract).await? else {
        return Err(ApiError::ContractNotLoaded);
    };
    let replicas = (2..=status.replicas).map(|number| contract.replica(number));
    let replicas = replicas.map(async |replica| self::status(&state, &replica).await);
    let replicas = futures::future::try_join_all(replicas).await?;
    for replica in replicas.into_iter().flatten() {
        merge(&mut status, replica);
    }
    Ok(Json(status))
}

/// The status of a contract or a replica; `None` if it is not loaded.
async fn status(
    state: &AppState,
    address: &ContractAddress,
) -> Result<Option<ContractStatus>, ApiError> {
    let record = match state.queue.route(address).await? {
        Route::NotLoaded => return Ok(None),
        Route::Unassigned(record) | Route::Quarantined(record) => record,
        Route::Assigned(worker, record) => {
            let reported = state.dispatcher.inspect([worker], Some(address)).await;
            if let Some(status) = reported.into_iter().next() {
                return Ok(Some(status));
            }
            record
        }
    };
    Ok(Some(unassigned(state, address.clone(), record)))
}

/// The status of a contract that no worker reports, from its record.
fn unassigned(
    state: &AppState,
    contract_address: ContractAddress,
    record: ContractRecord,
) -> ContractStatus {
    let quarantined = record.quarantined_until > state.queue.clock().now_ms();
    ContractStatus {
        contract_address,
        engine: record.spec.engine,
        state: if quarantined {
            ContractState::Quarantined
        } else {
            ContractState::Unplaced
        },
        endpoints: record.endpoints,
        host: None,
        replicas: record.spec.replicas,
        hosts: Vec::new(),
        generation: record.generation,
        digest: record.spec.digest,
        image: record.image,
        queue_depth: 0,
        calls: 0,
        errors: 0,
    }
}
