//! `/keys`: the keys of callers. Whoever manages keys cannot make or revoke one that permits more
//! than their own.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::{Extension, Json};
use http::header::CACHE_CONTROL;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use shared::protocol::quota::Quota;
use shared::protocol::tenant::{InvalidTenant, Tenant};
use shared::queue::key_store::{Added, KEYS_KEPT, KeyRecord};
use utoipa::ToSchema;

use crate::access::{By, Caller, InvalidScope, Key, SCOPES_LENGTH, SCOPES_LIMIT, Scope, Scopes};
use crate::access::{Token, Unknown, first_key};
use crate::admission::RequestKind;
use crate::audit::Action;
use crate::body::{Received, read_body};
use crate::edge::Connection;
use crate::error::ApiError;
use crate::openapi::failures::{CreateKeyFailures, KeyFailures, KeyListFailures};
use crate::routes::pages::{self, NextPage, PageQuery, next_page};
use crate::routes::{json, object, path};
use crate::state::AppState;

/// How many characters a key's name may have.
const NAME_LENGTH: usize = 128;

/// The longest time after which a key expires: ten years, in seconds.
const LONGEST_LIFE: u64 = 10 * 366 * 24 * 3600;

/// How many keys another tenant than the default one may have, those included that were revoked
/// lately: a tenant must not use up the keys of the farm.
const TENANT_KEYS: usize = 1000;

/// The key to create.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = NewKey)]
struct NewKey {
    /// What to call it.
    #[schema(max_length = 128, examples("payments"))]
    #[serde(default)]
    name: String,
    /// Whose contracts it is for. Missing: those of the caller's own tenant.
    #[schema(value_type = Option<String>, pattern = "^[a-z0-9._-]{1,64}$", examples("acme"))]
    #[serde(default)]
    tenant: Option<String>,
    /// What it permits.
    #[schema(min_items = 1, max_items = 32, examples(json!(["contracts:execute:pay-*"])))]
    scopes: Vec<String>,
    /// What its calls may use. Missing: not limited.
    #[serde(default, deserialize_with = "object")]
    limits: Option<Quota>,
    /// After how many seconds it expires. Missing: never.
    #[schema(minimum = 1, maximum = 316_224_000)]
    #[serde(default)]
    expires_in: Option<u64>,
}

/// A key, without its secret.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Key)]
pub(crate) struct KeyStatus {
    id: String,
    name: String,
    /// The tenant that it belongs to.
    #[schema(value_type = String, examples("default"))]
    tenant: Tenant,
    /// What it permits.
    scopes: Vec<String>,
    /// What its calls may use.
    #[serde(skip_serializing_if = "Quota::is_empty")]
    #[schema(required = false)]
    limits: Quota,
    /// `active`, `expired` or `revoked`.
    state: &'static str,
    /// Milliseconds since the epoch, as all times here.
    created: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    expires: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    revoked: Option<u64>,
    /// When it was used last, to the minute. Missing: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    last_used: Option<u64>,
}

/// A new key. The only response that has its secret.
#[derive(Serialize, ToSchema)]
#[schema(as = CreatedKey)]
pub(crate) struct CreatedKey {
    /// To be sent as `Authorization: Bearer KEY`. It is not shown again.
    #[schema(examples("esk_4fzYbJ0sQwXk_..."))]
    key: String,
    #[serde(flatten)]
    status: KeyStatus,
}

impl KeyStatus {
    fn new(id: &str, record: &KeyRecord, last_used: Option<u64>, now: u64) -> Self {
        let is_past = |moment: Option<u64>| moment.is_some_and(|moment| moment <= now);
        Self {
            id: id.to_owned(),
            name: record.name.clone(),
            tenant: record.tenant.clone(),
            scopes: record.scopes.clone(),
            limits: record.quota,
            state: match (record.revoked.is_some(), is_past(record.expires)) {
                (true, _) => "revoked",
                (false, true) => "expired",
                (false, false) => "active",
            },
            created: record.created,
            expires: record.expires,
            revoked: record.revoked,
            last_used,
        }
    }
}

impl NewKey {
    fn scopes(&self) -> Result<Scopes, ApiError> {
        let invalid = |reason: String| ApiError::field("scopes", reason);
        if self.scopes.is_empty() || self.scopes.len() > SCOPES_LIMIT {
            return Err(invalid(format!("must be 1 to {SCOPES_LIMIT} scopes")));
        }
        if self.scopes.iter().map(String::len).sum::<usize>() > SCOPES_LENGTH {
            let reason = format!("must have at most {SCOPES_LENGTH} characters together");
            return Err(invalid(reason));
        }
        let scopes = self.scopes.iter().map(|text| text.parse::<Scope>());
        let scopes: Result<Scopes, InvalidScope> = scopes.collect();
        scopes.map_err(|reason| invalid(format!("are invalid: {reason}")))
    }

