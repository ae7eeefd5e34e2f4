//! Pages that are made before anybody needs them: to make one takes most of the time of a load.
//!
//! All pages are made here, a few at a time, and whoever waits longest gets the next one. Nothing of a
//! contract is in a spare page, and a page that was a contract's never comes back.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::{Instant, sleep};

use crate::chromium::cdp::commands::Trouble;
use crate::chromium::page::blank::BlankPage;
use crate::chromium::{config::ChromiumConfig, engine::Fleet};

/// Pages in the making at the same time. Half of the making is waiting: two take hardly longer than
/// one, four are not made sooner (measured on two cores: 45, 31 and 31 ms a page).
const TOGETHER: usize = 2;
/// Pages in a row whose process may end while they are made, before that is taken for the browser's fault.
const STILLBORN: u32 = 3;
/// How long no page is made ahead after one could not be made.
const REST: Duration = Duration::from_secs(1);

type Made = Result<BlankPage, Trouble>;

/// The spare pages of a worker, in all its browsers.
#[derive(Debug, Default)]
pub(super) struct Spares {
    stock: Mutex<Stock>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Stock {
    pages: VecDeque<BlankPage>,
    /// Those who wait for one; there are none while there are pages.
    waiting: VecDeque<oneshot::Sender<Made>>,
}

impl Stock {
    /// How many pages there should be more, with `reserve` beside those that are waited for. What died
    /// counts no longer: a browser that died has taken its own along.
    fn missing(&mut self, reserve: usize) -> usize {
        self.pages.retain_mut(BlankPage::lives);
        self.waiting.retain(|waiting| !waiting.is_closed());
        (self.waiting.len() + reserve).saturating_sub(self.pages.len())
    }

    /// Gives a page to whoever waits longest, or puts it into stock. An error is dropped where
    /// nobody waits.
    fn add(&mut self, mut made: Made) {
        while let Some(waiting) = self.waiting.pop_front() {
            match waiting.send(made) {
                Ok(()) => return,
                Err(back) => made = back,
            }
        }
        self.pages.extend(made);
    }
}

impl Spares {
    /// Takes a page, or gets in the queue for one. None comes once [`Self::keep`] has ended.
    pub(super) fn take(&self) -> oneshot::Receiver<Made> {
        let (waiting, receiver) = oneshot::channel();
        let mut stock = self.stock();
        stock.pages.retain_mut(BlankPage::lives);
        stock.waiting.push_back(waiting);
        if let Some(oldest) = stock.pages.pop_front() {
            stock.add(Ok(oldest));
        }
        self.changed.notify_one();
        receiver
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.stock().pages.len()
    }

    /// Makes a page for everybody who waits, and keeps as many in reserve as the configuration says;
    /// never ends by itself.
    pub(super) async fn keep(&self, config: &ChromiumConfig, mut fleet: watch::Receiver<Fleet>) {
        let mut making = FuturesUnordered::new();
        let mut stillborn = 0;
        let mut rest = pin!(sleep(Duration::ZERO));
        loop {
            let reserve = if rest.is_elapsed() {
                config.spare_pages
            } else {
                0
            };
            let missing = self.stock().missing(reserve);
            let browser = fleet.borrow_and_update().emptiest();
            if let Some(browser) = browser
                && making.len() < missing.min(TOGETHER)
            {
                making.push(BlankPage::open(browser, config));
                continue;
            }
            tokio::select! {
                Some(made) = making.next() => match made {
                    Err(Trouble::Stillborn) if stillborn < STILLBORN => stillborn += 1,
                    made => {
                        stillborn = 0;
                        if let Err(trouble) = &made {
                            tracing::debug!(%trouble, "no page could be made");
                            rest.as_mut().reset(Instant::now() + REST);
                        }
                        self.stock().add(made);
                    }
                },
                () = self.changed.notified() => {}
                Ok(()) = fleet.changed() => {}
                () = rest.as_mut(), if !rest.is_elapsed() => {}
            }
        }
    }

    /// Closes them all, in the background, and disappoints those who wait.
    pub(super) fn clear(&self) {
        *self.stock() = Stock::default();
    }

    fn stock(&self) -> MutexGuard<'_, Stock> {
        // The stock is whole after any panic.
        self.stock.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
