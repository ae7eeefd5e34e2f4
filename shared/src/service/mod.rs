//! What every process of the farm needs to start, to end and to report on itself.

pub mod backoff;
pub mod cli;
pub mod config;
pub mod gather;
pub mod lifecycle;
pub mod probe;
pub mod process;
pub mod telemetry;
