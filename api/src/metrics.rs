//! The api's metrics. Handles are created here once; the code that counts holds them.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::extract::MatchedPath;
use http::StatusCode;
use shared::queue::Memory;
use shared::service::telemetry::metrics::{Counter, Gauge, Histogram, Registry};

use crate::admission::RequestKind;
use crate::breaker::QueueState;

/// The routes that have metrics of their own, each with its usual status. All other requests count
/// as [`OTHER`]. The busiest come first, because they are searched in this order.
const ROUTES: [(&str, StatusCode); 22] = [
    ("/execute/{contractAddress}/{method}", StatusCode::OK),
    ("/loadSmartContract", StatusCode::NO_CONTENT),
    ("/unloadSmartContract", StatusCode::NO_CONTENT),
    ("/contracts", StatusCode::OK),
    ("/contracts/{contractAddress}", StatusCode::OK),
    ("/contracts/{contractAddress}/logs", StatusCode::OK),
    ("/contracts/{contractAddress}/openapi.json", StatusCode::OK),
    ("/workers", StatusCode::OK),
    ("/workers/{id}/drain", StatusCode::ACCEPTED),
    ("/dead-letters", StatusCode::OK),
    ("/dead-letters/{id}", StatusCode::NO_CONTENT),
    ("/keys", StatusCode::OK),
    ("/keys/{id}", StatusCode::OK),
    ("/healthz", StatusCode::OK),
    ("/readyz", StatusCode::OK),
    ("/metrics", StatusCode::OK),
    ("/docs", StatusCode::PERMANENT_REDIRECT),
    ("/docs/", StatusCode::OK),
    ("/docs/{*file}", StatusCode::OK),
    ("/openapi.json", StatusCode::OK),
    ("/documentation/swagger.json", StatusCode::OK),
    (OTHER, StatusCode::NOT_FOUND),
];

/// The label of requests that match no route.
const OTHER: &str = "other";

/// The `code` label of a request that did not fail.
const OK: &str = "ok";

/// The api's metrics.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    routes: Vec<RouteMetrics>,
    /// From a call's acceptance to its response, without its run time.
    pub(crate) queue_wait: Histogram,
    /// Counted by the dispatcher.
    pub(crate) dispatch: DispatchMetrics,
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
#[derive(Debug, Clone, Copy)]
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
    /// The memory of Redis.
    pub(crate) memory: Memory,
    /// The bytes of all executables in Redis.
    pub(crate) executables: u64,
}

/// The metrics of one route.
#[derive(Debug)]
struct RouteMetrics {
    name: &'static str,
    usual: StatusCode,
    succeeded: Counter,
    duration: Histogram,
    /// Created on first use, because most never occur.
    others: Mutex<HashMap<(StatusCode, &'static str), Counter>>,
}

impl Metrics {
    #[expect(clippy::too_many_lines, reason = "a list of metrics")]
    pub(crate) fn new(registry: Registry) -> Self {
        let routes = ROUTES.map(|(name, usual)| RouteMetrics::new(&registry, name, usual));
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
            routes: routes.into(),
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

    /// The index of a request's route.
    pub(crate) fn route(&self, path: Option<&MatchedPath>) -> usize {
        let other = self.routes.len() - 1;
        path.and_then(|path| self.routes.iter().position(|r| r.name == path.as_str()))
            .unwrap_or(other)
    }

    /// Counts a request that was answered; `code` is its error code, if it failed.
    pub(crate) fn answered(
        &self,
        route: usize,
        status: StatusCode,
        code: Option<&'static str>,
        took: Duration,
    ) {
        let Some(route) = self.routes.get(route) else {
            return;
        };
        route.duration.record(took);
        match code {
            None if status == route.usual => route.succeeded.increment(1),
            code => self.count_other(route, status, code.unwrap_or(OK)),
        }
    }

    fn count_other(&self, route: &RouteMetrics, status: StatusCode, code: &'static str) {
        route
            .others
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry((status, code))
            .or_insert_with(|| requests(&self.registry, route.name, status, code))
            .increment(1);
    }

    /// Renders all metrics in Prometheus' text format.
    pub(crate) fn render(&self, now: Snapshot) -> String {
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
        self.registry.render()
    }
}

impl RouteMetrics {
    fn new(registry: &Registry, name: &'static str, usual: StatusCode) -> Self {
        Self {
            name,
            usual,
            succeeded: requests(registry, name, usual, OK),
            duration: registry.histogram(
                "execution_api_request_duration_seconds",
                "Time from a request's headers to its response.",
                &[("route", name)],
            ),
            others: Mutex::default(),
        }
    }
}

fn requests(
    registry: &Registry,
    route: &'static str,
    status: StatusCode,
    code: &'static str,
) -> Counter {
    registry.counter(
        "execution_api_requests_total",
        "Requests that were answered.",
        &[
            ("route", route),
            ("status", status_text(status)),
            ("code", code),
        ],
    )
}

/// The `status` label: every status that `error` or a route can choose.
fn status_text(status: StatusCode) -> &'static str {
    match status.as_u16() {
        200 => "200",
        201 => "201",
        202 => "202",
        204 => "204",
        308 => "308",
        400 => "400",
        401 => "401",
        403 => "403",
        404 => "404",
        405 => "405",
        408 => "408",
        409 => "409",
        413 => "413",
        415 => "415",
        422 => "422",
        500 => "500",
        502 => "502",
        503 => "503",
        504 => "504",
        _ => OTHER,
    }
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
    use utoipa::OpenApi;

    use super::*;
    use crate::breaker::MemoryPressure;
    use crate::openapi::Description;

    #[test]
    fn every_documented_route_has_metrics() {
        for path in Description::openapi().paths.paths.keys() {
            assert!(ROUTES.iter().any(|(name, _)| name == path), "{path}");
        }
    }

    #[test]
    fn a_failure_is_counted_by_its_code() {
        let metrics = Metrics::new(Registry::default());
        let took = Duration::from_millis(3);
        for _ in 0..2 {
            metrics.answered(0, StatusCode::OK, None, took);
            let status = StatusCode::SERVICE_UNAVAILABLE;
            metrics.answered(1, status, Some("overloaded"), took);
        }
        let text = metrics.render(Snapshot {
            in_flight: 5,
            unclaimed_replies: 0,
            connections: 7,
            unanswered: 2,
            body_bytes: [3, 4],
            queue: QueueState::Available(MemoryPressure::Calls),
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
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in {text}");
        }
    }
}
