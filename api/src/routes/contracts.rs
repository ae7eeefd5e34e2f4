//! `GET /contracts` and `GET /contracts/{contractAddress}`: the loaded contracts and their status.
//!
//! The list is read from the registry in Redis, whatever its length. Only for one contract the
//! owning worker is asked: it knows the calls, and whether the sandbox is being replaced.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use serde::Deserialize;
use shared::protocol::id::{ContractAddress, WorkerId};
use shared::protocol::job::KeptLogs;
use shared::protocol::rank::{Rank, Top};
use shared::protocol::reply::{ContractState, ContractStatus, LastError, Stack};
use shared::queue::contracts::{ContractRecord, Route};
use shared::queue::listing::ListedContract;

use crate::access::{By, Permission, View};
use crate::error::ApiError;
use crate::openapi::failures::{ContractFailures, ContractListFailures};
use crate::routes::pages::{self, MAX_LIMIT, NextPage, PageQuery, next_page};
use crate::routes::path;
use crate::state::AppState;

/// Which part of the list is asked for.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct ListQuery {
    #[serde(flatten)]
    page: PageQuery,
    sort: Option<String>,
}

impl ListQuery {
    fn sort(&self) -> Result<Option<Rank>, ApiError> {
        let Some(text) = &self.sort else {
            return Ok(None);
        };
        if self.page.after.is_some() {
            return Err(ApiError::field("after", "cannot be used with sort"));
        }
        let rank = text.parse();
        rank.map(Some)
            .map_err(|reason: String| ApiError::field("sort", reason))
    }
}

/// Whose contract is asked for.
#[derive(Debug, Deserialize)]
pub(crate) struct ShowQuery {
    tenant: Option<String>,
}

