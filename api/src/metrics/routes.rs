//! What is counted of requests, by their routes.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::extract::MatchedPath;
use http::StatusCode;
use shared::service::telemetry::metrics::{Counter, Histogram, Registry};

/// The routes that have metrics of their own, each with its usual status. All other requests count
/// as [`OTHER`]. The busiest come first, because they are searched in this order.
const ROUTES: [(&str, StatusCode); 25] = [
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
    ("/tenants", StatusCode::OK),
    ("/tenants/{id}", StatusCode::OK),
    ("/usage", StatusCode::OK),
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

/// The metrics of all routes.
#[derive(Debug)]
pub(crate) struct RouteMetrics {
    registry: Registry,
    routes: Vec<Route>,
}

/// The metrics of one route.
#[derive(Debug)]
struct Route {
    name: &'static str,
    usual: StatusCode,
    succeeded: Counter,
    duration: Histogram,
    /// Created on first use, because most never occur.
    others: Mutex<HashMap<(StatusCode, &'static str), Counter>>,
}

impl RouteMetrics {
    pub(super) fn new(registry: Registry) -> Self {
        let routes = ROUTES.map(|(name, usual)| Route::new(&registry, name, usual));
        Self {
            registry,
            routes: routes.into(),
        }
    }

    /// The index of a request's route.
    pub(crate) fn index(&self, path: Option<&MatchedPath>) -> usize {
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

    fn count_other(&self, route: &Route, status: StatusCode, code: &'static str) {
        route
            .others
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry((status, code))
            .or_insert_with(|| requests(&self.registry, route.name, status, code))
            .increment(1);
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
        429 => "429",
        500 => "500",
        502 => "502",
        503 => "503",
        504 => "504",
        _ => OTHER,
    }
}

#[cfg(test)]
mod tests {
    use utoipa::OpenApi;

    use super::*;
    use crate::openapi::Description;

    #[test]
    fn every_documented_route_has_metrics() {
        for path in Description::openapi().paths.paths.keys() {
            assert!(ROUTES.iter().any(|(name, _)| name == path), "{path}");
        }
    }
}
