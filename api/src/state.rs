//! What every handler can reach.

use std::sync::Arc;

use shared::queue::Queue;
use shared::service::lifecycle::Lifecycle;
use shared::service::telemetry::traces::Tracer;

use crate::admission::Admission;
use crate::config::Config;
use crate::dispatch::Dispatcher;
use crate::metrics::Metrics;
use crate::reply_router::Health;

/// Shared by all requests; cheap to clone.
#[derive(Clone)]
pub(crate) struct AppState(Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) config: Config,
    pub(crate) queue: Queue,
    pub(crate) dispatcher: Dispatcher,
    pub(crate) admission: Admission,
    pub(crate) replies: Health,
    pub(crate) metrics: Metrics,
    pub(crate) tracer: Tracer,
    pub(crate) life: Lifecycle,
}

impl AppState {
    pub(crate) fn new(
        config: Config,
        queue: Queue,
        dispatcher: Dispatcher,
        admission: Admission,
        replies: Health,
        (metrics, tracer): (Metrics, Tracer),
        life: Lifecycle,
    ) -> Self {
        Self(Arc::new(Inner {
            config,
            queue,
            dispatcher,
            admission,
            replies,
            metrics,
            tracer,
            life,
        }))
    }
}

impl std::ops::Deref for AppState {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}
