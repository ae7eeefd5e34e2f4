//! Everything that a page needs of the browser that it lives in.

use std::sync::Arc;

use super::Browser;
use super::death_watch::DeathWatch;
use super::page_closer::PageCloser;
use super::send_slots::SendSlots;
use crate::chromium::cdp::client::CdpClient;
use crate::chromium::isolation::document::DocumentUrls;
use crate::chromium::isolation::watchdog::WatchedPages;

/// Everything that a page needs of the browser that it lives in.
#[derive(Debug)]
pub(crate) struct BrowserHandle {
    /// Creates pages, and knows when the browser is dead.
    pub(crate) browser: Arc<Browser>,
    /// The connection over which pages are called.
    pub(crate) client: Arc<CdpClient>,
    /// Limits the messages in flight to pages.
    pub(crate) send_slots: SendSlots,
    /// Reports the death of a page.
    pub(crate) deaths: Arc<DeathWatch>,
    /// Issues the URL of a page's document.
    pub(crate) documents: Arc<DocumentUrls>,
    /// The pages whose processor time is measured.
    pub(crate) watched: Arc<WatchedPages>,
    /// Closes pages.
    pub(crate) closer: PageCloser,
}
