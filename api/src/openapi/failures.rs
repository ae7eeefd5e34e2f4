//! The failures that each route can answer with: handlers declare them in their descriptions.
//!
//! Handlers import this file, so it must not import from `routes`.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use serde_json::Value;
use shared::protocol::id::InvalidAddress;
use shared::protocol::job::EngineKind;
use shared::protocol::reply::StackEntry;
use shared::protocol::tenant::InvalidTenant;
use shared::queue::key_store::KEYS_KEPT;
use shared::schemas::Violation;
use utoipa::IntoResponses;
use utoipa::openapi::content::ContentBuilder;
use utoipa::openapi::example::ExampleBuilder;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::schema::{AllOfBuilder, ObjectBuilder, Ref, Type};
use utoipa::openapi::{Header, RefOr, Response, ResponseBuilder};

use crate::error::{ApiError, Fields};
use crate::limits::{Exceeded, Owner, Resource};

/// Documents the failures of a route. Those of an `open` one, which needs no key, do not include
/// that there is none.
macro_rules! failures {
    (open $($rest:tt)+) => {
        failures!(@with of_heads; $($rest)+);
    };
    (@with $common:path; $(#[$doc:meta])* $name:ident: $($failure:expr),* $(,)?) => {
        $(#[$doc])*
        pub(crate) struct $name;

        impl IntoResponses for $name {
            fn responses() -> BTreeMap<String, RefOr<Response>> {
                responses(vec![$($failure),*], $common())
            }
        }
    };
    ($($rest:tt)+) => {
        failures!(@with of_callers; $($rest)+);
    };
}

failures!(
    open
    /// Failures of open routes that have none of their own.
    HeadFailures:
);
failures!(
    /// Failures of other routes that have none of their own.
    CallerFailures:
);
failures!(
    /// Failures of `POST /loadSmartContract`.
    LoadFailures:
        ApiError::field("executable", "is missing"),
        ApiError::RequestTimeout,
        ApiError::BodyTooSlow,
        ApiError::PayloadTooLarge(64 * 1024 * 1024),
        ApiError::UnsupportedMediaType,
        ApiError::InvalidExecutable("SyntaxError: Unexpected end of input (line 1, column 9)".into()),
        ApiError::no_room(3, EngineKind::Javascript),
        ApiError::too_many_requests(),
        ApiError::QuotaExceeded("The tenant may have 100 contracts, replicas included. Unload one".into()),
        ApiError::no_room_for_executable(256 * 1024 * 1024),
        ApiError::ImageUnavailable("The image registry.example/app:1 cannot be pulled. The worker's log has the reason".into())
            .if_started(true),
        ApiError::too_many_loads(),
        ApiError::too_many_bytes(),
        ApiError::low_memory(),
        ApiError::queue_unavailable(),
        ApiError::Ambiguous,
        // A load with fewer replicas than before unloads the surplus ones.
        ApiError::OutcomeUnknown,
        ApiError::no_reply(),
);
failures!(
    /// Failures of `POST /execute/{contractAddress}/{method}`.
    ExecuteFailures:
        ApiError::InvalidRequest("The request body is not JSON: expected value at line 1 column 1".into(), Fields::new()),
        ApiError::ContractNotLoaded,
        too_many_calls(),
        ApiError::EndpointNotFound("The contract has no endpoint \"sub\"; it has add".into()),
        ApiError::RequestTimeout,
        ApiError::BodyTooSlow,
        ApiError::PayloadTooLarge(1024 * 1024),
        ApiError::UnsupportedMediaType,
        ApiError::ExecutionFailed(
            "Error: not enough funds".into(),
            vec![StackEntry::new(Some("withdraw".into()), 12, 11)],
        ),
        ApiError::ArgumentInvalid(vec![violation("/number1", "the value is not of type \"number\"")]),
        ApiError::ResultInvalid(vec![violation("", "\"sum\" is a required property")]),
        ApiError::ResultTooLarge("The result has more than 1048576 bytes".into()),
        ApiError::ResultNotJson("a function has no JSON form".into()),
        ApiError::ContractCrashed("The contract's sandbox died while the call ran: it exited with code 1".into()),
        ApiError::OutcomeUnknown,
        ApiError::too_many_requests(),
        ApiError::too_many_bytes(),
        ApiError::low_memory(),
        ApiError::no_owner(),
        ApiError::image_missing(),
        ApiError::queue_unavailable(),
        ApiError::Ambiguous,
        ApiError::ContractQuarantined(Duration::from_mins(10)),
        ApiError::ExecutionTimeout("The call ran longer than 2000 ms".into()),
);
failures!(
    /// Failures of `POST /unloadSmartContract`.
    UnloadFailures:
        ApiError::field("contractAddress", "is missing"),
        ApiError::RequestTimeout,
        ApiError::BodyTooSlow,
        ApiError::PayloadTooLarge(1024 * 1024),
        ApiError::UnsupportedMediaType,
        ApiError::OutcomeUnknown,
        ApiError::too_many_requests(),
        ApiError::too_many_bytes(),
        ApiError::no_owner(),
        ApiError::queue_unavailable(),
        ApiError::Ambiguous,
        ApiError::ContractQuarantined(Duration::from_mins(10)),
        ApiError::no_reply(),
);
failures!(
    /// Failures of the route that lists workers.
    ListFailures: ApiError::OfDefaultTenant, ApiError::queue_unavailable()
);
failures!(
    /// Failures of the route that lists dead letters.
    DeadLetterListFailures:
        ApiError::field("tenant", InvalidTenant.to_string()),
        ApiError::OfDefaultTenant,
        ApiError::queue_unavailable(),
);
failures!(
    /// Failures of `GET /contracts`.
    ContractListFailures:
        ApiError::field("limit", "must be 1 to 1000"),
        ApiError::OfDefaultTenant,
        ApiError::queue_unavailable(),
);
failures!(
    /// Failures of `GET /contracts/{contractAddress}`.
    ContractFailures:
        wrong_path(),
        ApiError::OfDefaultTenant,
        ApiError::ContractNotLoaded,
        ApiError::queue_unavailable(),
);
failures!(
    /// Failures of `GET /contracts/{contractAddress}/logs`.
    LogFailures:
        wrong_path(),
        ApiError::ContractNotLoaded,
        ApiError::too_many_followers(),
        ApiError::queue_unavailable(),
);
failures!(
    /// Failures of `POST /workers/{id}/drain`.
    DrainFailures:
        wrong_id(),
        ApiError::WorkerNotFound,
        ApiError::too_many_requests(),
        ApiError::queue_unavailable(),
        ApiError::Ambiguous,
        ApiError::OutcomeUnknown,
        ApiError::no_reply(),
);
failures!(
    /// Failures of `GET /keys`.
    KeyListFailures: ApiError::field("limit", "must be 1 to 1000"), ApiError::queue_unavailable()
);
failures!(
    /// Failures of `POST /keys`.
    CreateKeyFailures:
        ApiError::field("scopes", "must be 1 to 32 scopes"),
        ApiError::RequestTimeout,
        ApiError::BodyTooSlow,
        ApiError::PayloadTooLarge(1024 * 1024),
        ApiError::UnsupportedMediaType,
        ApiError::TooManyKeys(KEYS_KEPT),
        ApiError::too_many_requests(),
        ApiError::too_many_bytes(),
        ApiError::low_memory(),
        ApiError::queue_unavailable(),
        ApiError::Ambiguous,
);
failures!(
    /// Failures of `GET /keys/{id}` and `DELETE /keys/{id}`.
    KeyFailures:
        wrong_id(),
        ApiError::KeyNotFound,
        ApiError::queue_unavailable(),
        ApiError::Ambiguous,
);
failures!(
    /// Failures of `GET /usage`.
    UsageFailures:
        ApiError::field("days", "must be 1 to 31"),
        ApiError::OfDefaultTenant,
        ApiError::queue_unavailable(),
);
failures!(
    /// Failures of `GET /tenants`.
    TenantListFailures: ApiError::OfDefaultTenant, ApiError::queue_unavailable()
);
failures!(
    /// Failures of `GET /tenants/{id}` and `DELETE /tenants/{id}`.
    TenantFailures:
        ApiError::field("id", InvalidTenant.to_string()),
        ApiError::OfDefaultTenant,
        ApiError::TenantNotFound,
        ApiError::queue_unavailable(),
        ApiError::Ambiguous,
);
failures!(
    /// Failures of `PUT /tenants/{id}`.
    LimitTenantFailures:
        ApiError::field("callsPerSecond", "must be 1 to 1000000"),
        ApiError::OfDefaultTenant,
        ApiError::RequestTimeout,
        ApiError::BodyTooSlow,
        ApiError::PayloadTooLarge(1024 * 1024),
        ApiError::UnsupportedMediaType,
        ApiError::TooManyTenants,
        ApiError::too_many_requests(),
        ApiError::too_many_bytes(),
        ApiError::low_memory(),
        ApiError::queue_unavailable(),
        ApiError::Ambiguous,
);
failures!(
    /// Failures of `DELETE /dead-letters/{id}`.
    DeadLetterFailures:
        wrong_id(),
        ApiError::DeadLetterNotFound,
        ApiError::queue_unavailable(),
        ApiError::Ambiguous,
);
failures!(
    open
    /// Failures of `GET /readyz`: why the process is not ready.
    ReadyFailures: ApiError::Draining
);

/// The failures of every route: its request is refused because of its head.
fn of_heads() -> Vec<ApiError> {
    vec![
        ApiError::InvalidRequest(
            "The request must have exactly one Host header".into(),
            Fields::new(),
        ),
        ApiError::ForeignOrigin,
        ApiError::ForeignHost,
    ]
}

/// The failures of every route that needs a key.
fn of_callers() -> Vec<ApiError> {
    let mut failures = of_heads();
    failures.extend([
        ApiError::Unauthenticated(None),
        ApiError::Unauthenticated(Some("The key is unknown, or its secret is wrong")),
        ApiError::InsufficientScope("contracts:execute".into()),
        ApiError::queue_unavailable(),
    ]);
    failures
}

fn violation(path: &str, message: &str) -> Violation {
    Violation {
        path: path.to_owned(),
        message: message.to_owned(),
    }
}

fn too_many_calls() -> ApiError {
    ApiError::RateLimited(Exceeded {
        owner: Owner::Key,
        resource: Resource::Calls,
        limit: 100,
        retry_after: Duration::from_secs(1),
    })
}

fn wrong_path() -> ApiError {
    ApiError::field("contractAddress", InvalidAddress.to_string())
}

fn wrong_id() -> ApiError {
    ApiError::field("id", "is not UTF-8")
}

/// Builds one response per status: its error codes, each with an example.
fn responses(failures: Vec<ApiError>, common: Vec<ApiError>) -> BTreeMap<String, RefOr<Response>> {
    let mut by_status = BTreeMap::<_, Vec<_>>::new();
    for failure in failures.into_iter().chain(common) {
        by_status.entry(failure.status()).or_default().push(failure);
    }
    by_status
        .into_iter()
        .map(|(status, failures)| (status.as_str().to_owned(), response(&failures).into()))
        .collect()
}

fn response(failures: &[ApiError]) -> Response {
    let mut codes: Vec<_> = failures.iter().map(ApiError::code).collect();
    let mut known = HashSet::new();
    codes.retain(|code| known.insert(*code));
    let code = ObjectBuilder::new()
        .schema_type(Type::String)
        .enum_values(Some(codes.iter().copied()));
    let schema = AllOfBuilder::new()
        .item(Ref::from_schema_name("Error"))
        .item(ObjectBuilder::new().property("code", code));
    let examples = failures.iter().map(|failure| {
        let body = failure.body("9ae269802c43429887cc72cd6e92cc81");
        let value = serde_json::to_value(body).unwrap_or(Value::Null);
        let example = ExampleBuilder::new().value(Some(value)).build();
        (failure.to_string(), RefOr::from(example))
    });
    let content = ContentBuilder::new()
        .schema(Some(schema))
        .examples_from_iter(examples)
        .build();
    let names: Vec<_> = codes.iter().map(|code| format!("`{code}`")).collect();
    let mut response = ResponseBuilder::new()
        .description(names.join(", "))
        .content("application/json", content)
        .header(
            "X-Request-Id",
            text_header("The request's id, also in the logs"),
        );
    if failures.iter().any(|failure| failure.challenge().is_some()) {
        let header = text_header("What the key lacks, as RFC 6750 defines it");
        response = response.header("WWW-Authenticate", header);
    }
    if failures
        .iter()
        .any(|failure| matches!(failure, ApiError::RateLimited(_)))
    {
        let state = text_header("What is left of the limit, and in how many seconds there is more");
        let policy = text_header("The limit and its window in seconds");
        response = response
            .header("RateLimit", state)
            .header("RateLimit-Policy", policy);
    }
    if failures
        .iter()
        .any(|failure| failure.retry_after().is_some())
    {
        let header = HeaderBuilder::new()
            .description(Some("Seconds to wait before the next attempt"))
            .schema(Some(ObjectBuilder::new().schema_type(Type::Integer)));
        response = response.header("Retry-After", header.build());
    }
    response.build()
}

fn text_header(description: &str) -> Header {
    HeaderBuilder::new()
        .description(Some(description))
        .schema(Some(ObjectBuilder::new().schema_type(Type::String)))
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_status_lists_its_codes_and_headers() {
        let described = ExecuteFailures::responses();
        let statuses: Vec<_> = described.keys().map(String::as_str).collect();
        assert_eq!(
            statuses,
            [
                "400", "401", "403", "404", "408", "413", "415", "422", "429", "500", "502", "503",
                "504"
            ]
        );
        let response = serde_json::to_value(&described["500"]).unwrap();
        let schema = &response["content"]["application/json"]["schema"];
        assert_eq!(
            schema["allOf"][1]["properties"]["code"]["enum"],
            serde_json::json!([
                "execution_failed",
                "result_invalid",
                "result_too_large",
                "result_not_json",
                "contract_crashed"
            ])
        );
        let response = serde_json::to_value(&described["503"]).unwrap();
        assert!(response["headers"]["Retry-After"].is_object());
    }
}
