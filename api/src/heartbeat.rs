//! Says each second that this api lives, which keeps its reply stream.

use std::sync::Arc;

use shared::protocol::id::ApiId;
use shared::queue::Queue;
use shared::queue::timing::{HEARTBEAT, HEARTBEAT_RETRY};
use shared::service::lifecycle::Lifecycle;

use crate::reply_router::Waiters;

/// Beats until the process stops.
pub(crate) async fn beat(queue: Queue, api: ApiId, waiters: Arc<Waiters>, life: Lifecycle) {
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
                // Redis has lost its data, and with it whatever was on its way.
                let lost = waiters.lose_all();
                tracing::warn!(lost, "the reply stream was gone");
            }
            Err(error) => {
                tracing::warn!(%error, "no heartbeat");
                interval.reset_after(HEARTBEAT_RETRY);
            }
        }
    }
}
