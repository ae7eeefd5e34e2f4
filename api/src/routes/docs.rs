//! `GET /docs`: the interface to look at and to try, from this program alone. `GET /openapi.json`,
//! and the original service's `/documentation/swagger.json`: the same for programs.

use std::sync::Arc;

use axum::Json;
use axum::extract::Path;
use axum::response::{IntoResponse, Redirect, Response};
use http::header::CONTENT_TYPE;
use utoipa::OpenApi;
use utoipa::openapi;
use utoipa_swagger_ui::Config;

use crate::error::ApiError;
use crate::openapi::Description;

/// Where the page finds the description, from `/docs/`.
const DOCUMENT: &str = "../openapi.json";

/// Made anew for each of the few who ask.
pub(crate) async fn document() -> Json<openapi::OpenApi> {
    Json(Description::openapi())
}

/// The page's files are beside it: it wants the slash.
pub(crate) async fn enter() -> Redirect {
    Redirect::permanent("docs/")
}

pub(crate) async fn page() -> Response {
    file(Path(String::new())).await
}

pub(crate) async fn file(Path(name): Path<String>) -> Response {
    let config = Config::from(DOCUMENT).display_request_duration(true);
    match utoipa_swagger_ui::serve(&name, Arc::new(config)) {
        Ok(Some(file)) => ([(CONTENT_TYPE, file.content_type)], file.bytes).into_response(),
        // An error is of a template that has no place for the configuration.
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
    async fn nothing_of_the_page_comes_from_elsewhere() {
        let page = served("").await;
        assert!(!page.contains("://"), "{page}");
        assert!(served("swagger-initializer.js").await.contains(DOCUMENT));
        assert!(served("swagger-ui-bundle.js").await.len() > 100_000);
    }

    #[tokio::test]
    async fn what_is_not_there_is_not_found() {
        let response = file(Path("../Cargo.toml".to_owned())).await;
        assert_eq!(response.status(), http::StatusCode::NOT_FOUND);
    }
}
