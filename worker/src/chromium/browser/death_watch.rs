//! The news of a browser's pages: whoever uses one learns when it dies, and why.
//!
//! Nothing is closed here, and nothing is judged: a page is dead because the browser says so, or whoever
//! has watched it.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use chromiumoxide::cdp::browser_protocol::target::{
    EventTargetCrashed, EventTargetDestroyed, EventTargetInfoChanged, TargetId,
};
use futures::StreamExt;
use futures::stream::{BoxStream, select};
use tokio::sync::oneshot;

use crate::chromium::browser::Browser;
use crate::chromium::cdp::commands::Trouble;

/// The pages whose end is waited for.
#[derive(Debug, Default)]
pub(crate) struct Deaths(Mutex<HashMap<TargetId, Watched>>);

#[derive(Debug)]
struct Watched {
    /// Its only document.
    url: String,
    death: oneshot::Sender<String>,
}

/// What may be the end of a page.
pub(crate) struct Ending {
    target: TargetId,
    /// It is the end only when the document is not at this address.
    url: Option<String>,
    reason: String,
}

impl Deaths {
    /// Tells when a page dies, with the reason. An error means that the browser did.
    pub(crate) fn watch(&self, target: TargetId, url: String) -> oneshot::Receiver<String> {
        let (death, news) = oneshot::channel();
        self.watched().insert(target, Watched { url, death });
        news
    }

    /// Watches a page no longer.
    pub(crate) fn forget(&self, target: &TargetId) {
        self.watched().remove(target);
    }

    /// Takes a page for dead.
    pub(crate) fn announce(&self, target: &TargetId, reason: String) {
        if let Some(page) = self.watched().remove(target) {
            // Nobody may be interested any more.
            _ = page.death.send(reason);
        }
    }

    /// Announces the ends of all pages for as long as the browser tells of them.
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
        // A change of the title or of the address' fragment leaves the document alone.
        let watched = self.watched();
        let page = watched.get(&ending.target);
        page.is_some_and(|page| !url.starts_with(&page.url))
    }

    fn watched(&self) -> MutexGuard<'_, HashMap<TargetId, Watched>> {
        // Whole between any two statements.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whatever may be the end of a page.
pub(crate) async fn endings(browser: &Browser) -> Result<BoxStream<'static, Ending>, Trouble> {
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
