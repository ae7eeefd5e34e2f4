//! Keeps the configured number of browsers running: a browser that dies is replaced.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::browser::handle::BrowserHandle;
use super::browser::start::RunningBrowser;
use super::config::ChromiumConfig;
use super::process::error::LaunchError;
use crate::engine_tasks::EngineTasks;

/// The pause after the first failed start; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause between two attempts to start a browser.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// The browsers that are up. A slot is empty while its browser is being replaced.
#[derive(Debug, Default)]
pub(super) struct Fleet {
    slots: Vec<Option<Arc<BrowserHandle>>>,
    /// Why the last attempt to start a browser failed.
    last_error: Option<String>,
    /// How many browsers were started to replace a dead one.
    restarts: u64,
}

/// How many browsers and pages there are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BrowserStats {
    /// Browsers that are up.
    pub(crate) browsers: usize,
    /// Pages in them.
    pub(crate) pages: usize,
    /// Browsers that were started to replace a dead one.
    pub(crate) restarts: u64,
}

impl Fleet {
    /// The live browser with the fewest pages.
    pub(super) fn least_loaded(&self) -> Option<Arc<BrowserHandle>> {
        // A browser is marked as dead before its slot is emptied.
        let alive = self
            .slots
            .iter()
            .flatten()
            .filter(|handle| !handle.browser.dead().is_cancelled());
        alive.min_by_key(|handle| handle.browser.pages()).cloned()
    }

    /// Why no page could be had in time.
    pub(super) fn why_no_page(&self) -> String {
        match &self.last_error {
            Some(error) => format!("no browser is running: {error}"),
            None if self.least_loaded().is_none() => {
                "no browser is running: it is being restarted".into()
            }
            None => "the browsers did not create a page in time".to_owned(),
        }
    }

    pub(super) fn stats(&self) -> BrowserStats {
        let browsers = self.slots.iter().flatten();
        BrowserStats {
            browsers: browsers.clone().count(),
            pages: browsers.map(|handle| handle.browser.pages()).sum(),
            restarts: self.restarts,
        }
    }
}

/// Starts the browsers, and a task for each of them that replaces it when it dies.
/// Fails if any browser cannot be started.
pub(super) async fn start(
    config: &Arc<ChromiumConfig>,
    tasks: &EngineTasks,
) -> Result<watch::Receiver<Fleet>, LaunchError> {
    let count = config.browsers.max(1);
    let launches = (0..count).map(|_| RunningBrowser::launch(config));
    let mut up = Vec::with_capacity(count);
    let mut failed = None;
    for outcome in futures::future::join_all(launches).await {
        match outcome {
            Ok(browser) => up.push(browser),
            Err(error) => failed = Some(error),
        }
    }
    if let Some(error) = failed {
        futures::future::join_all(up.into_iter().map(RunningBrowser::end)).await;
        return Err(error);
    }
    let slots = up.iter().map(|running| Some(running.handle())).collect();
    let (fleet, view) = watch::channel(Fleet {
        slots,
        last_error: None,
        restarts: 0,
    });
    let fleet = Arc::new(fleet);
    for (index, running) in up.into_iter().enumerate() {
        let slot = BrowserSlot {
            index,
            config: Arc::clone(config),
            fleet: Arc::clone(&fleet),
        };
        let keeping = slot.keep_running(running, tasks.stop().clone());
        tasks.spawn("browser", keeping);
    }
    Ok(view)
}

/// Keeps one browser running.
struct BrowserSlot {
    index: usize,
    config: Arc<ChromiumConfig>,
    fleet: Arc<watch::Sender<Fleet>>,
}

impl BrowserSlot {
    /// Waits for the browser's death and starts the next one, until `stop`.
    async fn keep_running(self, mut running: RunningBrowser, stop: CancellationToken) {
        loop {
            let died = stop.run_until_cancelled(running.died()).await.is_some();
            self.publish(None);
            if died {
                tracing::warn!(browser = self.index, "browser died; restarting it");
            }
            running.end().await;
            let Some(next) = self.restart(&stop).await else {
                return;
            };
            self.publish(Some(next.handle()));
            running = next;
        }
    }

    /// Tries until it succeeds or `stop` is cancelled, with growing pauses. An attempt under way is
    /// awaited, so that its processes are cleaned up.
    async fn restart(&self, stop: &CancellationToken) -> Option<RunningBrowser> {
        let mut pause = FIRST_PAUSE;
        while !stop.is_cancelled() {
            match RunningBrowser::launch(&self.config).await {
                Ok(running) => return Some(running),
                Err(error) => {
                    tracing::error!(browser = self.index, %error, "browser did not start");
                    let error = Some(error.to_string());
                    self.fleet.send_modify(|fleet| fleet.last_error = error);
                }
            }
            // Jitter, so that several browsers do not start at the same moment.
            let jittered = pause.mul_f64(rand::random_range(0.5..1.5));
            stop.run_until_cancelled(tokio::time::sleep(jittered)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        None
    }

    fn publish(&self, browser: Option<Arc<BrowserHandle>>) {
        self.fleet.send_modify(|fleet| {
            if browser.is_some() {
                fleet.last_error = None;
                fleet.restarts += 1;
            }
            fleet.slots[self.index] = browser;
        });
    }
}
