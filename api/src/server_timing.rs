//! The header `Server-Timing`: where the time of a call went.

use std::fmt::Write as _;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use shared::protocol::frame::Reply;

pub(crate) const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// The times of one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ServerTiming {
    /// How long the call waited, in this process, in Redis and in its worker.
    pub(crate) queue: Duration,
    /// How long it ran.
    pub(crate) exec: Duration,
    /// The processor time that it used, if its engine measures it.
    pub(crate) cpu: Option<Duration>,
}

impl ServerTiming {
    /// The times of a call with this reply, which came so long after the request.
    pub(crate) fn of(reply: &Reply, took: Duration) -> Self {
        let exec = Duration::from_micros(reply.ran_us.unwrap_or_default()).min(took);
        Self {
            queue: took.saturating_sub(exec),
            exec,
            cpu: reply.cpu_us.map(Duration::from_micros),
        }
    }

    /// The header's value, in milliseconds: the unit of the header's specification.
    pub(crate) fn header(self) -> HeaderValue {
        let mut text = String::with_capacity(48);
        let times = [("queue", self.queue), ("exec", self.exec)];
        for (name, time) in times.into_iter().chain(self.cpu.map(|cpu| ("cpu", cpu))) {
            let comma = if text.is_empty() { "" } else { ", " };
            let (millis, rest) = (time.as_millis(), time.subsec_micros() % 1000);
            // Writing to a string cannot fail.
            _ = write!(text, "{comma}{name};dur={millis}.{rest:03}");
        }
        HeaderValue::from_str(&text).expect("digits and punctuation are a header's value")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_milliseconds() {
        let timing = ServerTiming {
            queue: Duration::from_micros(12_045),
            exec: Duration::from_nanos(900),
            cpu: None,
        };
        assert_eq!(timing.header(), "queue;dur=12.045, exec;dur=0.000");
        let measured = ServerTiming {
            cpu: Some(Duration::from_micros(2_000_007)),
            ..timing
        };
        let expected = "queue;dur=12.045, exec;dur=0.000, cpu;dur=2000.007";
        assert_eq!(measured.header(), expected);
    }
}
