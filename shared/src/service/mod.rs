//! What every process of the farm needs to start, to end and to report on itself.

pub mod backoff;
pub mod batch;
pub mod config;
pub mod lifecycle;
pub mod probe;
pub mod telemetry;
