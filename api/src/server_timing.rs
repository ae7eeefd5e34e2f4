//! The header `Server-Timing`: where the time of a call went.

use std::time::Duration;

use bytes::Bytes;
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
        let mut text = Vec::with_capacity(CAPACITY);
        push(&mut text, "queue;dur=", self.queue);
        push(&mut text, ", exec;dur=", self.exec);
        if let Some(cpu) = self.cpu {
            push(&mut text, ", cpu;dur=", cpu);
        }
        HeaderValue::from_maybe_shared(Bytes::from(text))
            .expect("digits and punctuation are a header's value")
    }
}

/// Enough for three times of up to an hour.
const CAPACITY: usize = 64;

/// Appends milliseconds with three decimals. Every call needs two or three of them: digits by
/// `itoa` take a fifth of the instructions of `write!`.
fn push(text: &mut Vec<u8>, name: &str, time: Duration) {
    let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    text.extend_from_slice(name.as_bytes());
    text.extend_from_slice(itoa::Buffer::new().format(micros / 1000).as_bytes());
    text.push(b'.');
    // The leading one keeps the zeros of what follows it.
    let rest = 1000 + micros % 1000;
    text.extend_from_slice(&itoa::Buffer::new().format(rest).as_bytes()[1..]);
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