    /// The tenant of the key. Who operates the farm makes keys for every tenant.
    fn tenant(&self, caller: &Caller) -> Result<Tenant, ApiError> {
        let Some(text) = &self.tenant else {
            return Ok(caller.tenant.clone());
        };
        let tenant = text.parse();
        let tenant: Tenant =
            tenant.map_err(|why: InvalidTenant| ApiError::field("tenant", why.to_string()))?;
        if caller.sees_of(&tenant) {
            return Ok(tenant);
        }
        Err(ApiError::OfDefaultTenant)
    }

    fn check(&self) -> Result<(), ApiError> {
        if self.name.chars().count() > NAME_LENGTH || self.name.chars().any(char::is_control) {
            let reason = format!("must have at most {NAME_LENGTH} characters");
            return Err(ApiError::field("name", reason));
        }
        let wrong = self.limits.and_then(|limits| limits.invalid());
        if let Some((name, most)) = wrong {
            let reason = format!("{name} must be 1 to {most}");
            return Err(ApiError::field("limits", reason));
        }
        if self
            .expires_in
            .is_some_and(|seconds| !(1..=LONGEST_LIFE).contains(&seconds))
        {
            let reason = format!("must be 1 to {LONGEST_LIFE} seconds");
            return Err(ApiError::field("expiresIn", reason));
        }
        Ok(())
    }
}

/// Create a key
///
/// The response has the key. It is not shown again. To replace a key without an interruption,
/// create another one first: both are valid until one is revoked.
#[utoipa::path(
    post,
    path = "/keys",
    tag = "Keys",
    operation_id = "createKey",
    request_body(content = NewKey, example = json!({ "scopes": ["contracts:execute:pay-*"] })),
    responses((status = 201, description = "The key", body = CreatedKey), CreateKeyFailures),
)]
pub(crate) async fn create(
    State(state): State<AppState>,
    Extension(connection): Extension<Arc<Connection>>,
    By(caller): By,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, [(HeaderName, HeaderValue); 1], Json<CreatedKey>), ApiError> {
    state.admission.check(RequestKind::Load)?;
    let Received { bytes, held } =
        read_body(&headers, body, &state.call_bodies, &connection).await?;
    let wanted: NewKey = json(&bytes)?;
    drop((bytes, held));
    wanted.check()?;
    let scopes = wanted.scopes()?;
    may_manage(&caller, &scopes)?;
    let tenant = wanted.tenant(&caller)?;
    let _permit = state.admission.admit(RequestKind::Load)?;
    has_room(&state, &tenant).await?;
    let token = Token::generate();
    let now = state.queue.clock().now_ms();
    let expires = wanted.expires_in.map(Duration::from_secs);
    let record = KeyRecord {
        tenant,
        quota: wanted.limits.unwrap_or_default(),
        expires: expires.map(|life| state.queue.clock().after(life)),
        ..first_key::record(&token, &wanted.name, &scopes, now)
    };
    let added = state.access.keys.store().add(&token.id, &record).await;
    let added = match added.map_err(ApiError::write_failed) {
        Ok(Added::Stored) => Ok(()),
        Ok(Added::Full) => Err(ApiError::TooManyKeys(KEYS_KEPT)),
        // Ids have 71 random bits, so this one was stored by a command whose answer was lost.
        Ok(Added::IdTaken) => Err(ApiError::Ambiguous),
        Err(error) => Err(error),
    };
    state
        .audit
        .record(&caller, Action::CreateKey, &token.id, None, added)?;
    let created = CreatedKey {
        key: token.text.expose_secret().to_owned(),
        status: KeyStatus::new(&token.id, &record, None, now),
    };
    let no_store = [(CACHE_CONTROL, HeaderValue::from_static("no-store"))];
    Ok((StatusCode::CREATED, no_store, Json(created)))
}

