//! `/tenants`: what each tenant may use. Only for keys of the default tenant. A tenant needs not be
//! created: it exists while it has keys, contracts or limits.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::{Extension, Json};
use http::{HeaderMap, StatusCode};
use serde::Serialize;
use shared::protocol::tenant::{InvalidTenant, Tenant};
use shared::queue::tenants::TenantLimits;
use utoipa::ToSchema;

use crate::access::By;
use crate::admission::RequestKind;
use crate::audit::Action;
use crate::body::read_body;
use crate::edge::Connection;
use crate::error::ApiError;
use crate::openapi::failures::{LimitTenantFailures, TenantFailures, TenantListFailures};
use crate::routes::{ID, json, path};
use crate::state::AppState;

/// The limits of a tenant.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Tenant)]
pub(crate) struct TenantStatus {
    #[schema(value_type = String, examples("acme"))]
    id: Tenant,
    limits: TenantLimits,
}

/// List the tenants that have limits
#[utoipa::path(
    get,
    path = "/tenants",
    tag = "Tenants",
    operation_id = "listTenants",
    responses((status = 200, body = Vec<TenantStatus>), TenantListFailures),
)]
pub(crate) async fn list(
    State(state): State<AppState>,
) -> Result<Json<Vec<TenantStatus>>, ApiError> {
    let all = state.tenants.all().await?.into_iter();
    let mut all: Vec<_> = all
        .map(|(id, limits)| TenantStatus { id, limits })
        .collect();
    all.sort_unstable_by(|one, other| one.id.cmp(&other.id));
    Ok(Json(all))
}

/// Show the limits of a tenant
#[utoipa::path(
    get,
    path = "/tenants/{id}",
    tag = "Tenants",
    operation_id = "showTenant",
    params(("id" = String, Path, description = "The tenant's name", example = "acme")),
    responses((status = 200, body = TenantStatus), TenantFailures),
)]
pub(crate) async fn show(
    State(state): State<AppState>,
    parts: Result<Path<String>, PathRejection>,
) -> Result<Json<TenantStatus>, ApiError> {
    let id = tenant(parts)?;
    let limits = state.tenants.all().await?.remove(&id);
    let limits = limits.ok_or(ApiError::TenantNotFound)?;
    Ok(Json(TenantStatus { id, limits }))
}

/// Set what a tenant may use
///
/// Replaces all its limits; what is missing is not limited. Every api applies them within 2 s.
#[utoipa::path(
    put,
    path = "/tenants/{id}",
    tag = "Tenants",
    operation_id = "limitTenant",
    params(("id" = String, Path, description = "The tenant's name, or `default`", example = "acme")),
    request_body(content = TenantLimits, example = json!({ "callsPerSecond": 100, "contracts": 50 })),
    responses((status = 204, description = "The limits are stored"), LimitTenantFailures),
)]
pub(crate) async fn limit(
    State(state): State<AppState>,
    Extension(connection): Extension<Arc<Connection>>,
    By(caller): By,
    parts: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
    body: Body,
) -> Result<StatusCode, ApiError> {
    let id = tenant(parts)?;
    state.admission.check(RequestKind::Load)?;
    let received = read_body(&headers, body, &state.call_bodies, &connection).await?;
    let limits: TenantLimits = json(&received.bytes)?;
    drop(received);
    check(&limits)?;
    let _permit = state.admission.admit(RequestKind::Load)?;
    let stored = state.queue.set_tenant_limits(&id, &limits).await;
    let stored = match stored.map_err(ApiError::write_failed) {
        Ok(true) => Ok(StatusCode::NO_CONTENT),
        Ok(false) => Err(ApiError::TooManyTenants),
        Err(error) => Err(error),
    };
    let action = Action::LimitTenant;
    let stored = state
        .audit
        .record(&caller, action, id.as_str(), None, stored)?;
    // From now on this api applies them.
    _ = state.tenants.all().await;
    Ok(stored)
}

/// Remove the limits of a tenant
#[utoipa::path(
    delete,
    path = "/tenants/{id}",
    tag = "Tenants",
    operation_id = "unlimitTenant",
    params(("id" = String, Path, description = "As in `GET /tenants`", example = "acme")),
    responses((status = 204, description = "The tenant is not limited any more"), TenantFailures),
)]
pub(crate) async fn unlimit(
    State(state): State<AppState>,
    By(caller): By,
    parts: Result<Path<String>, PathRejection>,
) -> Result<StatusCode, ApiError> {
    let id = tenant(parts)?;
    let removed = state.queue.remove_tenant_limits(&id).await;
    let removed = match removed.map_err(ApiError::write_failed) {
        Ok(true) => Ok(StatusCode::NO_CONTENT),
        Ok(false) => Err(ApiError::TenantNotFound),
        Err(error) => Err(error),
    };
    let action = Action::UnlimitTenant;
    let removed = state
        .audit
        .record(&caller, action, id.as_str(), None, removed)?;
    _ = state.tenants.all().await;
    Ok(removed)
}

fn tenant(parts: Result<Path<String>, PathRejection>) -> Result<Tenant, ApiError> {
    let tenant = path::<String>(parts)?.parse();
    tenant.map_err(|why: InvalidTenant| ApiError::field(ID, why.to_string()))
}

fn check(limits: &TenantLimits) -> Result<(), ApiError> {
    match limits.invalid() {
        Some((name, most)) => Err(ApiError::field(name, format!("must be 1 to {most}"))),
        None => Ok(()),
    }
}
