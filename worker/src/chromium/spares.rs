//! Pages that are made before anybody needs them: to make one takes most of the time of a load.
//!
//! Nothing of a contract is in a spare page, and a page that was a contract's never comes back.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::sleep;

use super::browser::Browser;
use super::cdp::Trouble;
use super::page::BlankPage;
use super::{ChromiumConfig, Fleet};

/// How long no page is made ahead after one could not be made.
const REST: Duration = Duration::from_secs(1);

/// The spare pages of a worker, in all its browsers.
#[derive(Debug, Default)]
pub(super) struct Spares {
    pages: Mutex<VecDeque<BlankPage>>,
    taken: Notify,
}

impl Spares {
    /// Takes a page, if there is one that lives.
    pub(super) fn take(&self) -> Option<BlankPage> {
        let mut pages = self.pages();
        pages.retain_mut(BlankPage::lives);
        let page = pages.pop_front();
        self.taken.notify_one();
        page
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.pages().len()
    }

    /// Keeps as many in reserve as the configuration says; never ends by itself.
    pub(super) async fn keep(&self, config: &ChromiumConfig, mut fleet: watch::Receiver<Fleet>) {
        loop {
            // Those that died count no longer: a browser that died has taken its own along.
            let missing = {
                let mut pages = self.pages();
                pages.retain_mut(BlankPage::lives);
                config.spare_pages.saturating_sub(pages.len())
            };
            let emptiest = fleet.borrow_and_update().emptiest();
            match emptiest {
                Some(browser) if missing > 0 => match open(browser, config).await {
                    Ok(page) => self.pages().push_back(page),
                    Err(trouble) => {
                        tracing::debug!(%trouble, "no page could be made ahead");
                        sleep(REST).await;
                    }
                },
                _ => tokio::select! {
                    () = self.taken.notified() => {}
                    Ok(()) = fleet.changed() => {}
                },
            }
        }
    }

    /// Closes them all, in the background.
    pub(super) fn clear(&self) {
        self.pages().clear();
    }

    fn pages(&self) -> MutexGuard<'_, VecDeque<BlankPage>> {
        // The queue is whole after any panic.
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn open(browser: Arc<Browser>, config: &ChromiumConfig) -> Result<BlankPage, Trouble> {
    let turn = BlankPage::turn(&browser, config).await?;
    BlankPage::open(browser, turn, config).await
}
