//! How much a connection has carried. It explains a part of the browser's work.

use std::sync::atomic::{AtomicU64, Ordering};

/// The bytes of a connection's commands and replies. Events are not counted: pages cause them.
#[derive(Debug, Default)]
pub(crate) struct Traffic(AtomicU64);

impl Traffic {
    pub(super) fn add(&self, message: usize) {
        let bytes = u64::try_from(message).unwrap_or(u64::MAX);
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }

    /// The bytes so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