/// List the loaded contracts, the one with the oldest load first
///
/// With `sort`, the contracts with the highest figure since their owners have them; the owners are
/// asked. Otherwise a page at a time: if there are more contracts, the header `Link` has the
/// address of the next page. The list is read from the registry; `queueDepth`, `calls` and
/// `errors`, and whether a contract is being restarted, are only in
/// `GET /contracts/{contractAddress}`.
#[utoipa::path(
    get,
    path = "/contracts",
    tag = "Contracts",
    operation_id = "listContracts",
    params(
        ("limit" = Option<u32>, Query, description = "How many contracts to list; 100 by default",
            minimum = 1, maximum = 1000),
        ("after" = Option<String>, Query, description = "Where the page begins, as in the header \
            `Link` of the page before", pattern = "^[0-9]{1,15}-[A-Za-z0-9._:-]{1,128}$"),
        ("sort" = Option<String>, Query, pattern = "^(losses|calls|errors|queueDepth|ranMs)$", description = "List only the first contracts by this figure, \
            the highest first, as their owners report them; not with `after`"),
        ("tenant" = Option<String>, Query, description = "Whose contracts: another tenant, or `*` \
            for all. Only for keys of the default tenant with `farm:operate`",
            pattern = "^([a-z0-9._-]{1,64}|[*])$"),
    ),
    responses(
        (status = 200, body = Vec<ContractStatus>, headers(
            ("Link" = String, description = "The next page: `</contracts?limit=...&after=...>; \
                rel=\"next\"`. Missing on the last page"),
        )),
        ContractListFailures,
    ),
)]
pub(crate) async fn list(
    State(state): State<AppState>,
    By(caller): By,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<(NextPage, Json<Vec<ContractStatus>>), ApiError> {
    let query = pages::query(query)?;
    let view = caller.view(query.page.tenant.as_deref())?;
    let limit = query.page.limit()?;
    let after = query.page.after.as_ref();
    let after = after.map(|text| view.position(text)).transpose()?;
    if let Some(by) = query.sort()? {
        return Ok((None, Json(ranked(&state, &view, by, limit).await?)));
    }
    let page = state
        .queue
        .list_visible_contracts(after.as_ref(), limit, |address| view.sees(address))
        .await?;
    let next = page.next.map(|position| {
        let after = position.to_text(view.tenant());
        view.link("/contracts", limit, after)
    });
    let now = state.queue.clock().now_ms();
    let lives = |worker: WorkerId| page.living.contains(&worker);
    let statuses = page
        .contracts
        .into_iter()
        .map(|contract| view.status(listed(contract, now, lives)))
        .collect();
    Ok((next_page(next), Json(statuses)))
}

/// The first contracts of a ranking that the caller may see, from the workers that own them.
async fn ranked(
    state: &AppState,
    view: &View<'_>,
    by: Rank,
    limit: usize,
) -> Result<Vec<ContractStatus>, ApiError> {
    let workers = state.queue.workers().await?;
    let workers = workers.into_iter().map(|(id, _)| id);
    // The workers do not know which ones the caller may see.
    let count = MAX_LIMIT;
    let mut merged = BTreeMap::<ContractAddress, ContractStatus>::new();
    for mut status in state.dispatcher.top(workers, Top { by, count }).await {
        status.contract_address = status.contract_address.replica(1);
        if !view.sees(&status.contract_address) {
            continue;
        }
        match merged.entry(status.contract_address.clone()) {
            Entry::Vacant(place) => {
                place.insert(status);
            }
            Entry::Occupied(mut place) => merge(place.get_mut(), status),
        }
    }
    let mut contracts: Vec<_> = merged.into_values().collect();
    by.keep_first(&mut contracts, limit);
    let shown = contracts.into_iter().map(|status| view.status(status));
    Ok(shown.collect())
}

/// The status of a contract and its replicas, from their records.
fn listed(contract: ListedContract, now: u64, lives: impl Fn(WorkerId) -> bool) -> ContractStatus {
    let ListedContract {
        address,
        record,
        replicas,
    } = contract;
    let mut status = recorded(address.clone(), record, now, &lives);
    for replica in replicas {
        merge(&mut status, recorded(address.clone(), replica, now, &lives));
    }
    status
}

/// Adds a replica's status to its contract's.
fn merge(contract: &mut ContractStatus, replica: ContractStatus) {
    let add = |one: Option<u64>, other: Option<u64>| Some(one? + other?);
    contract.host = contract.host.take().or(replica.host);
    contract.hosts.extend(replica.hosts);
    contract.queue_depth = add(contract.queue_depth, replica.queue_depth);
    contract.calls = add(contract.calls, replica.calls);
    contract.errors = add(contract.errors, replica.errors);
    contract.ran_ms = add(contract.ran_ms, replica.ran_ms);
    contract.cpu_ms = add(contract.cpu_ms, replica.cpu_ms);
    contract.losses = add(contract.losses, replica.losses);
    contract.memory_bytes = add(contract.memory_bytes, replica.memory_bytes);
    let at = |error: &Option<LastError>| error.as_ref().map(|error| error.at);
    if at(&replica.last_error) > at(&contract.last_error) {
        contract.last_error = replica.last_error;
    }
}

/// Show the status of a contract
#[utoipa::path(
    get,
    path = "/contracts/{contractAddress}",
    tag = "Contracts",
    operation_id = "showContract",
    params(
        ("contractAddress" = String, Path, pattern = "^[A-Za-z0-9._:-]{1,128}$", example = "abcd"),
        ("tenant" = Option<String>, Query, description = "Whose contract, if another tenant's. Only \
            for keys of the default tenant with `farm:operate`", pattern = "^[a-z0-9._-]{1,64}$"),
    ),
    responses((status = 200, body = ContractStatus), ContractFailures),
)]
pub(crate) async fn show(
    State(state): State<AppState>,
    By(caller): By,
    parts: Result<Path<String>, PathRejection>,
    asked: Result<Query<ShowQuery>, QueryRejection>,
) -> Result<Json<ContractStatus>, ApiError> {
    let view = caller.view(pages::query(asked)?.tenant.as_deref())?;
    let contract = view.contract(Permission::ContractsRead, &path::<String>(parts)?)?;
    let status = whole_status(&state, &contract).await?;
    Ok(Json(view.status(status)))
}

/// The status of a contract with its replicas and its schemas.
pub(super) async fn whole_status(
    state: &AppState,
    contract: &ContractAddress,
) -> Result<ContractStatus, ApiError> {
    let Some(mut status) = status(state, contract).await? else {
        return Err(ApiError::ContractNotLoaded);
    };
    let replicas = (2..=status.replicas).map(|number| contract.replica(number));
    let replicas = replicas.map(async |replica| self::status(state, &replica).await);
    let replicas = futures::future::try_join_all(replicas).await?;
    for replica in replicas.into_iter().flatten() {
        merge(&mut status, replica);
    }
    let schemas = state.queue.schemas(contract).await?;
    if let Some(error) = &mut status.last_error {
        let (entries, source_map) = (std::mem::take(&mut error.stack), error.source_map.take());
        let stack = Stack {
            entries,
            source_map,
        };
        error.stack = state.source_maps.apply(stack).await;
    }
    status.schemas = schemas.and_then(|text| serde_json::from_str(&text).ok());
    Ok(status)
}

