//! One page, which serves one contract.
//!
//! - [`blank`] creates a page in a renderer of its own, and dedicates it to a contract.
//! - [`loaded`] evaluates the contract's executable in it.
//! - [`harness`] is the code in the page that makes the calls, and the worker's side of it.
//!
//! The calls themselves, and their time limits, belong to `instance`.

pub(super) mod blank;
pub(super) mod harness;
pub(super) mod loaded;
