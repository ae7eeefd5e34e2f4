//! Everything that a page needs of the browser that it lives in.

use std::sync::Arc;

use super::Browser;
use super::death_watch::DeathWatch;
use super::page_closer::PageCloser;
use super::send_slots::SendSlots;
use super::stalls::Stalls;
use crate::chromium::isolation::document::DocumentUrls;
use crate::chromium::isolation::watchdog::WatchedPages;

/// Everything that a page needs of the browser that it lives in.
#[derive(Debug)]
pub(crate) struct BrowserHandle {
    /// Creates pages, and knows when the browser is dead.
    pub(crate) browser: Arc<Browser>,
    /// Limits the messages in flight to pages.
    pub(crate) send_slots: SendSlots,
    /// When the browser itself was stalled.
    pub(crate) stalls: Arc<Stalls>,
    /// Reports the death of a page.
    pub(crate) deaths: Arc<DeathWatch>,
    /// Issues the URL of a page's document.
    pub(crate) documents: Arc<DocumentUrls>,
    /// The pages whose processor time is measured.
    pub(crate) watched: Arc<WatchedPages>,
    /// Closes pages.
    pub(crate) closer: PageCloser,
}
