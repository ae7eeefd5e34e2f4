//! The `Engine` implementation: keeps browsers running and places contracts in their pages.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::browser::{self, Browser};
use super::config::ChromiumConfig;
use super::instance::ContractPage;
use super::page::blank::BlankPage;
use super::page_pool::Spares;
use super::process::error::LaunchError;
use crate::sandbox::{Blueprint, Engine, RestartLimit, StartError};

/// The browsers of a worker. A cheap handle: clones are the same browsers.
#[derive(Debug, Clone)]
pub struct Chromium {
    config: Arc<ChromiumConfig>,
    fleet: watch::Receiver<Fleet>,
    spares: Arc<Spares>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// The browsers that are up. A slot is empty while its browser is being started again.
#[derive(Debug, Default)]
pub(super) struct Fleet {
    slots: Vec<Option<Arc<Browser>>>,
    /// Why the last start of a browser failed.
    trouble: Option<String>,
    /// How many were started after a death.
    restarts: u64,
}

/// How much of it there is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    /// Browsers that are up.
    pub(crate) browsers: usize,
    /// Pages in them.
    pub(crate) pages: usize,
    /// Browsers that were started after a death.
    pub(crate) restarts: u64,
}

impl Fleet {
    /// The living browser with the fewest pages.
    pub(super) fn emptiest(&self) -> Option<Arc<Browser>> {
        // A death is known to the browser before its slot is emptied.
        let alive = self
            .slots
            .iter()
            .flatten()
            .filter(|b| !b.dead().is_cancelled());
        alive.min_by_key(|browser| browser.pages()).cloned()
    }

    /// Why no page comes.
    fn complaint(&self) -> String {
        match &self.trouble {
            Some(trouble) => format!("no browser is up: {trouble}"),
            None if self.emptiest().is_none() => {
                "no browser is up: it is being started again".into()
            }
            None => "the browsers make no page in time".to_owned(),
        }
    }
}

impl Chromium {
    /// Starts the browsers; ready when all of them are up, failed when one cannot be started, which
    /// is mostly a matter of the installation. Afterwards they are started again whenever they die.
    pub async fn start(config: ChromiumConfig) -> Result<Self, LaunchError> {
        config.layers.complain();
        let count = config.browsers.max(1);
        let config = Arc::new(config);
        let launches = (0..count).map(|_| Browser::launch(&config));
        let mut up = Vec::with_capacity(count);
        let mut failed = None;
        for outcome in futures::future::join_all(launches).await {
            match outcome {
                Ok(browser) => up.push(browser),
                Err(error) => failed = Some(error),
            }
        }
        if let Some(error) = failed {
            futures::future::join_all(up.into_iter().map(browser::Running::end)).await;
            return Err(error);
        }
        let slots = up.iter().map(|running| Some(running.browser())).collect();
        let (fleet, view) = watch::channel(Fleet {
            slots,
            trouble: None,
            restarts: 0,
        });
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let fleet = Arc::new(fleet);
        for (index, running) in up.into_iter().enumerate() {
            let slot = Slot {
                index,
                config: Arc::clone(&config),
                fleet: Arc::clone(&fleet),
            };
            tasks.spawn(slot.keep_up(running, stop.clone()));
        }
        let spares = Arc::new(Spares::default());
        tasks.spawn(keep_spares(
            Arc::clone(&spares),
            Arc::clone(&config),
            view.clone(),
            stop.clone(),
        ));
        tasks.close();
        Ok(Self {
            config,
            fleet: view,
            spares,
            stop,
            tasks,
        })
    }

    /// How much of it there is.
    pub(crate) fn load(&self) -> Load {
        let fleet = self.fleet.borrow();
        Load {
            browsers: fleet.slots.iter().flatten().count(),
            pages: fleet.slots.iter().flatten().map(|b| b.pages()).sum(),
            restarts: fleet.restarts,
        }
    }

