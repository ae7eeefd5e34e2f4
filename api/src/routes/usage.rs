//! `GET /usage`: what a tenant uses, in all and by caller and by contract.

use std::cmp::Reverse;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use serde::{Deserialize, Serialize};
use shared::protocol::tenant::Tenant;
use shared::queue::tenants::TenantLimits;
use shared::queue::usage::{DAYS_KEPT, TenantUsage, Usage, UsedBy};
use utoipa::ToSchema;

use crate::access::By;
use crate::error::ApiError;
use crate::openapi::failures::UsageFailures;
use crate::routes::pages::{self, PageQuery};
use crate::state::AppState;

/// Whose use is asked for, and of how many days.
#[derive(Debug, Deserialize)]
pub(crate) struct UsageQuery {
    #[serde(flatten)]
    page: PageQuery,
    days: Option<String>,
}

/// What a tenant uses.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Usage)]
pub(crate) struct UsageStatus {
    #[schema(value_type = String, examples("default"))]
    tenant: Tenant,
    /// When the first of the days began (UTC), in milliseconds since the epoch.
    since: u64,
    /// Since then, by all callers together.
    #[serde(flatten)]
    all: Figures,
    /// What it may use.
    limits: TenantLimits,
    /// How many contracts are loaded now, replicas included.
    loaded_contracts: usize,
    /// How many bytes their executables have.
    executable_bytes: u64,
    /// By caller: those with the most processor time, then with the most calls.
    callers: Vec<CallerUsage>,
    /// By contract, in the same order. Those that are not loaded any more are among them.
    contracts: Vec<ContractUsage>,
}

/// What was used.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Figures {
    /// Calls that a contract answered.
    calls: u64,
    /// Those of them that failed.
    errors: u64,
    /// Their processor time in milliseconds.
    cpu_ms: u64,
}

/// What a caller used.
#[derive(Debug, Serialize, ToSchema)]
struct CallerUsage {
    /// `key:ID`, `token:SUBJECT`, or `others`: those that came after about 2,000 callers and
    /// contracts of a day.
    caller: String,
    #[serde(flatten)]
    used: Figures,
}

/// What the calls of a contract used.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct ContractUsage {
    /// Or `others`, as for callers.
    contract_address: String,
    #[serde(flatten)]
    used: Figures,
}

impl From<Usage> for Figures {
    fn from(usage: Usage) -> Self {
        Self {
            calls: usage.calls,
            errors: usage.errors,
            cpu_ms: usage.cpu_us / 1000,
        }
    }
}

impl UsageQuery {
    fn days(&self) -> Result<u64, ApiError> {
        let Some(text) = &self.days else { return Ok(1) };
        let days = text.parse().ok();
        let days = days.filter(|days| (1..=DAYS_KEPT).contains(days));
        days.ok_or_else(|| ApiError::field("days", format!("must be 1 to {DAYS_KEPT}")))
    }
}

/// Show what the caller's tenant uses
///
/// Calls of the last 5 s may be missing. Without keys (`AUTH=off`) nothing is counted.
#[utoipa::path(
    get,
    path = "/usage",
    tag = "Tenants",
    operation_id = "showUsage",
    params(
        ("days" = Option<u32>, Query, description = "Today and how many days before it; 1, only \
            today, by default", minimum = 1, maximum = 31),
        ("limit" = Option<u32>, Query, description = "How many callers and how many contracts to \
            list; 100 by default", minimum = 1, maximum = 1000),
        ("tenant" = Option<String>, Query, description = "Whose, if another tenant's. Only for keys \
            of the default tenant with `farm:operate`", pattern = "^[a-z0-9._-]{1,64}$"),
    ),
    responses((status = 200, body = UsageStatus), UsageFailures),
)]
pub(crate) async fn show(
    State(state): State<AppState>,
    By(caller): By,
    asked: Result<Query<UsageQuery>, QueryRejection>,
) -> Result<Json<UsageStatus>, ApiError> {
    let query = pages::query(asked)?;
    let (days, limit) = (query.days()?, query.page.limit()?);
    let view = caller.view(query.page.tenant.as_deref())?;
    let tenant = view.one_tenant()?;
    let (since, usage) = state.queue.usage(tenant, days).await?;
    let holdings = state.queue.holdings(tenant).await?;
    let firsts = holdings
        .iter()
        .filter(|(address, _)| address.replica_number() == 1);
    let callers = highest(&usage, UsedBy::Caller, limit).into_iter();
    let contracts = highest(&usage, UsedBy::Contract, limit).into_iter();
    Ok(Json(UsageStatus {
        tenant: tenant.clone(),
        since,
        all: usage.all.into(),
        limits: state.tenants.limits(tenant).unwrap_or_default(),
        loaded_contracts: holdings.len(),
        executable_bytes: firsts.map(|(_, bytes)| bytes).sum(),
        callers: callers
            .map(|(caller, used)| CallerUsage { caller, used })
            .collect(),
        contracts: contracts
            .map(|(contract_address, used)| ContractUsage {
                contract_address,
                used,
            })
            .collect(),
    }))
}

/// The callers or contracts that used the most.
fn highest(usage: &TenantUsage, kind: UsedBy, limit: usize) -> Vec<(String, Figures)> {
    let parts = usage.parts.iter().filter(|((by, _), _)| *by == kind);
    let mut parts: Vec<_> = parts
        .map(|((_, name), used)| (name.clone(), *used))
        .collect();
    parts.sort_by_key(|(_, used)| Reverse((used.cpu_us, used.calls)));
    parts.truncate(limit);
    parts
        .into_iter()
        .map(|(name, used)| (name, used.into()))
        .collect()
}
