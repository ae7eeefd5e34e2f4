//! The web origins whose pages may use the api, and what browsers are told about them (CORS).

use std::str::FromStr;
use std::time::Duration;

use http::header::{AUTHORIZATION, CONTENT_TYPE, LINK, RETRY_AFTER};
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderName, HeaderValue, Method, Uri};
use tower_http::cors::CorsLayer;

use crate::call_logs::CALL_LOGS;

/// The request headers that pages of these origins may set.
const REQUEST_HEADERS: [HeaderName; 5] = [
    AUTHORIZATION,
    CALL_LOGS,
    CONTENT_TYPE,
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("x-request-id"),
];

/// The response headers that they may read.
const RESPONSE_HEADERS: [HeaderName; 5] = [
    HeaderName::from_static("contract-generation"),
    LINK,
    RETRY_AFTER,
    HeaderName::from_static("server-timing"),
    HeaderName::from_static("x-request-id"),
];

/// For how long a browser remembers what it was told. Chromium allows two hours at most.
const MAX_AGE: Duration = Duration::from_hours(2);

/// Origins such as `https://console.example`, exactly as browsers send them.
#[derive(Debug, Clone, Default)]
pub struct Origins(Vec<HeaderValue>);

/// A text is no list of origins.
#[derive(Debug, thiserror::Error)]
#[error("must be origins such as https://console.example, separated by commas, not \"{0}\"")]
pub struct InvalidOrigin(String);

impl FromStr for Origins {
    type Err = InvalidOrigin;

    fn from_str(text: &str) -> Result<Self, InvalidOrigin> {
        text.split(',')
            .map(origin)
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

fn origin(text: &str) -> Result<HeaderValue, InvalidOrigin> {
    let text = text.trim();
    let invalid = || InvalidOrigin(text.to_owned());
    let uri: Uri = text.parse().map_err(|_| invalid())?;
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Err(invalid());
    };
    let is_plain = uri
        .path_and_query()
        .is_none_or(|path| *path == PathAndQuery::from_static("/"));
    // The comparison also refuses a user, a final slash, and a query.
    let origin = format!("{scheme}://{authority}");
    if !is_plain || origin != text || authority.as_str().contains('@') {
        return Err(invalid());
    }
    HeaderValue::try_from(without_default_port(&origin)).map_err(|_| invalid())
}

/// The origin as browsers send it: in lower case, without the scheme's own port.
fn without_default_port(origin: &str) -> String {
    let origin = origin.to_ascii_lowercase();
    for (scheme, port) in [(Scheme::HTTP, ":80"), (Scheme::HTTPS, ":443")] {
        if origin.starts_with(&format!("{scheme}://"))
            && let Some(short) = origin.strip_suffix(port)
        {
            return short.to_owned();
        }
    }
    origin
}

impl Origins {
    pub(super) fn has(&self, origin: &HeaderValue) -> bool {
        self.0.contains(origin)
    }

    /// Answers browsers' questions and sets the headers. `None` if there are no origins: then no
    /// response has any of these headers.
    pub(crate) fn layer(&self) -> Option<CorsLayer> {
        if self.0.is_empty() {
            return None;
        }
        let layer = CorsLayer::new()
            .allow_origin(self.0.clone())
            .allow_methods([Method::GET, Method::POST, Method::PUT, Method::DELETE])
            .allow_headers(REQUEST_HEADERS)
            .expose_headers(RESPONSE_HEADERS)
            .max_age(MAX_AGE);
        Some(layer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_compared_as_browsers_send_them() {
        let origins: Origins = "https://Console.example:443, http://[::1]:3000"
            .parse()
            .unwrap();
        assert!(origins.has(&HeaderValue::from_static("https://console.example")));
        assert!(origins.has(&HeaderValue::from_static("http://[::1]:3000")));
        assert!(!origins.has(&HeaderValue::from_static("http://console.example")));
        assert!(!origins.has(&HeaderValue::from_static(
            "https://console.example.evil.test"
        )));
    }

    #[test]
    fn what_is_no_origin_is_refused() {
        for text in [
            "*",
            "null",
            "console.example",
            "https://",
            "https://a.example/",
            "https://a.example/path",
            "https://a.example?q",
            "https://me@a.example",
            "https://a.example,,https://b.example",
        ] {
            let refused = text.parse::<Origins>().unwrap_err().to_string();
            assert!(refused.starts_with("must be origins"), "{text}");
        }
    }
}
