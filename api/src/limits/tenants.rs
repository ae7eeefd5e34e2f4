//! The limits of tenants in memory, as they were at most some seconds ago.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use shared::protocol::tenant::Tenant;
use shared::queue::tenants::{AllLimits, TenantLimits};
use shared::queue::{Queue, QueueError};
use shared::service::lifecycle::Lifecycle;
use tokio::sync::Mutex;

use super::meters::Meters;

/// The pause between two questions for changes.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// The limits of all tenants that have some.
pub(crate) struct TenantTable {
    queue: Queue,
    meters: Arc<Meters>,
    limits: RwLock<AllLimits>,
    version: Mutex<Option<u64>>,
}

impl TenantTable {
    pub(crate) fn new(queue: Queue, meters: Arc<Meters>) -> Self {
        Self {
            queue,
            meters,
            limits: RwLock::default(),
            version: Mutex::default(),
        }
    }

    /// The meters of this process.
    pub(crate) fn meters(&self) -> &Meters {
        &self.meters
    }

    /// The limits of a tenant, as far as this process knows them.
    pub(crate) fn limits(&self, tenant: &Tenant) -> Option<TenantLimits> {
        self.read().get(tenant).copied()
    }

    /// All limits, as they are now.
    pub(crate) async fn all(&self) -> Result<AllLimits, QueueError> {
        self.ask().await?;
        Ok(self.read().clone())
    }

    /// Asks for changes, and for the number of apis, until the process stops.
    pub(crate) async fn run(self: Arc<Self>, life: Lifecycle) {
        let mut interval = tokio::time::interval(ASK_EVERY);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = interval.tick() => {}
                () = life.stopping() => return,
            }
            if let Err(error) = self.ask().await {
                tracing::warn!(%error, "limits of tenants cannot be read");
            }
            if let Ok(apis) = self.queue.count_apis().await {
                self.meters.set_apis(apis);
            }
        }
    }

    /// Asks for changes. A version other than the known one brings all limits anew: Redis may have
    /// lost some.
    async fn ask(&self) -> Result<(), QueueError> {
        let mut version = self.version.lock().await;
        if let Some((newest, limits)) = self.queue.tenant_limits(*version).await? {
            self.meters.limit_tenants(&limits);
            *self.limits.write().unwrap_or_else(PoisonError::into_inner) = limits;
            *version = Some(newest);
        }
        Ok(())
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, AllLimits> {
        self.limits.read().unwrap_or_else(PoisonError::into_inner)
    }
}
