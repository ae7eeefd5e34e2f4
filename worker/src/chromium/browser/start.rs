//! Starts a browser: launches its process, connects to it, runs its tasks, and examines how it
//! treats a page.
//!
//! A browser is dead as soon as one of its tasks ends or panics, its guard ends, or it does not
//! reply any more. Then everything that belongs to it ends; `fleet` starts the next browser.

use std::collections::HashSet;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use chromiumoxide_cdp::cdp::browser_protocol::browser::GetVersionParams;
use chromiumoxide_cdp::cdp::browser_protocol::fetch::{EnableParams, RequestPattern};
use futures::FutureExt;
use tokio::net::UnixStream;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Browser;
use super::death_watch::DeathWatch;
use super::handle::BrowserHandle;
use super::page_closer::PageCloser;
use super::send_slots::SendSlots;
use crate::chromium::cdp::client::CdpClient;
use crate::chromium::cdp::events::Events;
use crate::chromium::cdp::execute::CdpError;
use crate::chromium::config::ChromiumConfig;
use crate::chromium::isolation::document::DocumentUrls;
use crate::chromium::isolation::floods::{FloodCloser, FloodWatch};
use crate::chromium::isolation::interceptor::Interceptor;
use crate::chromium::isolation::layers::Layer;
use crate::chromium::isolation::watchdog::{Watchdog, WatchdogLimits, WatchedPages};
use crate::chromium::page::blank::{BlankPage, OpenError};
use crate::chromium::process::child::{GuardedChild, StartedChild};
use crate::chromium::process::confinement;
use crate::chromium::process::error::{LAUNCH_LIMIT, LaunchError};

/// The time between two checks that the browser replies.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// The time limit for the reply to such a check.
const HEARTBEAT_LIMIT: Duration = Duration::from_secs(10);
/// A time limit that is noticed this late shows that the worker itself was not running. The browser
/// is then asked again, since its reply may only not have been read.
const LATE: Duration = Duration::from_secs(1);

/// A browser with its processes and tasks. Its owner waits for its death, then ends it.
#[derive(Debug)]
pub(crate) struct RunningBrowser {
    handle: Arc<BrowserHandle>,
    child: GuardedChild,
    tasks: BrowserTasks,
}

/// The tasks of one browser, which end when it is dead.
#[derive(Debug, Default)]
struct BrowserTasks {
    tracker: TaskTracker,
    dead: CancellationToken,
}

impl RunningBrowser {
    /// Starts a browser and its tasks.
    pub(crate) async fn launch(config: &ChromiumConfig) -> Result<Self, LaunchError> {
        let StartedChild {
            child,
            pipe,
            mut output,
        } = GuardedChild::start(config)?;
        let tasks = BrowserTasks::default();
        let starting = output.while_logging(start(pipe, config, &tasks));
        match starting.await {
            Ok(handle) => {
                // Once the browser is dead the output is ignored, whichever process still has it.
                tasks.spawn("browser output", async move { output.log().await });
                tasks.tracker.close();
                Ok(Self {
                    handle,
                    child,
                    tasks,
                })
            }
            Err(error) => {
                tasks.end(child).await;
                Err(error.with_output(output.into_tail().await))
            }
        }
    }

    /// What the browser's pages need of it.
    pub(crate) fn handle(&self) -> Arc<BrowserHandle> {
        Arc::clone(&self.handle)
    }

    /// Waits for the browser's death; call [`Self::end`] then. Cancel safe.
    pub(crate) async fn died(&mut self) {
        tokio::select! {
            () = self.tasks.dead.cancelled() => {}
            () = self.child.ended() => self.tasks.dead.cancel(),
        }
    }

    /// Ends the browser, its processes and its tasks, and waits for all of them.
    pub(crate) async fn end(self) {
        self.tasks.end(self.child).await;
    }
}

impl BrowserTasks {
    /// Runs a task that the browser depends on: when the task ends or panics, the browser is dead.
    /// `fleet` then starts another browser, so a panic needs no restart of the process.
    #[expect(
        clippy::disallowed_methods,
        reason = "the end of the task is the end of the browser"
    )]
    fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let dead = self.dead.clone();
        self.tracker.spawn(async move {
            let _end = dead.clone().drop_guard();
            let task = dead.run_until_cancelled(task);
            if AssertUnwindSafe(task).catch_unwind().await.is_err() {
                tracing::error!(task = name, "browser task panicked: restarting the browser");
            }
        });
    }

    async fn end(&self, child: GuardedChild) {
        self.dead.cancel();
        child.end().await;
        self.tracker.close();
        self.tracker.wait().await;
    }
}

/// Connects to a browser that was just started, runs its tasks, and examines it.
async fn start(
    pipe: UnixStream,
    config: &ChromiumConfig,
    tasks: &BrowserTasks,
) -> Result<Arc<BrowserHandle>, LaunchError> {
    let (client, events, driving) = CdpClient::connect(pipe, tasks.dead.clone());
    tasks.spawn("browser connection", driving);
    let version = GetVersionParams::default();
    let version = client.execute(LAUNCH_LIMIT, &version).await;
    version.map_err(|error| match error {
        CdpError::Timeout(..) => LaunchError::TooSlow(String::new()),
        CdpError::Refused(..) => LaunchError::Ended(String::new()),
    })?;
    let examining = async {
        let handle = spawn_tasks(client, events, config, tasks).await?;
        let gaps = examine(&handle, config).await?;
        Ok::<_, OpenError>((handle, gaps))
    };
    match tokio::time::timeout(LAUNCH_LIMIT, examining).await {
        Ok(Ok((handle, gaps))) if gaps.is_empty() => Ok(handle),
        Ok(Ok((_, gaps))) => Err(LaunchError::Unconfined(gaps.join(", "))),
        Ok(Err(error)) => Err(LaunchError::Connect(error.to_string())),
        Err(_) => Err(LaunchError::Connect("it does not reply".to_owned())),
    }
}

