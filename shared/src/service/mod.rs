//! Start, shutdown, configuration and telemetry: what every process of the farm needs.

pub mod backoff;
pub mod batch;
pub mod cli;
pub mod config;
pub mod lifecycle;
pub mod moment;
pub mod probe;
pub mod process;
pub mod scheduling;
pub mod telemetry;
