//! Every failure that a caller can see, its HTTP status and its body.
//!
//! `status` chooses the status of each, `render` builds the response.

mod causes;
mod reasons;
mod render;
mod status;
mod text;

use std::collections::BTreeMap;
use std::time::Duration;

use axum::response::{IntoResponse, Response};
use shared::protocol::reply::StackEntry;
use shared::queue::tenants::TENANTS_KEPT;
use shared::schemas::Violation;

pub(crate) use self::render::ErrorBody;
pub(crate) use self::text::cut;
use crate::limits::Exceeded;

/// The invalid fields of a request, each with the reason.
pub(crate) type Fields = BTreeMap<&'static str, String>;

/// A request that failed.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum ApiError {
    #[error("{0}")]
    InvalidRequest(String, Fields),
    #[error(
        "The request comes from a web page of another origin. \
        The setting CORS_ORIGINS lists the origins whose pages may use this service"
    )]
    ForeignOrigin,
    #[error("The Host header does not name this machine. Use localhost or 127.0.0.1")]
    ForeignHost,
    /// Says what is wrong with the key, if there is one.
    #[error("{}", .0.unwrap_or("This request needs a key: Authorization: Bearer KEY"))]
    Unauthenticated(Option<&'static str>),
    /// Names the scope.
    #[error("The key does not permit this. It needs the scope {0}")]
    InsufficientScope(String),
    #[error(
        "The key does not permit this. It needs a key of the default tenant for the whole farm"
    )]
    OfDefaultTenant,
    // The original service's text: its clients may match it.
    #[error("Contract not loaded. Call /loadSmartContract and then try again")]
    ContractNotLoaded,
    #[error("{0}")]
    EndpointNotFound(String),
    #[error("No such route. See /docs for the routes")]
    RouteNotFound,
    #[error("This route does not support this method. See /docs for its methods")]
    MethodNotAllowed,
    #[error("The request body must have the content type application/json")]
    UnsupportedMediaType,
    #[error("The request body did not arrive in time. Send the request again")]
    RequestTimeout,
    #[error(
        "The request body arrived too slowly while other requests waited for its place. \
        Send the request again"
    )]
    BodyTooSlow,
    #[error("The request body is larger than the limit of {0} bytes")]
    PayloadTooLarge(usize),
    #[error("{0}")]
    InvalidExecutable(String),
    /// Holds the calls in the contract's executable, if they are known.
    #[error("{0}")]
    ExecutionFailed(String, Vec<StackEntry>),
    // The places are not in the text, which is logged: they have names that the caller chose.
    #[error("The argument does not match the contract's schema; \"errors\" lists where")]
    ArgumentInvalid(Vec<Violation>),
    #[error("The result does not match the contract's schema; \"errors\" lists where")]
    ResultInvalid(Vec<Violation>),
    #[error("{0}")]
    ResultTooLarge(String),
    #[error("{0}")]
    ResultNotJson(String),
    #[error("{0}")]
    ContractCrashed(String),
    #[error("{0}")]
    Overloaded(String),
    #[error("{0}")]
    NoCapacity(String),
    #[error("{0}")]
    ImageUnavailable(String),
    #[error("{0}")]
    QueueUnavailable(String),
    #[error(
        "The queue did not answer in time. The request may have been executed or may still run"
    )]
    Ambiguous,
    /// Holds the time that is left.
    #[error(
        "The contract crashed repeatedly and is quarantined for another {} s. \
        Load it again to lift the quarantine",
        .0.as_secs().max(1)
    )]
    ContractQuarantined(Duration),
    #[error("The contract's worker died during the request. The request may have been executed")]
    OutcomeUnknown,
    #[error("No such worker. GET /workers lists the workers")]
    WorkerNotFound,
    #[error("No such key. GET /keys lists them")]
    KeyNotFound,
    /// Holds how many there are.
    #[error("There are {0} keys, those included that were revoked within 30 days")]
    TooManyKeys(usize),
    #[error("{0}")]
    RateLimited(Exceeded),
    /// A load would exceed what a tenant may have.
    #[error("{0}")]
    QuotaExceeded(String),
    #[error("The tenant has no limits. GET /tenants lists those that have some")]
    TenantNotFound,
    #[error("{TENANTS_KEPT} tenants have limits. Remove those of one")]
    TooManyTenants,
    #[error("No such dead letter. GET /dead-letters lists them")]
    DeadLetterNotFound,
    #[error("This process is shutting down. Send requests to another one")]
    Draining,
    #[error("{0}")]
    ExecutionTimeout(String),
    /// The same failure, but the request may have had an effect or may still run.
    #[error("{0}")]
    MayHaveRun(Box<Self>),
    /// The same failure of a call, with what the call has written.
    #[error("{0}")]
    Logged(Box<Self>, Vec<String>),
}

impl ApiError {
    /// Drops the promise that nothing was executed, if the request may have been `started`.
    pub(crate) fn if_started(self, started: bool) -> Self {
        if started && self.never_started() {
            return Self::MayHaveRun(Box::new(self));
        }
        self
    }
}

/// Carries the error to the router's outermost layer, which renders it with the request's id.
impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = self.status().into_response();
        response.extensions_mut().insert(self);
        response
    }
}