/// List the keys, without their secrets
#[utoipa::path(
    get,
    path = "/keys",
    tag = "Keys",
    operation_id = "listKeys",
    params(
        ("limit" = Option<u32>, Query, description = "How many keys to list; 100 by default",
            minimum = 1, maximum = 1000),
        ("after" = Option<String>, Query, description = "Where the page begins, as in the header \
            `Link` of the page before"),
        ("tenant" = Option<String>, Query, description = "Whose keys: another tenant, or `*` for \
            all. Only for keys of the default tenant with `farm:operate`",
            pattern = "^([a-z0-9._-]{1,64}|[*])$"),
    ),
    responses(
        (status = 200, body = Vec<KeyStatus>, headers(
            ("Link" = String, description = "The next page: `</keys?limit=...&after=...>; \
                rel=\"next\"`. Missing on the last page"),
        )),
        KeyListFailures,
    ),
)]
pub(crate) async fn list(
    State(state): State<AppState>,
    By(caller): By,
    query: Result<Query<PageQuery>, QueryRejection>,
) -> Result<(NextPage, Json<Vec<KeyStatus>>), ApiError> {
    let query = pages::query(query)?;
    let view = caller.view(query.tenant.as_deref())?;
    let limit = query.limit()?;
    let after = query.after.unwrap_or_default();
    let mut keys = all_keys(&state).await?;
    keys.retain(|key| key.id > after && view.includes(&key.record.tenant));
    let has_more = keys.len() > limit;
    keys.truncate(limit);
    let last = keys.last().filter(|_| has_more);
    let next = last.map(|key| view.link("/keys", limit, &key.id));
    Ok((next_page(next), Json(statuses(&state, &keys).await?)))
}

/// Show a key, without its secret
#[utoipa::path(
    get,
    path = "/keys/{id}",
    tag = "Keys",
    operation_id = "showKey",
    params(("id" = String, Path, description = "As in `GET /keys`")),
    responses((status = 200, body = KeyStatus), KeyFailures),
)]
pub(crate) async fn show(
    State(state): State<AppState>,
    By(caller): By,
    parts: Result<Path<String>, PathRejection>,
) -> Result<Json<KeyStatus>, ApiError> {
    let key = find(&state, &caller, &path::<String>(parts)?).await?;
    let status = statuses(&state, &[key]).await?.pop();
    status.map(Json).ok_or(ApiError::KeyNotFound)
}

/// Revoke a key
///
/// Within 5 s no api accepts it any more. It is listed for another 30 days.
#[utoipa::path(
    delete,
    path = "/keys/{id}",
    tag = "Keys",
    operation_id = "revokeKey",
    params(("id" = String, Path, description = "As in `GET /keys`")),
    responses((status = 204, description = "The key is revoked"), KeyFailures),
)]
pub(crate) async fn revoke(
    State(state): State<AppState>,
    By(caller): By,
    parts: Result<Path<String>, PathRejection>,
) -> Result<StatusCode, ApiError> {
    let key = find(&state, &caller, &path::<String>(parts)?).await?;
    may_manage(&caller, &key.caller.scopes)?;
    let revoked = state.access.keys.store().revoke(&key.id).await;
    let revoked = match revoked.map_err(ApiError::write_failed) {
        Ok(true) => Ok(()),
        Ok(false) => Err(ApiError::KeyNotFound),
        Err(error) => Err(error),
    };
    state
        .audit
        .record(&caller, Action::RevokeKey, &key.id, None, revoked)?;
    // From now on this api refuses it.
    _ = state.access.keys.all().await;
    Ok(StatusCode::NO_CONTENT)
}

/// Fails if a key permits more than its manager may do.
fn may_manage(caller: &Caller, scopes: &Scopes) -> Result<(), ApiError> {
    match caller.scopes.missing_for(scopes) {
        Some(missing) => Err(ApiError::InsufficientScope(missing.to_string())),
        None => Ok(()),
    }
}

/// Fails if a tenant has as many keys as it may.
async fn has_room(state: &AppState, tenant: &Tenant) -> Result<(), ApiError> {
    if tenant.is_default() {
        return Ok(());
    }
    let keys = all_keys(state).await?;
    let own = keys.iter().filter(|key| key.record.tenant == *tenant);
    if own.count() < TENANT_KEYS {
        return Ok(());
    }
    Err(ApiError::TooManyKeys(TENANT_KEYS))
}

async fn all_keys(state: &AppState) -> Result<Vec<Arc<Key>>, ApiError> {
    let keys = state.access.keys.all().await;
    keys.map_err(|Unknown| ApiError::queue_unavailable())
}

/// A key that the caller may see.
async fn find(state: &AppState, caller: &Caller, id: &str) -> Result<Arc<Key>, ApiError> {
    let keys = all_keys(state).await?;
    let key = keys
        .into_iter()
        .find(|key| key.id == id && caller.sees_of(&key.record.tenant));
    key.ok_or(ApiError::KeyNotFound)
}

async fn statuses(state: &AppState, keys: &[Arc<Key>]) -> Result<Vec<KeyStatus>, ApiError> {
    let ids: Vec<_> = keys.iter().map(|key| key.id.as_str()).collect();
    let used = state.access.keys.store().last_used(&ids).await?;
    let now = state.queue.clock().now_ms();
    let status = |key: &Arc<Key>| {
        let last_used = used.get(&key.id).copied().max(key.last_used());
        KeyStatus::new(&key.id, &key.record, last_used, now)
    };
    Ok(keys.iter().map(status).collect())
}
