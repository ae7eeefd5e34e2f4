//! `GET /healthz`: the process lives. `GET /readyz`: it can serve.

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use crate::error::ApiError;
use crate::state::AppState;

pub(crate) async fn alive() -> Json<Value> {
    Json(json!({ "status": "ok" }))
}

/// Ready: Redis answers, replies are being read, a worker lives, and the process is not on its
/// way out.
pub(crate) async fn ready(State(state): State<AppState>) -> Result<Json<Value>, ApiError> {
    if state.life.is_draining() {
        return Err(ApiError::Draining);
    }
    state.queue.ping().await?;
    if !state.replies.is_reading() {
        return Err(ApiError::QueueUnavailable(
            "Replies cannot be read".to_owned(),
        ));
    }
    let workers = state.queue.workers().await?.len();
    if workers == 0 {
        return Err(ApiError::NoCapacity("No worker is alive".to_owned()));
    }
    Ok(Json(json!({ "status": "ready", "workers": workers })))
}