/// Starts the tasks of a browser.
async fn spawn_tasks(
    client: Arc<CdpClient>,
    events: Events,
    config: &ChromiumConfig,
    tasks: &BrowserTasks,
) -> Result<Arc<BrowserHandle>, CdpError> {
    let browser = Arc::new(Browser::new(client, tasks.dead.clone()));
    let deaths = Arc::<DeathWatch>::default();
    let watched = Arc::<WatchedPages>::default();
    let (closer, closing) = PageCloser::new(
        Arc::clone(&browser),
        Arc::clone(&deaths),
        Arc::clone(&watched),
    );
    let handle = BrowserHandle {
        browser: Arc::clone(&browser),
        send_slots: SendSlots::for_one_of(config.browsers),
        stalls: Arc::default(),
        deaths: Arc::clone(&deaths),
        documents: Arc::new(DocumentUrls::new(&config.layers)),
        watched: Arc::clone(&watched),
        closer,
    };
    let documents = Arc::clone(&handle.documents);
    let floods = FloodCloser {
        pages: Arc::clone(&watched),
        deaths: Arc::clone(&deaths),
    };
    let interceptor = Interceptor::new(
        Arc::clone(&browser),
        documents,
        &config.layers,
        floods.clone(),
    );
    tasks.spawn("interceptor", interceptor.run(events.requests));
    intercept_requests(&browser).await?;
    let watch = Arc::clone(&deaths);
    tasks.spawn(
        "death watch",
        async move { watch.follow(events.ends).await },
    );
    tasks.spawn("page closer", closing.run());
    tasks.spawn("heartbeat", heartbeat(Arc::clone(&browser)));
    if config.layers.has(Layer::Watch) {
        let process = browser.own_process().await?;
        let flood_watch = FloodWatch {
            browser: Arc::clone(&browser),
            stalls: Arc::clone(&handle.stalls),
            closer: floods,
            process,
        };
        tasks.spawn("flood watch", flood_watch.run());
        let watchdog = Watchdog {
            pages: watched,
            deaths,
            process,
            limits: WatchdogLimits {
                idle_cpu: config.idle_cpu,
                browser_bytes: u64::from(config.browser_mb) << 20,
            },
        };
        tasks.spawn("watchdog", watchdog.run());
    }
    Ok(Arc::new(handle))
}

/// Lets every request of every page wait for the interceptor's decision.
async fn intercept_requests(browser: &Browser) -> Result<(), CdpError> {
    let pattern = RequestPattern {
        url_pattern: Some("*".to_owned()),
        ..Default::default()
    };
    let intercept = EnableParams::builder().pattern(pattern).build();
    browser.execute(intercept).await.map(drop)
}

/// Opens the browser's first page and checks how the browser treats it. Returns the protections
/// that the renderer lacks; empty if it is fully confined.
async fn examine(
    handle: &Arc<BrowserHandle>,
    config: &ChromiumConfig,
) -> Result<Vec<String>, OpenError> {
    let browser = &handle.browser;
    let page = BlankPage::open(Arc::clone(handle), config).await?;
    let renderers = browser.renderers().await?;
    let expected: HashSet<_> = page.renderers().iter().map(|seen| seen.pid).collect();
    if expected != renderers {
        tracing::warn!(
            "this Chromium moves pages between renderers; pages are created one at a time"
        );
        browser.set_moves_pages();
    }
    let mut gaps: Vec<_> = renderers
        .iter()
        .flat_map(|renderer| confinement::gaps(*renderer))
        .collect();
    if renderers.is_empty() {
        gaps.push("no renderer process".to_owned());
    }
    page.close().await;
    Ok(gaps)
}

/// Ends when the browser does not reply any more.
async fn heartbeat(browser: Arc<Browser>) {
    loop {
        tokio::time::sleep(HEARTBEAT).await;
        let asked = Instant::now();
        let version = browser.execute_within(HEARTBEAT_LIMIT, GetVersionParams::default());
        match version.await {
            Ok(_) => {}
            Err(CdpError::Timeout(..)) if asked.elapsed() > HEARTBEAT_LIMIT + LATE => {
                tracing::warn!("worker did not run for a while; checking the browser again");
            }
            Err(error) => {
                if matches!(error, CdpError::Timeout(..)) {
                    browser.set_unresponsive();
                }
                tracing::warn!(%error, "browser does not reply");
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_browser_is_dead_when_one_of_its_tasks_panics_or_ends() {
        let panics = async { panic!("on purpose") };
        for task in [panics.boxed(), async {}.boxed()] {
            let tasks = BrowserTasks::default();
            tasks.spawn("waits", std::future::pending());
            tasks.spawn("breaks", task);
            tasks.dead.cancelled().await;
            tasks.tracker.close();
            tasks.tracker.wait().await;
        }
    }
}
