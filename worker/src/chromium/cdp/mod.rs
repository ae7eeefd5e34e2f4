//! Chromium's debugging protocol (CDP).
//!
//! - [`execute`] sends a command over chromiumoxide's connection, with a time limit.
//! - [`client`] is the second, leaner connection, over which pages are called.
//! - [`commands`] holds the command that is sent for every batch of calls.
//!
//! What the commands are used for is decided by their callers.

pub(super) mod client;
pub(super) mod commands;
pub(super) mod execute;
