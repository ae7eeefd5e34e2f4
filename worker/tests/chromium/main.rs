//! The JavaScript engine against a real Chromium, through the interface that the worker uses.
//!
//! No test here measures time: a test that waits waits for a condition, with a generous deadline.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, its helpers too"
)]

mod confinement;
mod driver;
mod explosive_results;
mod floods;
mod forms;
mod installation;
mod isolation;
mod names;
mod own_engine;
mod page_pool;
mod processes;
mod promises;
mod resource_limits;
mod starved;
mod sums;
mod supervision;
mod tampering;
mod time_limits;
mod values;
