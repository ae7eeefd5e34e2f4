//! Removes containers and networks that dead workers left with the Docker daemon, and keeps the
//! firewall rules of those in use in their place.
//!
//! A worker's lease shows whether it is alive, but not at once: after a restart of Redis, no worker
//! has a lease for a moment. So a worker counts as dead only once it has had no lease for longer
//! than it would take to get it back.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use shared::protocol::id::WorkerId;
use shared::queue::QueueError;
use shared::queue::timing::LEASE;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::docker::{Docker, Leftover};
use crate::worker::Worker;

/// How long a worker must be without a lease before it counts as dead.
const DEAD_AFTER: Duration = LEASE;

/// Sweeps at start, and then periodically until the process drains.
pub(crate) async fn run(worker: Arc<Worker>, docker: Docker) {
    let mut sweep = ContainerSweep {
        worker,
        docker,
        without_lease: HashMap::new(),
    };
    let mut ticks = interval(sweep.docker.sweep_interval());
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = sweep.worker.life.draining() => return,
        }
        sweep.docker.keep_host_closed().await;
        let leftovers = match sweep.docker.leftovers().await {
            Ok(leftovers) => leftovers,
            Err(error) => {
                tracing::debug!(%error, "containers not listed");
                continue;
            }
        };
        if let Err(error) = sweep.remove(leftovers).await {
            tracing::debug!(%error, "owners of leftover containers not checked");
        }
    }
}

/// Removes what belongs to dead workers.
struct ContainerSweep {
    worker: Arc<Worker>,
    docker: Docker,
    /// Since when the makers of the leftovers have had no lease.
    without_lease: HashMap<WorkerId, Instant>,
}

impl ContainerSweep {
    /// Whether the process that had this id lives, under whichever id by now.
    async fn is_alive(&self, maker: WorkerId) -> Result<bool, QueueError> {
        let queue = &self.worker.queue;
        if queue.is_alive(maker).await? {
            return Ok(true);
        }
        let workers = queue.workers().await?;
        Ok(workers.iter().any(|(id, _)| id.same_process(maker)))
    }

    /// Removes the leftovers of dead workers, and those of this worker, which no longer uses them.
    async fn remove(&mut self, leftovers: Vec<Leftover>) -> Result<(), QueueError> {
        let now = Instant::now();
        self.without_lease
            .retain(|maker, _| leftovers.iter().any(|leftover| leftover.worker == *maker));
        for leftover in leftovers {
            let maker = leftover.worker;
            if !maker.same_process(self.worker.id()) {
                if self.is_alive(maker).await? {
                    self.without_lease.remove(&maker);
                    continue;
                }
                if now - *self.without_lease.entry(maker).or_insert(now) < DEAD_AFTER {
                    continue;
                }
            }
            self.docker.remove_leftover(&leftover).await;
        }
        Ok(())
    }
}
