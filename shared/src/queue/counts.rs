//! The metrics of the queue, and a connection wrapper that counts failed commands.

use std::sync::Arc;

use redis::aio::ConnectionLike;
use redis::{Cmd, ErrorKind, Pipeline, RedisError, RedisFuture, Value};

use crate::service::telemetry::metrics::{Counter, Histogram, Registry};

/// The counters of the queue. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Counts {
    errors: Arc<Errors>,
    /// Jobs per frame.
    pub(super) frame: Histogram,
    /// Dead workers cleaned up.
    pub(super) reaps: Counter,
    reaped_started: Counter,
    reaped_not_started: Counter,
    unreadable: Counter,
    quarantine: Counter,
    lost: Counter,
    image_missing: Counter,
    /// Contracts quarantined because their workers died.
    pub(super) quarantined_by_deaths: Counter,
    /// Contracts quarantined because their sandboxes were lost.
    pub(super) quarantined_by_losses: Counter,
}

impl Counts {
    /// Registers the counters in `registry`.
    pub(super) fn new(registry: &Registry) -> Self {
        let jobs = |started| {
            registry.counter(
                "execution_reaped_jobs_total",
                "Jobs in the inboxes of dead workers that this process replied to.",
                &[("started", started)],
            )
        };
        let dead_letters = |kind| {
            registry.counter(
                "execution_dead_letters_total",
                "Dead letters recorded for an operator to check.",
                &[("kind", kind)],
            )
        };
        let quarantines = |cause| {
            registry.counter(
                "execution_quarantines_total",
                "Contracts that were quarantined.",
                &[("cause", cause)],
            )
        };
        Self {
            errors: Arc::new(Errors::new(registry)),
            frame: registry.histogram(
                "execution_inbox_frame_size",
                "Jobs sent to a worker in one frame.",
                &[],
            ),
            reaps: registry.counter(
                "execution_reaps_total",
                "Dead workers that this process has cleaned up.",
                &[],
            ),
            reaped_started: jobs("maybe"),
            reaped_not_started: jobs("no"),
            unreadable: dead_letters("unreadable"),
            quarantine: dead_letters("quarantine"),
            lost: dead_letters("lost"),
            image_missing: dead_letters("image_missing"),
            quarantined_by_deaths: quarantines("worker_deaths"),
            quarantined_by_losses: quarantines("sandbox_losses"),
        }
    }

    /// Wraps a connection, so that its failed commands are counted.
    pub(super) fn observed<C>(&self, connection: C) -> Observed<C> {
        Observed {
            connection,
            errors: self.errors.clone(),
        }
    }

    /// Counts jobs of a dead worker that this process replied to.
    pub(super) fn reaped(&self, maybe_started: bool, jobs: usize) {
        let counter = if maybe_started {
            &self.reaped_started
        } else {
            &self.reaped_not_started
        };
        counter.increment(u64::try_from(jobs).unwrap_or(u64::MAX));
    }

    /// Counts a dead letter of this kind.
    pub(super) fn dead_letter(&self, kind: Option<&str>) {
        match kind {
            Some("quarantine") => self.quarantine.increment(1),
            Some("lost") => self.lost.increment(1),
            Some("image_missing") => self.image_missing.increment(1),
            _ => self.unreadable.increment(1),
        }
    }

    /// Counts a failed connection attempt.
    pub(super) fn not_connected(&self) {
        self.errors.connection.increment(1);
    }
}

/// Failed commands, by cause.
#[derive(Debug)]
struct Errors {
    connection: Counter,
    timeout: Counter,
    refused: Counter,
    other: Counter,
}

impl Errors {
    fn new(registry: &Registry) -> Self {
        let kind = |kind| {
            registry.counter(
                "execution_redis_errors_total",
                "Redis commands that failed, or whose outcome is unknown.",
                &[("kind", kind)],
            )
        };
        Self {
            connection: kind("connection"),
            timeout: kind("timeout"),
            refused: kind("refused"),
            other: kind("other"),
        }
    }

    fn note(&self, error: &RedisError) {
        if is_expected(error.code()) {
            return;
        }
        let counter = if error.is_timeout() {
            &self.timeout
        } else if error.kind() == ErrorKind::Io {
            &self.connection
        } else if is_refusal(error.code()) {
            &self.refused
        } else {
            &self.other
        };
        counter.increment(1);
    }

    fn note_answers(&self, answers: &[Value]) {
        for answer in answers {
            if let Value::ServerError(error) = answer {
                self.note(&error.clone().into());
            }
        }
    }
}

/// Errors that are part of the protocol and not failures.
fn is_expected(code: Option<&str>) -> bool {
    matches!(
        code,
        Some("NOGROUP" | "BUSYGROUP" | "NOSCRIPT" | "UNBLOCKED")
    )
}

/// Errors of a Redis that is up and refuses the command.
fn is_refusal(code: Option<&str>) -> bool {
    matches!(
        code,
        Some("OOM" | "READONLY" | "LOADING" | "MISCONF" | "MASTERDOWN" | "NOAUTH" | "NOPERM")
    )
}

/// A connection whose failed commands are counted.
pub(super) struct Observed<C> {
    connection: C,
    errors: Arc<Errors>,
}

impl<C> std::fmt::Debug for Observed<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Observed").finish_non_exhaustive()
    }
}

impl<C: ConnectionLike + Send> ConnectionLike for Observed<C> {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(async move {
            let answer = self.connection.req_packed_command(cmd).await;
            match &answer {
                Ok(value) => self.errors.note_answers(std::slice::from_ref(value)),
                Err(error) => self.errors.note(error),
            }
            answer
        })
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        Box::pin(async move {
            let answers = self
                .connection
                .req_packed_commands(pipeline, offset, count)
                .await;
            match &answers {
                Ok(values) => self.errors.note_answers(values),
                Err(error) => self.errors.note(error),
            }
            answers
        })
    }

    fn get_db(&self) -> i64 {
        self.connection.get_db()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expected_errors_are_not_counted() {
        let registry = Registry::default();
        let errors = Errors::new(&registry);
        let answer = |code: &str| {
            let line = format!("-{code} refused\r\n");
            redis::parse_redis_value(line.as_bytes()).expect("an answer of Redis")
        };
        errors.note_answers(&[answer("NOGROUP"), answer("NOSCRIPT"), answer("OOM")]);
        errors.note(&std::io::Error::from(std::io::ErrorKind::BrokenPipe).into());
        errors.note(&std::io::Error::from(std::io::ErrorKind::TimedOut).into());
        let text = registry.render();
        for (kind, count) in [
            ("refused", 1),
            ("connection", 1),
            ("timeout", 1),
            ("other", 0),
        ] {
            let line = format!("execution_redis_errors_total{{kind=\"{kind}\"}} {count}");
            assert!(text.contains(&line), "{line} is not in {text}");
        }
    }
}
