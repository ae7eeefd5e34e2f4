//! `GET /healthz`: whether the process is alive. `GET /readyz`: whether it takes requests, and what
//! the farm can do at present.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use shared::queue::ServerName;
use tokio::time::timeout;
use utoipa::ToSchema;

use crate::admission::RequestKind;
use crate::breaker::QueueState;
use crate::error::ApiError;
use crate::openapi::failures::{HeadFailures, ReadyFailures};
use crate::state::AppState;

/// How long Redis may take to answer about the workers. Load balancers wait little longer for the
/// response.
const LIST_WITHIN: Duration = Duration::from_secs(1);

/// The process is alive.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Alive {
    #[schema(examples("ok"))]
    status: &'static str,
}

/// What the farm can do at present.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum FarmStatus {
    /// It takes every request.
    Ready,
    /// It refuses some requests: Redis is low on memory, or some servers of a cluster do not
    /// answer.
    Degraded,
    /// Redis has just started, and workers that were alive before have not returned. Other workers
    /// take their contracts over once they have had the time to; until then calls of these wait.
    Recovering,
    /// It can run nothing: Redis does not answer, or no worker is alive.
    Unavailable,
}

/// The process takes requests.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Ready {
    status: FarmStatus,
    /// Why nothing can be run, for a person.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    reason: Option<String>,
    /// What is refused because Redis is low on memory: `loads`, later `calls` as well. Unloads
    /// never are.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    refuses: Vec<&'static str>,
    /// The servers of Redis that do not answer, by name. Requests that need one of them are
    /// refused.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    unavailable_servers: Vec<String>,
    /// In how many seconds other workers begin to take over the contracts of those that have not
    /// returned.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    recovers_in_seconds: Option<u64>,
    /// The number of workers that are connected. Missing while Redis does not answer, or the server
    /// of a cluster that lists the workers.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    workers: Option<usize>,
}

/// Check that the process is alive
#[utoipa::path(
    get,
    path = "/healthz",
    tag = "Process",
    operation_id = "alive",
    responses((status = 200, body = Alive), HeadFailures),
)]
pub(crate) async fn alive() -> Json<Alive> {
    Json(Alive { status: "ok" })
}

/// Check that the process takes requests, and what the farm can do
///
/// The status code is about this process: it is 200 until the process shuts down. What all apis
/// depend on is in the body, because a load balancer that took every api out of service at once
/// would help nobody: callers would get no response instead of one that says what is wrong.
#[utoipa::path(
    get,
    path = "/readyz",
    tag = "Process",
    operation_id = "ready",
    responses((status = 200, body = Ready), ReadyFailures),
)]
pub(crate) async fn ready(State(state): State<AppState>) -> Result<Json<Ready>, ApiError> {
    if state.life.is_draining() {
        return Err(ApiError::Draining);
    }
    let inspected = inspect(&state).await;
    Ok(Json(inspected.unwrap_or_else(|reason| Ready {
        status: FarmStatus::Unavailable,
        reason: Some(reason.to_string()),
        refuses: Vec::new(),
        unavailable_servers: unavailable(state.admission.breaker().states()),
        recovers_in_seconds: None,
        workers: None,
    })))
}

/// What the farm can do; an error if this process cannot use Redis.
async fn inspect(state: &AppState) -> Result<Ready, ApiError> {
    if state.admission.breaker().state() == QueueState::Unavailable {
        return Err(ApiError::queue_unavailable());
    }
    if !state.reader_health.is_reading() {
        let message = "Replies cannot be read from Redis";
        return Err(ApiError::QueueUnavailable(message.to_owned()));
    }
    let breaker = state.admission.breaker();
    let unavailable_servers = unavailable(breaker.states());
    let presence = match timeout(LIST_WITHIN, state.queue.presence(state.config.reaper)).await {
        Ok(Ok(presence)) => Some(presence),
        // The server with the list of workers may be one of them.
        _ if !unavailable_servers.is_empty() => None,
        Ok(Err(error)) => return Err(error.into()),
        Err(_) => return Err(ApiError::queue_unavailable()),
    };
    let connected = presence.map(|presence| presence.connected);
    let recovery = presence.and_then(|presence| presence.recovery);
    let refuses = refused(breaker.state());
    let is_degraded = !refuses.is_empty() || !unavailable_servers.is_empty();
    let status = match recovery {
        _ if connected == Some(0) => FarmStatus::Unavailable,
        _ if is_degraded => FarmStatus::Degraded,
        Some(_) => FarmStatus::Recovering,
        None => FarmStatus::Ready,
    };
    let no_worker = (connected == Some(0)).then(ApiError::no_live_worker);
    Ok(Ready {
        status,
        reason: no_worker.map(|error| error.to_string()),
        refuses,
        unavailable_servers,
        recovers_in_seconds: recovery.map(|left| left.as_secs() + 1),
        workers: connected,
    })
}

fn unavailable(servers: Vec<(ServerName, QueueState)>) -> Vec<String> {
    let servers = servers.into_iter();
    let away = servers.filter(|(_, state)| *state == QueueState::Unavailable);
    away.map(|(server, _)| server.to_string()).collect()
}

fn refused(queue: QueueState) -> Vec<&'static str> {
    let kinds = [(RequestKind::Load, "loads"), (RequestKind::Call, "calls")];
    let is_refused = |(kind, name)| queue.refuses(kind).then_some(name);
    kinds.into_iter().filter_map(is_refused).collect()
}
