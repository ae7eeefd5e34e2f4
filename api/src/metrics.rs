//! What the api counts. Handles are made here, once; those who count hold them.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::extract::MatchedPath;
use http::StatusCode;
use shared::service::telemetry::metrics::{Counter, Gauge, Histogram, Registry};

/// The routes that are told apart; every other request is one of [`OTHER`]'s. The busiest first:
/// they are looked through in this order.
const ROUTES: [(&str, StatusCode); 18] = [
    ("/execute/{contractAddress}/{method}", StatusCode::OK),
    ("/loadSmartContract", StatusCode::NO_CONTENT),
    ("/unloadSmartContract", StatusCode::NO_CONTENT),
    ("/contracts", StatusCode::OK),
    ("/contracts/{contractAddress}", StatusCode::OK),
    ("/workers", StatusCode::OK),
    ("/workers/{id}/drain", StatusCode::ACCEPTED),
    ("/dead-letters", StatusCode::OK),
    ("/dead-letters/{id}", StatusCode::NO_CONTENT),
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

/// The route of requests that have none.
const OTHER: &str = "other";

/// The code of a request that did not fail.
const OK: &str = "ok";

/// The api's metrics.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    routes: Vec<Route>,
    /// From a call's acceptance to its answer, without the time that it ran.
    pub(crate) queue_wait: Histogram,
    /// The routing of jobs.
    pub(crate) dispatch: DispatchMetrics,
    unclaimed: Counter,
    in_flight: Gauge,
    available: Gauge,
}

/// What is counted where jobs are brought to workers.
#[derive(Debug, Clone)]
pub(crate) struct DispatchMetrics {
    /// A call's host was known, or had to be looked up.
    pub(crate) cache_hits: Counter,
    pub(crate) cache_misses: Counter,
    /// A job was sent once more.
    pub(crate) retries: Counter,
}

/// How the process is at the moment of a scrape.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    /// Requests under way.
    pub(crate) in_flight: usize,
    /// Answers so far that nobody waited for.
    pub(crate) unclaimed: u64,
    /// Whether the queue takes requests.
    pub(crate) available: bool,
}

/// One route's.
#[derive(Debug)]
struct Route {
    name: &'static str,
    usual: StatusCode,
    succeeded: Counter,
    duration: Histogram,
    /// Made when they are first needed: most never are.
    others: Mutex<HashMap<(StatusCode, &'static str), Counter>>,
}

impl Metrics {
    pub(crate) fn new(registry: Registry) -> Self {
        let routes = ROUTES.map(|(name, usual)| Route::new(&registry, name, usual));
        let cache = |outcome| {
            registry.counter(
                "execution_api_route_cache_lookups_total",
                "Jobs whose contract's host was in the cache, or was not.",
                &[("outcome", outcome)],
            )
        };
        Self {
            routes: routes.into(),
            queue_wait: registry.histogram(
                "execution_api_queue_wait_seconds",
                "From a call's acceptance to its answer, without the time that it ran.",
                &[],
            ),
            dispatch: DispatchMetrics {
                cache_hits: cache("hit"),
                cache_misses: cache("miss"),
                retries: registry.counter(
                    "execution_api_retries_total",
                    "Jobs that were sent once more.",
                    &[],
                ),
            },
            unclaimed: registry.counter(
                "execution_api_unclaimed_replies_total",
                "Answers that came twice, too late, or to a caller who had left.",
                &[],
            ),
            in_flight: registry.gauge(
                "execution_api_requests_in_flight",
                "Loads, calls and unloads under way.",
                &[],
            ),
            available: registry.gauge(
                "execution_api_queue_available",
                "1 while the queue takes requests, else 0.",
                &[],
            ),
            registry,
        }
    }

    /// Which route a request takes.
    pub(crate) fn route(&self, path: Option<&MatchedPath>) -> usize {
        let other = self.routes.len() - 1;
        path.and_then(|path| self.routes.iter().position(|r| r.name == path.as_str()))
            .unwrap_or(other)
    }

    /// A request was answered; `code` says how it failed.
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

    fn count_other(&self, route: &Route, status: StatusCode, code: &'static str) {
        route
            .others
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry((status, code))
            .or_insert_with(|| requests(&self.registry, route.name, status, code))
            .increment(1);
    }

    /// Everything, as Prometheus reads it.
    pub(crate) fn render(&self, now: Moment) -> String {
        self.in_flight.set(count(now.in_flight));
        self.unclaimed.absolute(now.unclaimed);
        self.available.set(f64::from(u8::from(now.available)));
        self.registry.render()
    }
}

impl Route {
    fn new(registry: &Registry, name: &'static str, usual: StatusCode) -> Self {
        Self {
            name,
            usual,
            succeeded: requests(registry, name, usual, OK),
            duration: registry.histogram(
                "execution_api_request_duration_seconds",
                "From a request's headers to its answer.",
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
        "Requests answered.",
        &[
            ("route", route),
            ("status", status_text(status)),
            ("code", code),
        ],
    )
}

/// The statuses of `error` and of the routes.
fn status_text(status: StatusCode) -> &'static str {
    match status.as_u16() {
        200 => "200",
        202 => "202",
        204 => "204",
        308 => "308",
        400 => "400",
        404 => "404",
        405 => "405",
        408 => "408",
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

#[expect(clippy::cast_precision_loss, reason = "there are never 2^52 of them")]
fn count(number: usize) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use utoipa::OpenApi;

    use super::*;
    use crate::openapi::Description;

    #[test]
    fn every_described_route_is_told_apart() {
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
        let text = metrics.render(Moment {
            in_flight: 5,
            unclaimed: 0,
            available: false,
        });
        for line in [
            "execution_api_requests_total{route=\"/execute/{contractAddress}/{method}\",status=\"200\",code=\"ok\"} 2",
            "execution_api_requests_total{route=\"/loadSmartContract\",status=\"503\",code=\"overloaded\"} 2",
            "execution_api_requests_in_flight 5",
            "execution_api_queue_available 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in {text}");
        }
    }
}
