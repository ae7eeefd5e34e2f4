//! Ends pages: every page ends here, whether it is closed, dropped, or was never completed.
//!
//! Closing takes three steps, because a page that is busy in the engine's own code (a sort of ten
//! million numbers) reacts to no command. The target is closed, its browser context is disposed of,
//! and a renderer that is still alive is killed.

use std::collections::HashSet;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use chromiumoxide_cdp::cdp::browser_protocol::browser::BrowserContextId;
use chromiumoxide_cdp::cdp::browser_protocol::target::{
    CloseTargetParams, DisposeBrowserContextParams, TargetId,
};
use futures::StreamExt;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout};

use super::Browser;
use super::death_watch::DeathWatch;
use crate::chromium::isolation::watchdog::WatchedPages;
use crate::chromium::process::proc::Process;

/// The time limit of each step, and how long a renderer may live after the last one.
const STEP_LIMIT: Duration = Duration::from_secs(1);
/// The time between two checks whether a renderer has ended. It is no child of this process, so no
/// signal reports its end.
const RENDERER_CHECK: Duration = Duration::from_millis(10);
/// How many pages are closed at the same time, per browser.
const CONCURRENCY: usize = 32;
/// How many of them may be in their first moments. A browser closes a page on the thread that also
/// forwards all calls, so many closes in a row would delay the calls of other contracts.
const STARTING: usize = 3;
/// How long those first moments last. After that the next page may start to close, so that a page
/// that reacts to nothing delays no other.
const STARTING_TIME: Duration = Duration::from_millis(50);

/// Everything of a page that must be ended.
#[derive(Debug)]
struct ClosingPage {
    /// None: the browser's default context, which stays.
    context: Option<BrowserContextId>,
    target: Option<TargetId>,
    renderers: HashSet<Process>,
    done: Option<oneshot::Sender<()>>,
}

/// Closes pages of one browser in the background. Clones close pages of the same browser.
#[derive(Debug, Clone)]
pub(crate) struct PageCloser {
    browser: Arc<Browser>,
    queue: mpsc::UnboundedSender<ClosingPage>,
}

/// The task behind a [`PageCloser`].
#[derive(Debug)]
pub(crate) struct PageCloserTask {
    browser: Arc<Browser>,
    deaths: Arc<DeathWatch>,
    watched: Arc<WatchedPages>,
    queue: mpsc::UnboundedReceiver<ClosingPage>,
}

/// A page's slot in a browser. Dropping it closes the page in the background.
#[derive(Debug)]
pub(crate) struct PageSlot {
    closer: PageCloser,
    /// None once the page was handed to the closer.
    page: Option<ClosingPage>,
}

impl PageCloser {
    /// A closer and its task, which must run.
    pub(crate) fn new(
        browser: Arc<Browser>,
        deaths: Arc<DeathWatch>,
        watched: Arc<WatchedPages>,
    ) -> (Self, PageCloserTask) {
        let (queue, receiver) = mpsc::unbounded_channel();
        let task = PageCloserTask {
            browser: Arc::clone(&browser),
            deaths,
            watched,
            queue: receiver,
        };
        (Self { browser, queue }, task)
    }

    /// A slot for one page, which takes charge of the page's browser context.
    pub(crate) fn slot(&self, context: Option<BrowserContextId>) -> PageSlot {
        self.browser.add_page();
        PageSlot {
            closer: self.clone(),
            page: Some(ClosingPage {
                context,
                target: None,
                renderers: HashSet::new(),
                done: None,
            }),
        }
    }

    fn close(&self, page: ClosingPage) {
        // Fails when the browser is dead, and every page with it.
        _ = self.queue.send(page);
    }
}

impl PageSlot {
    /// Takes charge of the page itself.
    pub(crate) fn add_target(&mut self, target: TargetId) {
        if let Some(page) = &mut self.page {
            page.target = Some(target);
        }
    }

    /// Takes charge of the renderers that were started for the page.
    pub(crate) fn add_renderers(&mut self, renderers: HashSet<Process>) {
        self.closer.browser.use_renderers(&renderers);
        if let Some(page) = &mut self.page {
            page.renderers = renderers;
        }
    }

    /// Closes the page; returns when the page and its renderers are gone.
    pub(crate) async fn close(mut self) {
        let (done, gone) = oneshot::channel();
        if let Some(mut page) = self.page.take() {
            page.done = Some(done);
            self.closer.close(page);
            // An error means that the browser died, and the page with it.
            _ = gone.await;
        }
    }
}

impl Drop for PageSlot {
    fn drop(&mut self) {
        if let Some(page) = self.page.take() {
            self.closer.close(page);
        }
    }
}

impl PageCloserTask {
    /// Closes pages until the browser is gone.
    pub(crate) async fn run(self) {
        let Self {
            browser,
            deaths,
            watched,
            queue,
        } = self;
        let starting = Semaphore::new(STARTING);
        futures::stream::unfold(queue, async |mut queue| Some((queue.recv().await?, queue)))
            .for_each_concurrent(CONCURRENCY, |page| {
                with_start_permit(&starting, close(&browser, &deaths, &watched, page))
            })
            .await;
    }
}

/// Waits for a start permit, and gives it back after [`STARTING_TIME`] at the latest.
async fn with_start_permit(starting: &Semaphore, closing: impl Future<Output = ()>) {
    let mut closing = pin!(closing);
    // Acquiring fails only on a closed semaphore, and this one is never closed.
    let permit = starting.acquire().await;
    if timeout(STARTING_TIME, closing.as_mut()).await.is_err() {
        drop(permit);
        closing.await;
    }
}

async fn close(browser: &Browser, deaths: &DeathWatch, watched: &WatchedPages, page: ClosingPage) {
    let ClosingPage {
        context,
        target,
        renderers,
        done,
    } = page;
    if let Some(target) = target {
        deaths.forget(&target);
        watched.remove(&target);
        if let Err(error) = browser
            .execute_within(STEP_LIMIT, CloseTargetParams::new(target))
            .await
        {
            tracing::debug!(%error, "page did not close");
        }
    }
    if let Some(context) = context {
        let dispose = DisposeBrowserContextParams::new(context);
        if let Err(error) = browser.execute_within(STEP_LIMIT, dispose).await {
            tracing::debug!(%error, "browser context was not disposed of");
        }
    }
    end_renderers(browser.release_renderers(renderers)).await;
    browser.remove_page();
    if let Some(done) = done {
        // Fails when the caller of `PageSlot::close` has stopped waiting.
        _ = done.send(());
    }
}

/// Waits until the renderers have ended, and kills those that have not ended in time.
async fn end_renderers(renderers: HashSet<Process>) {
    let deadline = Instant::now() + STEP_LIMIT;
    while renderers.iter().any(|renderer| renderer.is_alive()) {
        if Instant::now() > deadline {
            for renderer in renderers.iter().filter(|renderer| renderer.is_alive()) {
                tracing::debug!(pid = %renderer.pid, "renderer outlived its page; killing it");
                renderer.kill();
            }
            return;
        }
        sleep(RENDERER_CHECK).await;
    }
}
