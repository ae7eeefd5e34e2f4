//! The harness: the code in a page that makes the calls, and the worker's side of it.
//!
//! - `page/` has the code that runs in the page.
//! - [`form`] tells how an executable begins.
//! - [`protocol`] writes what the harness reads and checks what it replies.
//! - [`handle`] calls the harness' functions over the debugging protocol.
//! - [`stack`] reads the places in the stacks of errors.
//! - [`thrown`] reads what the harness reports about an executable and about errors.
//! - [`output`] reads what calls have written to their console.
//! - [`pieces`] cuts long texts for the way to the page.

pub(in crate::chromium) mod form;
pub(in crate::chromium) mod handle;
pub(in crate::chromium) mod output;
pub(in crate::chromium) mod pieces;
pub(in crate::chromium) mod protocol;
pub(in crate::chromium) mod stack;
pub(in crate::chromium) mod thrown;
