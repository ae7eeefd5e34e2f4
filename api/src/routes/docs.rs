//! `GET /docs`: Swagger UI, served from this binary. `GET /openapi.json`, and the original
//! service's `/documentation/swagger.json`: the `OpenAPI` document.

use std::sync::Arc;

use axum::Json;
use axum::extract::Path;
use axum::response::{IntoResponse, Redirect, Response};
use http::HeaderValue;
use http::header::{
    CONTENT_SECURITY_POLICY, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use utoipa::OpenApi;
use utoipa::openapi;
use utoipa_swagger_ui::Config;

use crate::error::ApiError;
use crate::openapi::Description;

/// The document's path, relative to `/docs/`.
const DOCUMENT: &str = "../openapi.json";

/// Another site must not show the page in a frame of its own: a click there could send a request.
const NO_FRAMES: HeaderValue = HeaderValue::from_static("frame-ancestors 'none'");

const PLAIN: HeaderValue = HeaderValue::from_static("text/plain");

/// Built for each request, because requests are rare.
pub(crate) async fn document() -> Json<openapi::OpenApi> {
    Json(Description::openapi())
}

/// Redirects to the path with a slash, because the page's links are relative.
pub(crate) async fn enter() -> Redirect {
    Redirect::permanent("docs/")
}

/// The same from `/documentation/`, where the original service had its page.
pub(crate) async fn enter_from_folder() -> Redirect {
    Redirect::permanent("../docs/")
}

pub(crate) async fn page() -> Response {
    file(Path(String::new())).await
}

pub(crate) async fn file(Path(name): Path<String>) -> Response {
    let config = Config::from(DOCUMENT).display_request_duration(true);
    match utoipa_swagger_ui::serve(&name, Arc::new(config)) {
        Ok(Some(file)) => {
            let content_type = HeaderValue::from_str(&file.content_type);
            let headers = [
                (CONTENT_TYPE, content_type.unwrap_or(PLAIN)),
                (CONTENT_SECURITY_POLICY, NO_FRAMES),
                // For browsers that do not know the policy.
                (X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
                (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
            ];
            (headers, file.bytes).into_response()
        }
        // An error means that the file has no place for the configuration.
        Ok(None) | Err(_) => ApiError::RouteNotFound.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn served(name: &str) -> String {
        let response = file(Path(name.to_owned())).await;
        assert!(response.status().is_success(), "{name}");
        let bytes = axum::body::to_bytes(response.into_body(), 1 << 23).await;
        String::from_utf8_lossy(&bytes.unwrap()).into_owned()
    }

    #[tokio::test]
    async fn the_page_loads_nothing_from_other_hosts() {
        let page = served("").await;
        assert!(!page.contains("://"), "{page}");
        assert!(served("swagger-initializer.js").await.contains(DOCUMENT));
        assert!(served("swagger-ui-bundle.js").await.len() > 100_000);
    }

    #[tokio::test]
    async fn no_site_may_frame_the_page() {
        for name in ["", "index.html", "swagger-ui.css"] {
            let response = file(Path(name.to_owned())).await;
            let headers = response.headers();
            assert_eq!(headers[CONTENT_SECURITY_POLICY], "frame-ancestors 'none'");
            assert_eq!(headers[X_FRAME_OPTIONS], "DENY");
        }
    }

    #[tokio::test]
    async fn the_paths_of_the_original_service_lead_to_the_page() {
        for (redirect, target) in [
            (enter().await, "docs/"),
            (enter_from_folder().await, "../docs/"),
        ] {
            let response = redirect.into_response();
            assert_eq!(response.headers()[http::header::LOCATION], target);
        }
    }

    #[tokio::test]
    async fn an_unknown_file_is_not_found() {
        let response = file(Path("../Cargo.toml".to_owned())).await;
        assert_eq!(response.status(), http::StatusCode::NOT_FOUND);
    }
}
