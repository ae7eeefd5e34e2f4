//! The api's metrics. Handles are created here once; the code that counts holds them.

mod routes;

use shared::queue::{Memory, ServerName};
use shared::service::telemetry::metrics::{Counter, Gauge, Histogram, Registry};

use self::routes::RouteMetrics;
use crate::admission::RequestKind;
use crate::breaker::QueueState;
use crate::limits::Refusals;

/// The api's metrics.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    /// Requests by route.
    pub(crate) routes: RouteMetrics,
    /// From a call's acceptance to its response, without its run time.
    pub(crate) queue_wait: Histogram,
    /// Counted by the dispatcher.
    pub(crate) dispatch: DispatchMetrics,
    /// Calls that a limit refused.
    pub(crate) limited: Refusals,
    unclaimed_replies: Counter,
    in_flight: Gauge,
    available: Gauge,
    connections: Gauge,
    unanswered: Gauge,
    call_bytes: Gauge,
    load_bytes: Gauge,
    memory_used: Gauge,
    memory_limit: Gauge,
    executables: Gauge,
    refuses_loads: Gauge,
    refuses_calls: Gauge,
}

/// Counted by the dispatcher.
#[derive(Debug, Clone)]
pub(crate) struct DispatchMetrics {
    /// The contract's owner was in the cache.
    pub(crate) cache_hits: Counter,
    /// The contract's owner had to be looked up in Redis.
    pub(crate) cache_misses: Counter,
    /// A further attempt of a call.
    pub(crate) retries: Counter,
}

/// The state of the process at the moment of a scrape.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    /// Requests in progress.
    pub(crate) in_flight: usize,
    /// Replies without a waiter so far.
    pub(crate) unclaimed_replies: u64,
    /// Open connections.
    pub(crate) connections: usize,
    /// Contracts whose calls ended lately without an answer of their own.
    pub(crate) unanswered: usize,
    /// Bytes of the bodies of calls and unloads, and of loads.
    pub(crate) body_bytes: [usize; 2],
    /// Whether the queue takes requests.
    pub(crate) queue: QueueState,
    /// The servers of Redis, each with its state.
    pub(crate) servers: Vec<(ServerName, QueueState)>,
    /// The memory of Redis.
    pub(crate) memory: Memory,
    /// The bytes of all executables in Redis.
    pub(crate) executables: u64,
}

impl Metrics {
    #[expect(clippy::too_many_lines, reason = "a list of metrics")]
    pub(crate) fn new(registry: Registry) -> Self {
        let cache = |outcome| {
            registry.counter(
                "execution_api_route_cache_lookups_total",
                "Lookups of the worker that owns a contract, in the cache of this process.",
                &[("outcome", outcome)],
            )
        };
        let body_bytes = |kind| {
            registry.gauge(
                "execution_api_body_bytes",
                "Bytes of request bodies in flight. Those of calls include unloads.",
                &[("kind", kind)],
            )
        };
        let refuses = |kind| {
            registry.gauge(
                "execution_api_refuses",
                "1 while requests of this kind are refused, because Redis does not answer or is low on memory.",
                &[("kind", kind)],
            )
        };
        Self {
            routes: RouteMetrics::new(registry.clone()),
            queue_wait: registry.histogram(
                "execution_api_queue_wait_seconds",
                "Time from a call's acceptance to its response, without its run time.",
                &[],
            ),
            dispatch: DispatchMetrics {
                cache_hits: cache("hit"),
                cache_misses: cache("miss"),
                retries: registry.counter(
                    "execution_api_retries_total",
                    "Further attempts after the first one.",
                    &[],
                ),
            },
            limited: Refusals::new(&registry),
            unclaimed_replies: registry.counter(
                "execution_api_unclaimed_replies_total",
                "Replies that were duplicate, late, or for a client that had disconnected.",
                &[],
            ),
            in_flight: registry.gauge(
                "execution_api_requests_in_flight",
                "Loads, calls and unloads in progress.",
                &[],
            ),
            available: registry.gauge(
                "execution_api_queue_available",
                "1 while Redis answers and calls are taken, otherwise 0.",
                &[],
            ),
            connections: registry.gauge(
                "execution_api_connections",
                "Open connections of clients.",
                &[],
            ),
            unanswered: registry.gauge(
                "execution_api_contracts_unanswered",
                "Contracts with a call within the last minute or two that ended without an answer of theirs.",
                &[],
            ),
            call_bytes: body_bytes("call"),
            load_bytes: body_bytes("load"),
            memory_used: registry.gauge(
                "execution_api_redis_memory_used_bytes",
                "Memory that Redis uses, as this process measured it last.",
                &[],
            ),
            memory_limit: registry.gauge(
                "execution_api_redis_memory_limit_bytes",
                "The maxmemory of Redis; 0 if it has none.",
                &[],
            ),
            executables: registry.gauge(
                "execution_api_executables_bytes",
                "What the executables of all contracts take in Redis. The limit is EXECUTABLES_LIMIT_BYTES.",
                &[],
            ),
            refuses_loads: refuses("load"),
            refuses_calls: refuses("call"),
            registry,
        }
    }

