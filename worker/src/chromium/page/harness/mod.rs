//! The code in a page that makes the calls, and the worker's side of it.

pub(in crate::chromium) mod handle;
pub(in crate::chromium) mod protocol;
