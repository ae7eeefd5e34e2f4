//! All routes of the api, and the layer around them.

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::routing::{delete, get, post};

use crate::error::ApiError;
use crate::request::observe;
use crate::routes::{
    contracts, dead_letters, docs, execute, health, load, metrics, unload, workers,
};
use crate::state::AppState;

/// Builds the application.
pub(crate) fn router(state: AppState) -> Router {
    let routes = Router::new()
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
        // Operate the farm.
        .route("/workers", get(workers::list))
        .route("/workers/{id}/drain", post(workers::drain))
        .route("/dead-letters", get(dead_letters::list))
        .route("/dead-letters/{id}", delete(dead_letters::remove))
        // Monitor this process.
        .route("/healthz", get(health::alive))
        .route("/readyz", get(health::ready))
        .route("/metrics", get(metrics::show))
        // Documentation.
        .route("/docs", get(docs::enter))
        .route("/docs/", get(docs::page))
        .route("/docs/{*file}", get(docs::file))
        .route("/openapi.json", get(docs::document))
        .route("/documentation/swagger.json", get(docs::document))
        .fallback(|| async { ApiError::RouteNotFound })
        .method_not_allowed_fallback(|| async { ApiError::MethodNotAllowed });
    // Inside of the outermost layer, which refuses other origins where no key is needed.
    let routes = match state.heads.origins.layer() {
        Some(cors) => routes.layer(cors),
        None => routes,
    };
    routes
        // Outermost, so that it also covers the fallbacks: assigns the request id, renders every
        // failure, and counts, traces and logs the request.
        .layer(from_fn_with_state(state.clone(), observe))
        .with_state(state)
}
