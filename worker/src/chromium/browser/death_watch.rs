//! Reports to the user of a page when the page dies, and why.
//!
//! Nothing is closed or decided here. A page is dead when the browser reports it, or when the
//! watchdog declares it.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use chromiumoxide_cdp::cdp::browser_protocol::target::TargetId;
use tokio::sync::{mpsc, oneshot};

use super::Browser;
use crate::chromium::cdp::events::{EndCause, SessionEnd};
use crate::sandbox::LossCause;

/// The pages of one browser whose death is to be reported.
#[derive(Debug, Default)]
pub(crate) struct DeathWatch(Mutex<HashMap<TargetId, AwaitedPage>>);

#[derive(Debug)]
struct AwaitedPage {
    /// The worker's session with it.
    session: String,
    death: oneshot::Sender<String>,
}

/// How a page ended.
#[derive(Debug)]
pub(crate) struct PageDeath {
    pub(crate) reason: String,
    pub(crate) cause: LossCause,
}

impl PageDeath {
    /// The page ended by itself, or was declared dead.
    pub(crate) fn of_page(reason: String) -> Self {
        Self {
            reason,
            cause: LossCause::Crash,
        }
    }

    /// The page ended with its browser. A crashed browser counts as a crash of its contracts: one
    /// of them may be the cause. A browser that stopped to reply does not: the machine may be busy.
    pub(crate) fn of_browser(browser: &Browser) -> Self {
        let (reason, cause) = if browser.is_unresponsive() {
            ("its browser stopped replying", LossCause::Unresponsive)
        } else {
            ("its browser ended", LossCause::Crash)
        };
        Self {
            reason: reason.to_owned(),
            cause,
        }
    }
}

impl DeathWatch {
    /// Starts to watch a page. The receiver gets the reason of its death; an error means that the
    /// browser died.
    pub(crate) fn watch(&self, target: TargetId, session: String) -> oneshot::Receiver<String> {
        let (death, receiver) = oneshot::channel();
        self.lock().insert(target, AwaitedPage { session, death });
        receiver
    }

    /// Stops watching a page.
    pub(crate) fn forget(&self, target: &TargetId) {
        self.lock().remove(target);
    }

    /// Reports that a page is dead.
    pub(crate) fn announce(&self, target: &TargetId, reason: String) {
        if let Some(page) = self.lock().remove(target) {
            // Fails when the page's user has dropped the receiver.
            _ = page.death.send(reason);
        }
    }

    /// Reports the pages that end, until the browser sends no more events.
    pub(crate) async fn follow(&self, mut ends: mpsc::UnboundedReceiver<SessionEnd>) {
        while let Some(end) = ends.recv().await {
            let reason = match end.cause {
                EndCause::Crashed => "its process ended",
                EndCause::Closed => "its page was closed",
            };
            if let Some(target) = self.find(&end.session) {
                self.announce(&target, reason.to_owned());
            }
        }
    }

    fn find(&self, session: &str) -> Option<TargetId> {
        let pages = self.lock();
        let mut pages = pages.iter();
        let found = pages.find(|(_, page)| page.session == session);
        found.map(|(target, _)| target.clone())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TargetId, AwaitedPage>> {
        // No panic can leave the map half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
