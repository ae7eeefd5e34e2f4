//! Renews this api's keys in Redis every second: without that, its reply stream expires.

use std::sync::Arc;

use shared::protocol::id::ApiId;
use shared::queue::Queue;
use shared::queue::timing::{HEARTBEAT, HEARTBEAT_RETRY};
use shared::service::lifecycle::Lifecycle;

use crate::reply_router::Waiters;

/// Sends heartbeats until the process stops.
pub(crate) async fn run(queue: Queue, api: ApiId, waiters: Arc<Waiters>, life: Lifecycle) {
    let mut interval = tokio::time::interval(HEARTBEAT);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = interval.tick() => {}
            () = life.stopping() => return,
        }
        match queue.api_heartbeat(api).await {
            Ok(true) => {}
            Ok(false) => {
                // Redis has lost its data, including the jobs and replies in flight.
                let lost = waiters.lose_all();
                tracing::warn!(lost, "reply stream was lost");
            }
            Err(error) => {
                tracing::warn!(%error, "heartbeat failed");
                interval.reset_after(HEARTBEAT_RETRY);
            }
        }
    }
}
