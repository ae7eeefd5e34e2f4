//! The `Engine` implementation: loads contracts into pages of the worker's browsers.

use std::sync::Arc;
use std::time::Duration;

use shared::protocol::job::{EffectiveLimits, Limits};
use shared::service::lifecycle::Lifecycle;
use tokio::sync::watch;
use tokio::time::timeout;

use super::config::ChromiumConfig;
use super::fleet::{self, BrowserStats, Fleet};
use super::instance::ContractPage;
use super::page::blank::BlankPage;
use super::page::loaded::LoadError;
use super::page_pool::PagePool;
use super::process::error::LaunchError;
use crate::engine_tasks::EngineTasks;
use crate::sandbox::{Blueprint, Engine, RestartLimit, StartError};

/// The browsers of a worker. Clones are cheap handles on the same browsers.
#[derive(Debug, Clone)]
pub struct Chromium {
    config: Arc<ChromiumConfig>,
    fleet: watch::Receiver<Fleet>,
    pool: Arc<PagePool>,
    tasks: EngineTasks,
}

impl Chromium {
    /// Starts the browsers and waits until all of them are up. Fails if one cannot be started,
    /// which usually means that the installation is incomplete. Later, a browser that dies is
    /// restarted. A task of the engine that panics stops the process through `life`.
    pub async fn start(config: ChromiumConfig, life: Lifecycle) -> Result<Self, LaunchError> {
        config.layers.log_disabled();
        let config = Arc::new(config);
        let tasks = EngineTasks::new(life);
        let fleet = fleet::start(&config, &tasks).await?;
        let pool = Arc::new(PagePool::default());
        let filling =
            Arc::clone(&pool).run(Arc::clone(&config), fleet.clone(), tasks.stop().clone());
        tasks.spawn("page pool", filling);
        Ok(Self {
            config,
            fleet,
            pool,
            tasks,
        })
    }

    /// How many browsers and pages there are.
    pub(crate) fn stats(&self) -> BrowserStats {
        self.fleet.borrow().stats()
    }

    /// How many blank pages are ready for contracts.
    pub fn spare_pages(&self) -> usize {
        self.pool.len()
    }

    /// Ends every browser and all its pages; returns when no process and no file of them is left.
    pub async fn shutdown(&self) {
        self.tasks.shutdown().await;
    }

    /// Takes a page from the pool. Waits while no browser is up.
    async fn page(&self) -> Result<BlankPage, StartError> {
        let page = timeout(self.config.load_limit * 2, self.pool.take());
        Err(StartError::Unavailable(match page.await {
            Ok(Ok(Ok(page))) => return Ok(page),
            Ok(Ok(Err(error))) => error.to_string(),
            Ok(Err(_)) => "the browsers are shutting down".to_owned(),
            Err(_) => self.fleet.borrow().why_no_page(),
        }))
    }
}

impl Engine for Chromium {
    type Instance = ContractPage;

    /// Takes at most three times the load limit: to wait for a browser, to create the page, and to
    /// evaluate the executable. If the browser dies meanwhile, it takes the same time once more.
    async fn start(&self, plan: Blueprint<'_>) -> Result<ContractPage, StartError> {
        let limits = &self.config.limits(&plan.spec.limits);
        let load = |page| ContractPage::load(page, &self.config, limits, plan.executable);
        let mut outcome = load(self.page().await?).await;
        if let Err(LoadError::PageLost(error)) = &outcome {
            tracing::debug!(error, "page was lost during a load; trying another one");
            outcome = load(self.page().await?).await;
        }
        outcome.map_err(|error| match error {
            LoadError::PageLost(reason) => StartError::Unavailable(reason),
            LoadError::Failed(error) => error,
        })
    }

    fn limits(&self, limits: &Limits) -> EffectiveLimits {
        self.config.limits(limits)
    }

    /// Five losses within a minute: no contract that works loses its page so often.
    fn restart_limit(&self) -> RestartLimit {
        RestartLimit {
            losses: 5,
            within: Duration::from_mins(1),
        }
    }
}
