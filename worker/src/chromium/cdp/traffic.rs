//! What a connection has carried, as the processor time of the browser that it explains.
//!
//! Events are not counted: pages cause them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A command or a reply. A call through a page, which is one of each, takes 110 to 140 us.
const MICROS_PER_MESSAGE: u64 = 75;
/// Three times what a KiB of commands and replies takes.
const MICROS_PER_KIB: u64 = 20;
/// Three times what creating and closing a page takes.
const MICROS_PER_PAGE: u64 = 30_000;

/// The processor time of the browser's main thread that the connection explains.
#[derive(Debug, Default)]
pub(crate) struct Traffic(AtomicU64);

impl Traffic {
    /// Counts a command or a reply of this many bytes.
    pub(crate) fn add(&self, message: usize) {
        let bytes = u64::try_from(message).unwrap_or(u64::MAX);
        self.count(MICROS_PER_MESSAGE + (bytes >> 10).saturating_mul(MICROS_PER_KIB));
    }

    /// Counts a page that is created.
    pub(crate) fn add_page(&self) {
        self.count(MICROS_PER_PAGE);
    }

    fn count(&self, micros: u64) {
        self.0.fetch_add(micros, Ordering::Relaxed);
    }

    /// The time so far.
    pub(crate) fn explained(&self) -> Duration {
        Duration::from_micros(self.0.load(Ordering::Relaxed))
    }
}
