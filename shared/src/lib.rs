//! What the api and the worker must agree on.
//!
//! Jobs, replies and how they travel; the queue's protocol on Redis; and the few helpers that both
//! programs start with. Nothing here knows HTTP, Chromium or Docker.

pub mod backoff;
pub mod config;
pub mod frame;
pub mod gather;
pub mod id;
pub mod image;
pub mod job;
pub mod lifecycle;
pub mod probe;
pub mod queue;
pub mod reply;
pub mod telemetry;
