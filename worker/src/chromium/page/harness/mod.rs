//! The harness: the code in a page that makes the calls, and the worker's side of it.
//!
//! - `harness.js` runs in the page.
//! - [`protocol`] writes what the harness reads and checks what it replies.
//! - [`handle`] calls the harness' functions over the debugging protocol.
//! - [`pieces`] cuts long texts for the way to the page.

pub(in crate::chromium) mod handle;
pub(in crate::chromium) mod pieces;
pub(in crate::chromium) mod protocol;
