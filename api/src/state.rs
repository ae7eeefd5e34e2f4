//! The services that every handler can use.

use std::sync::Arc;

use shared::queue::Queue;
use shared::service::lifecycle::Lifecycle;
use shared::service::telemetry::traces::Tracer;
use tokio::sync::Semaphore;

use crate::access::Access;
use crate::admission::Admission;
use crate::audit::Audit;
use crate::body::BodyRules;
use crate::config::Config;
use crate::dispatch::Dispatcher;
use crate::edge::{Connections, Heads};
use crate::limits::{Holdings, TenantTable};
use crate::metrics::Metrics;
use crate::reply_router::ReaderHealth;
use crate::source_maps::SourceMaps;
use crate::unanswered::UnansweredContracts;

/// Shared by all requests; cheap to clone.
#[derive(Clone)]
pub(crate) struct AppState(Arc<Services>);

pub(crate) struct Services {
    pub(crate) config: Config,
    pub(crate) queue: Queue,
    pub(crate) access: Access,
    pub(crate) audit: Audit,
    pub(crate) dispatcher: Dispatcher,
    pub(crate) admission: Admission,
    /// The limits of tenants.
    pub(crate) tenants: Arc<TenantTable>,
    /// Loads of tenants that are under way.
    pub(crate) holdings: Holdings,
    pub(crate) connections: Arc<Connections>,
    /// Which heads of requests are acceptable.
    pub(crate) heads: Heads,
    /// For the bodies of calls and unloads.
    pub(crate) call_bodies: BodyRules,
    /// For the bodies of loads.
    pub(crate) load_bodies: BodyRules,
    /// Places for checking loads.
    pub(crate) load_checks: Semaphore,
    pub(crate) source_maps: SourceMaps,
    /// Places for those who follow the output of contracts.
    pub(crate) followers: Arc<Semaphore>,
    pub(crate) reader_health: ReaderHealth,
    pub(crate) metrics: Metrics,
    pub(crate) unanswered: UnansweredContracts,
    pub(crate) tracer: Tracer,
    pub(crate) life: Lifecycle,
}

impl AppState {
    pub(crate) fn new(services: Services) -> Self {
        Self(Arc::new(services))
    }
}

impl std::ops::Deref for AppState {
    type Target = Services;

    fn deref(&self) -> &Services {
        &self.0
    }
}
