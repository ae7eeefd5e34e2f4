//! How pages end: all of them here, whether they are closed, dropped, or never came to be.
//!
//! Closing is three steps, because a page that is busy in the engine's own code (a sort of ten million
//! numbers) hears nobody: the target is closed, its browser context disposed of, and a renderer that
//! lives on is killed.

use std::collections::HashSet;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use chromiumoxide::cdp::browser_protocol::browser::BrowserContextId;
use chromiumoxide::cdp::browser_protocol::target::{
    CloseTargetParams, DisposeBrowserContextParams, TargetId,
};
use futures::StreamExt;
use nix::sys::signal::{Signal, kill};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout};

use crate::chromium::browser::Browser;
use crate::chromium::process::proc::Process;

/// How long each step of closing may take, and a renderer live after it.
const STEP_LIMIT: Duration = Duration::from_secs(1);
/// How often a renderer is looked at that should be gone. It is no child of this process, so
/// nothing tells of its end.
const GLANCE: Duration = Duration::from_millis(10);
/// Pages that are closed at the same time, per browser.
const CONCURRENCY: usize = 32;
/// How many of them keep the browser busy: it closes a page on the thread that passes all calls on, and
/// many in a row would hold up those of the contracts that stay.
const TURNS: usize = 3;
/// How long a page has to close before the next one may begin: one that hears nobody holds up none.
const TURN: Duration = Duration::from_millis(50);

/// What there is of a page in its browser.
#[derive(Debug)]
pub(crate) struct Remains {
    /// None: the browser's own, which stays.
    context: Option<BrowserContextId>,
    target: Option<TargetId>,
    renderers: HashSet<Process>,
    done: Option<oneshot::Sender<()>>,
}

/// A page's place in a browser. Dropping it has the page closed in the background.
#[derive(Debug)]
pub(crate) struct Lease {
    browser: Arc<Browser>,
    remains: Option<Remains>,
}

impl Lease {
    /// Takes charge of a browser context.
    pub(crate) fn new(browser: Arc<Browser>, context: Option<BrowserContextId>) -> Self {
        browser.page_begins();
        let renderers = HashSet::new();
        Self {
            browser,
            remains: Some(Remains {
                context,
                target: None,
                renderers,
                done: None,
            }),
        }
    }

    /// Takes charge of the context's page as well.
    pub(crate) fn add_target(&mut self, target: TargetId) {
        if let Some(remains) = &mut self.remains {
            remains.target = Some(target);
        }
    }

    /// Takes charge of the processes that came up with the page.
    pub(crate) fn add_renderers(&mut self, renderers: HashSet<Process>) {
        self.browser.claim(&renderers);
        if let Some(remains) = &mut self.remains {
            remains.renderers = renderers;
        }
    }

    /// The browser that the page lives in.
    pub(crate) fn browser(&self) -> &Arc<Browser> {
        &self.browser
    }

    /// Closes the page; returns when it is gone, and its process too.
    pub(crate) async fn close(mut self) {
        let (done, gone) = oneshot::channel();
        if let Some(mut remains) = self.remains.take() {
            remains.done = Some(done);
            self.browser.reap(remains);
            // An error means that the browser died, and the page with it.
            _ = gone.await;
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(remains) = self.remains.take() {
            self.browser.reap(remains);
        }
    }
}

/// Closes whatever is handed in, until the browser is gone.
pub(crate) async fn run(browser: Arc<Browser>, remains: mpsc::UnboundedReceiver<Remains>) {
    let turns = Semaphore::new(TURNS);
    futures::stream::unfold(remains, async |mut queue| {
        Some((queue.recv().await?, queue))
    })
    .for_each_concurrent(CONCURRENCY, |remains| {
        in_turn(&turns, reap(&browser, remains))
    })
    .await;
}

/// Waits for a turn, and gives it back after [`TURN`] at the latest.
async fn in_turn(turns: &Semaphore, closing: impl Future<Output = ()>) {
    let mut closing = pin!(closing);
    // An error would say that there are no turns any more; they are never closed.
    let turn = turns.acquire().await;
    if timeout(TURN, closing.as_mut()).await.is_err() {
        drop(turn);
        closing.await;
    }
}

async fn reap(browser: &Browser, remains: Remains) {
    let Remains {
        context,
        target,
        renderers,
        done,
    } = remains;
    if let Some(target) = target {
        browser.forget(&target);
        if let Err(trouble) = browser
            .execute_within(STEP_LIMIT, CloseTargetParams::new(target))
            .await
        {
            tracing::debug!(%trouble, "a page did not close");
        }
    }
    if let Some(context) = context {
        let dispose = DisposeBrowserContextParams::new(context);
        if let Err(trouble) = browser.execute_within(STEP_LIMIT, dispose).await {
            tracing::debug!(%trouble, "a browser context was not disposed of");
        }
    }
    see_off(browser.release(renderers)).await;
    browser.page_ended();
    if let Some(done) = done {
        // Nobody may be waiting any more.
        _ = done.send(());
    }
}

/// Waits for the processes' end, and brings it about when it does not come.
async fn see_off(renderers: HashSet<Process>) {
    let deadline = Instant::now() + STEP_LIMIT;
    while renderers.iter().any(|renderer| renderer.is_alive()) {
        if Instant::now() > deadline {
            for renderer in renderers.iter().filter(|renderer| renderer.is_alive()) {
                tracing::debug!(pid = %renderer.pid, "killing a renderer that outlived its page");
                _ = kill(renderer.pid, Signal::SIGKILL);
            }
            return;
        }
        sleep(GLANCE).await;
    }
}
