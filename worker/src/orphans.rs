//! Removes what dead workers left outside of Redis.
//!
//! Who is dead tells the lease, but not at once: after a Redis restart no worker has one for a
//! moment. So a worker counts as dead when it had none for longer than it takes to get it back.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use shared::protocol::id::WorkerId;
use shared::queue::QueueError;
use shared::queue::timing::LEASE;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::Worker;
use crate::docker::{Docker, Piece};

/// How long a worker must be without a lease.
const DEAD_FOR: Duration = LEASE;

/// Looks for orphans until the process drains, first of all at its start.
pub(crate) async fn sweep(worker: Arc<Worker>, docker: Docker) {
    let mut missing = HashMap::new();
    let mut sweeps = interval(docker.sweep_interval());
    sweeps.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = sweeps.tick() => {}
            () = worker.life.draining() => return,
        }
        let pieces = match docker.strange_pieces().await {
            Ok(pieces) => pieces,
            Err(error) => {
                tracing::debug!(%error, "cannot look for orphans");
                continue;
            }
        };
        if let Err(error) = remove_orphans(&worker, &docker, pieces, &mut missing).await {
            tracing::debug!(%error, "cannot tell who is alive");
        }
    }
}

/// `missing`: since when the owners of what was found have had no lease.
async fn remove_orphans(
    worker: &Worker,
    docker: &Docker,
    pieces: Vec<Piece>,
    missing: &mut HashMap<WorkerId, Instant>,
) -> Result<(), QueueError> {
    let now = Instant::now();
    missing.retain(|owner, _| pieces.iter().any(|piece| piece.worker == *owner));
    for piece in pieces {
        let owner = piece.worker;
        if owner != worker.id {
            if worker.queue.is_alive(owner).await? {
                missing.remove(&owner);
                continue;
            }
            if now - *missing.entry(owner).or_insert(now) < DEAD_FOR {
                continue;
            }
        }
        docker.remove_piece(&piece).await;
    }
    Ok(())
}
