//! The inbox of a worker: apis append frames of jobs, only the worker reads them.
//!
//! An inbox is never trimmed by length, because that would drop the oldest calls.

mod reader;
mod writer;

pub use reader::{Reader, Received};
pub use writer::{DEPTH_LIMIT, InboxObserver, Outgoing, Undelivered, writer};
