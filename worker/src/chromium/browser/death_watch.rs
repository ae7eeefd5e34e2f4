//! Reports to the user of a page when the page dies, and why.
//!
//! Nothing is closed or decided here. A page is dead when the browser reports it, or when the
//! watchdog declares it.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use chromiumoxide::cdp::browser_protocol::target::{
    EventTargetCrashed, EventTargetDestroyed, EventTargetInfoChanged, TargetId,
};
use futures::StreamExt;
use futures::stream::{BoxStream, select};
use tokio::sync::oneshot;

use super::Browser;
use crate::chromium::cdp::execute::CdpError;
use crate::sandbox::LossCause;

/// The pages of one browser whose death is to be reported.
#[derive(Debug, Default)]
pub(crate) struct DeathWatch(Mutex<HashMap<TargetId, AwaitedPage>>);

#[derive(Debug)]
struct AwaitedPage {
    /// The URL of its only document.
    url: String,
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

    /// The page ended with its browser. A crashed browser counts as a crash of its contracts: one of
    /// them may be the cause. A browser that stopped to reply does not: the machine may be busy.
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

/// An event that may be the end of a page.
pub(crate) struct Ending {
    target: TargetId,
    /// If present, the page ends only if this is not the URL of its document.
    url: Option<String>,
    reason: String,
}

impl DeathWatch {
    /// Starts to watch a page. The receiver gets the reason of its death; an error means that the
    /// browser died.
    pub(crate) fn watch(&self, target: TargetId, url: String) -> oneshot::Receiver<String> {
        let (death, receiver) = oneshot::channel();
        self.lock().insert(target, AwaitedPage { url, death });
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
    pub(crate) async fn follow(&self, mut endings: BoxStream<'static, Ending>) {
        while let Some(ending) = endings.next().await {
            if self.is_end(&ending) {
                self.announce(&ending.target, ending.reason);
            }
        }
    }

    fn is_end(&self, ending: &Ending) -> bool {
        let Some(url) = &ending.url else {
            return true;
        };
        // A new title or a new fragment in the URL leaves the document in place.
        let pages = self.lock();
        let page = pages.get(&ending.target);
        page.is_some_and(|page| !url.starts_with(&page.url))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TargetId, AwaitedPage>> {
        // No panic can leave the map half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Subscribes to every event that may be the end of a page.
pub(crate) async fn endings(browser: &Browser) -> Result<BoxStream<'static, Ending>, CdpError> {
    let crashed = browser.listen::<EventTargetCrashed>().await?;
    let crashed = crashed.map(|event| Ending {
        target: event.target_id.clone(),
        url: None,
        reason: format!("its process ended: {} ({})", event.status, event.error_code),
    });
    let destroyed = browser.listen::<EventTargetDestroyed>().await?;
    let destroyed = destroyed.map(|event| Ending {
        target: event.target_id.clone(),
        url: None,
        reason: "its page was closed".to_owned(),
    });
    let changed = browser.listen::<EventTargetInfoChanged>().await?;
    let changed = changed.map(|event| Ending {
        target: event.target_info.target_id.clone(),
        url: Some(event.target_info.url.clone()),
        reason: "it replaced its document".to_owned(),
    });
    Ok(select(select(crashed, destroyed), changed).boxed())
}
