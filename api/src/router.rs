//! All routes of the api, and the layers around them.

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use axum::routing::{delete, get, post};

use crate::access::guard;
use crate::error::ApiError;
use crate::request::observe;
use crate::routes::{
    contracts, dead_letters, description, docs, execute, health, keys, load, logs, metrics,
    tenants, unload, usage, workers,
};
use crate::state::AppState;

/// The routes for monitoring, on a listener of their own, where nobody needs a key.
pub(crate) fn metrics_router(state: AppState) -> Router {
    let routes = monitoring().route("/metrics", get(metrics::show));
    with_fallbacks(routes)
        .layer(from_fn_with_state(state.clone(), observed))
        .with_state(state)
}

/// The routes for callers. `/metrics` is one of them unless it has a listener of its own.
pub(crate) fn router(state: AppState) -> Router {
    let mut routes = monitoring()
        // The original service's interface.
        .route("/loadSmartContract", post(load::load))
        .route(
            "/execute/{contractAddress}/{method}",
            post(execute::execute),
        )
        .route("/unloadSmartContract", post(unload::unload))
        // What is loaded.
        .route("/contracts", get(contracts::list))
        .route("/contracts/{contractAddress}", get(contracts::show))
        .route(
            "/contracts/{contractAddress}/openapi.json",
            get(description::describe),
        )
        .route("/contracts/{contractAddress}/logs", get(logs::follow))
        // Operate the farm.
        .route("/workers", get(workers::list))
        .route("/workers/{id}/drain", post(workers::drain))
        .route("/dead-letters", get(dead_letters::list))
        .route("/dead-letters/{id}", delete(dead_letters::remove))
        // Who may use it.
        .route("/keys", get(keys::list).post(keys::create))
        .route("/keys/{id}", get(keys::show).delete(keys::revoke))
        .route("/tenants", get(tenants::list))
        .route(
            "/tenants/{id}",
            get(tenants::show)
                .put(tenants::limit)
                .delete(tenants::unlimit),
        )
        // What was used.
        .route("/usage", get(usage::show))
        // Documentation.
        .route("/", get(docs::enter))
        .route("/docs", get(docs::enter))
        .route("/docs/", get(docs::page))
        .route("/docs/{*file}", get(docs::file))
        .route("/openapi.json", get(docs::document))
        .route("/documentation", get(docs::enter))
        .route("/documentation/", get(docs::enter_from_folder))
        .route("/documentation/swagger.json", get(docs::document));
    if state.config.metrics_port.is_none() {
        routes = routes.route("/metrics", get(metrics::show));
    }
    let routes = with_fallbacks(routes);
    let routes = match state.heads.origins.layer() {
        // Browsers ask without a key, and pages may read refusals.
        Some(cors) => routes
            .layer(from_fn_with_state(state.clone(), guarded))
            .layer(cors)
            .layer(from_fn_with_state(state.clone(), observed)),
        None => routes.layer(from_fn_with_state(state.clone(), observed_and_guarded)),
    };
    routes.with_state(state)
}

fn monitoring() -> Router<AppState> {
    Router::new()
        .route("/healthz", get(health::alive))
        .route("/readyz", get(health::ready))
}

fn with_fallbacks(routes: Router<AppState>) -> Router<AppState> {
    routes
        .fallback(|| async { ApiError::RouteNotFound })
        .method_not_allowed_fallback(|| async { ApiError::MethodNotAllowed })
}

/// The outermost layer. It covers the fallbacks as well.
async fn observed(State(state): State<AppState>, request: Request, next: Next) -> Response {
    observe(&state, request, |request| next.run(request)).await
}

/// The innermost layer, which asks for a key.
async fn guarded(State(state): State<AppState>, request: Request, next: Next) -> Response {
    guard(&state, request, next).await
}

/// Both in one, if nothing is between them: a layer takes a twentieth of the api's instructions for
/// a call.
async fn observed_and_guarded(
    State(state): State<AppState>,
    request: Request,
    next: Next,
) -> Response {
    observe(&state, request, |request| guard(&state, request, next)).await
}
