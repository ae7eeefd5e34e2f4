//! What the api and the worker must agree on.
//!
//! - [`protocol`]: the jobs, the replies and the frames that travel between them.
//! - [`queue`]: how they travel over Redis, and which worker owns a contract.
//! - [`service`]: how a process reads its settings, starts, ends and reports on itself.
//!
//! Nothing here knows axum, Chromium or Docker.

pub mod protocol;
pub mod queue;
pub mod service;
