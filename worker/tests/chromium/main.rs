//! The JavaScript engine against a real Chromium, through the interface that the worker uses.
//!
//! No test here measures time: where one waits, it waits for a condition, with a generous deadline.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, its helpers too"
)]

mod bounds;
mod driver;
mod forms;
mod isolation;
mod limits;
mod own;
mod processes;
mod promises;
mod spares;
mod starved;
mod tampering;
mod values;