    /// How many pages wait for a contract.
    pub fn spare_pages(&self) -> usize {
        self.spares.count()
    }

    /// Ends every browser and with it every page; returns when no process and no file is left.
    pub async fn shutdown(&self) {
        self.stop.cancel();
        self.tasks.wait().await;
    }

    /// A page for a contract: made ahead, or now. Waits for a browser while none is up.
    async fn page(&self) -> Result<BlankPage, StartError> {
        let page = timeout(self.config.load_limit * 2, self.spares.take());
        Err(StartError::Unavailable(match page.await {
            Ok(Ok(Ok(page))) => return Ok(page),
            Ok(Ok(Err(trouble))) => trouble.to_string(),
            Ok(Err(_)) => "the browsers are being stopped".to_owned(),
            Err(_) => self.fleet.borrow().complaint(),
        }))
    }
}

impl Engine for Chromium {
    type Instance = ContractPage;

    /// Takes at most the load limit three times over: to wait for a browser, to make the page, to
    /// evaluate the executable; and the same once more when the browser dies under it.
    async fn start(&self, plan: Blueprint<'_>) -> Result<ContractPage, StartError> {
        let limits = &plan.spec.limits;
        let load = |page| ContractPage::load(page, &self.config, limits, plan.executable);
        match load(self.page().await?).await {
            Err(StartError::Unavailable(error)) => {
                tracing::debug!(error, "a page is lost; trying another one");
                load(self.page().await?).await
            }
            outcome => outcome,
        }
    }

    /// Five breaks within a minute: whatever such a contract does, it is not what it is for.
    fn restart_limit(&self) -> RestartLimit {
        RestartLimit {
            losses: 5,
            within: Duration::from_mins(1),
        }
    }
}

/// Has pages in reserve until `stop`.
async fn keep_spares(
    spares: Arc<Spares>,
    config: Arc<ChromiumConfig>,
    fleet: watch::Receiver<Fleet>,
    stop: CancellationToken,
) {
    stop.run_until_cancelled(spares.keep(&config, fleet)).await;
    spares.clear();
}

/// Keeps one browser running.
struct Slot {
    index: usize,
    config: Arc<ChromiumConfig>,
    fleet: Arc<watch::Sender<Fleet>>,
}

impl Slot {
    /// Until `stop`: waits for the browser's death, starts the next.
    async fn keep_up(self, mut running: browser::Running, stop: CancellationToken) {
        loop {
            let died = stop.run_until_cancelled(running.closed()).await.is_some();
            self.publish(None);
            if died {
                tracing::warn!(browser = self.index, "a browser died; starting it again");
            }
            running.end().await;
            let Some(next) = self.start_again(&stop).await else {
                return;
            };
            self.publish(Some(next.browser()));
            running = next;
        }
    }

    /// Tries until it succeeds or `stop` comes, with growing pauses. A start under way is not broken
    /// off: its processes are to be awaited.
    async fn start_again(&self, stop: &CancellationToken) -> Option<browser::Running> {
        let mut pause = Duration::from_millis(100);
        while !stop.is_cancelled() {
            match Browser::launch(&self.config).await {
                Ok(running) => return Some(running),
                Err(error) => {
                    tracing::error!(browser = self.index, %error, "a browser does not start");
                    let trouble = Some(error.to_string());
                    self.fleet.send_modify(|fleet| fleet.trouble = trouble);
                }
            }
            // Jitter, so that several browsers do not fight for the machine in step.
            let jittered = pause.mul_f64(rand::random_range(0.5..1.5));
            stop.run_until_cancelled(tokio::time::sleep(jittered)).await;
            pause = (pause * 2).min(Duration::from_secs(10));
        }
        None
    }

    fn publish(&self, browser: Option<Arc<Browser>>) {
        self.fleet.send_modify(|fleet| {
            if browser.is_some() {
                fleet.trouble = None;
                fleet.restarts += 1;
            }
            fleet.slots[self.index] = browser;
        });
    }
}
