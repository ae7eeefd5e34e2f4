//! Chromium's debugging protocol (CDP), over a pipe that only the worker and the browser have.
//!
//! - [`client`] sends commands and matches the replies: the one connection to a browser.
//! - [`execute`] is the one rule for time limits: every command has one.
//! - [`commands`] holds the command that is sent for every batch of calls.
//! - [`events`] are the few events that the worker needs, and only what it needs of them.
//! - [`parts`] takes a message from the browser apart.
//! - [`replies`] are the commands without a reply.
//! - [`traffic`] tells how much of the browser's time the connection explains.
//! - [`transport`] reads and writes messages; [`cbor`] is their form.
//!
//! What the commands are used for is decided by their callers. The types of the protocol's commands
//! are generated (`chromiumoxide_cdp`).

mod cbor;
pub(super) mod client;
pub(super) mod commands;
pub(super) mod events;
pub(super) mod execute;
mod parts;
mod replies;
pub(super) mod traffic;
mod transport;
