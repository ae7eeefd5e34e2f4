//! The code that the api and the worker share.
//!
//! - [`protocol`]: the jobs, the replies and the frames that they exchange.
//! - [`queue`]: how frames are sent through Redis, and which worker owns a contract.
//! - [`schemas`]: what the arguments and results of contracts are checked by.
//! - [`service`]: how a process reads its settings, starts, stops and reports its state.
//!
//! It does not depend on axum, Chromium or Docker.

pub mod protocol;
pub mod queue;
pub mod schemas;
pub mod service;
