//! The page pool: blank pages that are created ahead, since creating one takes most of a load's
//! time.
//!
//! All pages are created here, a few at a time. The load that has waited longest gets the next one.
//! A page in the pool has never run contract code, and a contract's page never returns to the pool.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::config::ChromiumConfig;
use super::fleet::Fleet;
use super::page::blank::{BlankPage, OpenError};

/// Pages that are created at the same time. Half of the creation is waiting: two take hardly longer
/// than one, four are not faster (measured on two cores with 1, 2 and 4: 45, 31 and 31 ms a page).
const CONCURRENCY: usize = 2;
/// How many pages in a row may lose their renderer while they are created. One more is reported as
/// a failure of the browser.
const RENDERER_FAILURES: u32 = 3;
/// How long no page is created ahead after one could not be created.
const PAUSE: Duration = Duration::from_secs(1);

type OpenedPage = Result<BlankPage, OpenError>;

/// The blank pages of a worker, in all its browsers.
#[derive(Debug, Default)]
pub(super) struct PagePool {
    state: Mutex<PoolState>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct PoolState {
    pages: VecDeque<BlankPage>,
    /// Loads that wait for a page; none while there are pages.
    waiters: VecDeque<oneshot::Sender<OpenedPage>>,
}

impl PoolState {
    /// How many more pages are needed, with `reserve` beyond those that loads wait for. Dead pages
    /// are removed first: when a browser dies, its pages die with it.
    fn missing(&mut self, reserve: usize) -> usize {
        self.pages.retain_mut(BlankPage::is_alive);
        self.waiters.retain(|waiter| !waiter.is_closed());
        (self.waiters.len() + reserve).saturating_sub(self.pages.len())
    }

    /// Gives a page to the load that has waited longest, or keeps it. An error is dropped if no
    /// load waits.
    fn add(&mut self, mut opened: OpenedPage) {
        while let Some(waiter) = self.waiters.pop_front() {
            match waiter.send(opened) {
                Ok(()) => return,
                Err(returned) => opened = returned,
            }
        }
        self.pages.extend(opened);
    }
}

impl PagePool {
    /// Takes a page, or joins the queue for one. No page comes once [`Self::run`] has ended.
    pub(super) fn take(&self) -> oneshot::Receiver<OpenedPage> {
        let (waiter, receiver) = oneshot::channel();
        let mut state = self.lock();
        state.pages.retain_mut(BlankPage::is_alive);
        state.waiters.push_back(waiter);
        if let Some(oldest) = state.pages.pop_front() {
            state.add(Ok(oldest));
        }
        self.changed.notify_one();
        receiver
    }

    /// How many pages are in the pool.
    pub(super) fn len(&self) -> usize {
        self.lock().pages.len()
    }

    /// Creates pages until `stop`. Then closes those in the pool, in the background, and fails the
    /// loads that wait.
    pub(super) async fn run(
        self: Arc<Self>,
        config: Arc<ChromiumConfig>,
        fleet: watch::Receiver<Fleet>,
        stop: CancellationToken,
    ) {
        stop.run_until_cancelled(self.fill(&config, fleet)).await;
        *self.lock() = PoolState::default();
    }

    /// Creates a page for each load that waits, and the configured number of spare ones. Never ends
    /// by itself.
    async fn fill(&self, config: &ChromiumConfig, mut fleet: watch::Receiver<Fleet>) {
        let mut opening = FuturesUnordered::new();
        let mut renderer_failures = 0;
        let mut pause = pin!(sleep(Duration::ZERO));
        loop {
            let reserve = if pause.is_elapsed() {
                config.spare_pages
            } else {
                0
            };
            let missing = self.lock().missing(reserve);
            let browser = fleet.borrow_and_update().least_loaded();
            if let Some(browser) = browser
                && opening.len() < missing.min(CONCURRENCY)
            {
                opening.push(BlankPage::open(browser, config));
                continue;
            }
            tokio::select! {
                Some(opened) = opening.next() => match opened {
                    Err(OpenError::RendererEnded) if renderer_failures < RENDERER_FAILURES => {
                        renderer_failures += 1;
                    }
                    opened => {
                        renderer_failures = 0;
                        if let Err(error) = &opened {
                            tracing::debug!(%error, "page could not be created");
                            pause.as_mut().reset(Instant::now() + PAUSE);
                        }
                        self.lock().add(opened);
                    }
                },
                () = self.changed.notified() => {}
                Ok(()) = fleet.changed() => {}
                () = pause.as_mut(), if !pause.is_elapsed() => {}
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, PoolState> {
        // No panic can leave the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