/// The status of a contract or a replica; `None` if it is not loaded.
async fn status(
    state: &AppState,
    address: &ContractAddress,
) -> Result<Option<ContractStatus>, ApiError> {
    let now = state.queue.clock().now_ms();
    let record = state.queue.contract(address).await?;
    Ok(match state.queue.route(record).await? {
        Route::NotLoaded => None,
        Route::Unassigned(record) | Route::Quarantined(record) => {
            let status = recorded(address.clone(), record, now, |_| false);
            Some(ContractStatus {
                // No worker has a call of it.
                queue_depth: Some(0),
                calls: Some(0),
                errors: Some(0),
                ran_ms: Some(0),
                cpu_ms: Some(0),
                losses: Some(0),
                ..status
            })
        }
        Route::Assigned(worker, record) => {
            let reported = state.dispatcher.inspect([worker], Some(address)).await;
            let reported = reported.into_iter().next();
            Some(reported.unwrap_or_else(|| recorded(address.clone(), record, now, |_| true)))
        }
    })
}

/// The status of a contract as far as its record tells it.
fn recorded(
    contract_address: ContractAddress,
    record: ContractRecord,
    now: u64,
    lives: impl Fn(WorkerId) -> bool,
) -> ContractStatus {
    let owner = record.owner.filter(|owner| lives(*owner));
    // The owner records them with the first sandbox.
    let is_ready = record.image.is_some() || !record.endpoints.is_empty();
    let state = match owner {
        _ if record.quarantined_until > now => ContractState::Quarantined,
        None if record.image_missing => ContractState::ImageMissing,
        None => ContractState::Unplaced,
        Some(_) if is_ready => ContractState::Ready,
        Some(_) => ContractState::Loading,
    };
    let (image, image_source) = record.image.map(|image| (image.id, image.source)).unzip();
    ContractStatus {
        contract_address,
        tenant: None,
        engine: record.spec.engine,
        state,
        endpoints: record.endpoints,
        host: owner.map(|owner| owner.to_string()),
        replicas: record.spec.replicas,
        hosts: owner.iter().map(ToString::to_string).collect(),
        generation: record.generation,
        digest: record.spec.digest,
        image,
        image_source: image_source.flatten(),
        limits: None,
        logs: record.spec.keep_logs.then_some(KeptLogs::Keep),
        schemas: None,
        queue_depth: None,
        calls: None,
        errors: None,
        ran_ms: None,
        cpu_ms: None,
        losses: None,
        memory_bytes: None,
        last_error: None,
    }
}

#[cfg(test)]
mod tests {
    use shared::protocol::job::{ContractSpec, EngineKind, Limits};

    use super::*;

    #[test]
    fn a_ranking_has_no_pages() {
        let sorted = |sort: &str| ListQuery {
            sort: Some(sort.to_owned()),
            ..ListQuery::default()
        };
        assert_eq!(sorted("losses").sort().unwrap(), Some(Rank::Losses));
        assert!(sorted("name").sort().is_err());
        let mut both = sorted("losses");
        both.page.after = Some("5-abcd".to_owned());
        assert!(both.sort().is_err());
    }

    #[test]
    fn a_listed_state_follows_from_the_record() {
        let worker = WorkerId::random();
        let record = ContractRecord {
            spec: ContractSpec {
                engine: EngineKind::Javascript,
                digest: "ab".to_owned(),
                limits: Limits::default(),
                idempotent: false,
                replicas: 1,
                keep_logs: false,
            },
            generation: 1,
            load: shared::queue::ownership::LoadId::default(),
            owner: Some(worker),
            endpoints: vec!["add".to_owned()],
            quarantined_until: 0,
            image: None,
            image_missing: false,
            schemas: None,
        };
        let state = |record: &ContractRecord, now, lives| {
            let status = recorded("abcd".parse().unwrap(), record.clone(), now, |_| lives);
            assert_eq!(status.host.is_some(), lives && record.owner.is_some());
            status.state
        };
        assert_eq!(state(&record, 5, true), ContractState::Ready);
        assert_eq!(state(&record, 5, false), ContractState::Unplaced);
        let loading = ContractRecord {
            endpoints: Vec::new(),
            ..record.clone()
        };
        assert_eq!(state(&loading, 5, true), ContractState::Loading);
        let without_image = ContractRecord {
            owner: None,
            image_missing: true,
            ..record.clone()
        };
        assert_eq!(state(&without_image, 5, true), ContractState::ImageMissing);
        let quarantined = ContractRecord {
            owner: None,
            quarantined_until: 9,
            ..record
        };
        assert_eq!(state(&quarantined, 5, true), ContractState::Quarantined);
        assert_eq!(state(&quarantined, 9, true), ContractState::Unplaced);
    }
}