    /// Renders all metrics in Prometheus' text format.
    pub(crate) fn render(&self, now: &Snapshot) -> String {
        self.in_flight.set(count(now.in_flight));
        self.unclaimed_replies.absolute(now.unclaimed_replies);
        let [call_bytes, load_bytes] = now.body_bytes;
        self.connections.set(count(now.connections));
        self.unanswered.set(count(now.unanswered));
        self.call_bytes.set(count(call_bytes));
        self.load_bytes.set(count(load_bytes));
        self.memory_used.set(bytes(now.memory.used));
        self.memory_limit.set(bytes(now.memory.limit));
        self.executables.set(bytes(now.executables));
        let refuses = |kind| f64::from(u8::from(now.queue.refuses(kind)));
        self.refuses_loads.set(refuses(RequestKind::Load));
        self.refuses_calls.set(refuses(RequestKind::Call));
        self.available.set(1.0 - refuses(RequestKind::Call));
        self.registry.render() + &render_servers(&now.servers)
    }
}

/// Servers of Redis come and go with the names of their machines, so their gauges are not
/// registered: those of servers that are gone would stay.
fn render_servers(states: &[(ServerName, QueueState)]) -> String {
    const NAME: &str = "execution_api_redis_server_available";
    let lines = states.iter().map(|(server, state)| {
        let answers = u8::from(*state != QueueState::Unavailable);
        // No name of a host has a character that would have to be escaped.
        format!("{NAME}{{server=\"{server}\"}} {answers}\n")
    });
    let lines: String = lines.collect();
    format!(
        "# HELP {NAME} 1 while this server of Redis answers, otherwise 0.\n\
         # TYPE {NAME} gauge\n{lines}"
    )
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a figure of this size needs no precision"
)]
fn bytes(number: u64) -> f64 {
    number as f64
}

#[expect(clippy::cast_precision_loss, reason = "there are never 2^52 of them")]
fn count(number: usize) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::StatusCode;

    use super::*;

    #[test]
    fn a_failure_is_counted_by_its_code() {
        let metrics = Metrics::new(Registry::default());
        let took = Duration::from_millis(3);
        for _ in 0..2 {
            metrics.routes.answered(0, StatusCode::OK, None, took);
            let status = StatusCode::SERVICE_UNAVAILABLE;
            metrics.routes.answered(1, status, Some("overloaded"), took);
        }
        let text = metrics.render(&Snapshot {
            in_flight: 5,
            unclaimed_replies: 0,
            connections: 7,
            unanswered: 2,
            body_bytes: [3, 4],
            queue: QueueState::NoCalls,
            servers: vec![("r:1".into(), QueueState::Unavailable)],
            memory: Memory {
                used: 90,
                limit: 100,
            },
            executables: 11,
        });
        for line in [
            "execution_api_requests_total{route=\"/execute/{contractAddress}/{method}\",status=\"200\",code=\"ok\"} 2",
            "execution_api_requests_total{route=\"/loadSmartContract\",status=\"503\",code=\"overloaded\"} 2",
            "execution_api_requests_in_flight 5",
            "execution_api_queue_available 0",
            "execution_api_contracts_unanswered 2",
            "execution_api_body_bytes{kind=\"load\"} 4",
            "execution_api_refuses{kind=\"call\"} 1",
            "execution_api_redis_memory_used_bytes 90",
            "execution_api_redis_server_available{server=\"r:1\"} 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in {text}");
        }
    }
}
