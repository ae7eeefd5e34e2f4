//! What is known about the run of a job, for its reply and its span.

use std::time::Duration;

use shared::protocol::reply::Failure;
use shared::service::telemetry::traces::Span;

use crate::sandbox::CallTime;

/// Facts about a job's run that its reply carries besides the outcome.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct RunInfo {
    /// The contract's generation.
    pub(crate) generation: Option<u64>,
    /// What the job took.
    pub(crate) time: Option<CallTime>,
}

impl RunInfo {
    /// Records on a span how its job ended.
    pub(crate) fn record<T>(self, span: &mut Span, outcome: &Result<T, Failure>) {
        if !span.is_recording() {
            return;
        }
        if let Some(generation) = self.generation {
            span.set(
                "execution.generation",
                i64::try_from(generation).unwrap_or(i64::MAX),
            );
        }
        if let Some(time) = self.time {
            span.set("execution.run_ms", time.elapsed.as_secs_f64() * 1000.0);
            if let Some(cpu) = time.cpu {
                span.set("execution.cpu_ms", cpu.as_secs_f64() * 1000.0);
            }
        }
        if let Err(failure) = outcome {
            span.fail(failure.code.name());
        }
    }
}

/// A time in whole microseconds.
pub(crate) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
