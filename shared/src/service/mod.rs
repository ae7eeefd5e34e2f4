//! Start, shutdown, configuration and telemetry: what every process of the farm needs.

pub mod backoff;
pub mod batch;
pub mod config;
pub mod lifecycle;
pub mod probe;
pub mod telemetry;
