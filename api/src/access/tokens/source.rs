//! Where the keys of the identity provider are: in a file, or at a URL.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::io::AsyncReadExt;

use super::jwks::{KeySet, SIZE_LIMIT};

/// How long the keys may take to arrive from a URL.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where the keys are.
#[derive(Debug, Clone)]
pub enum KeySource {
    /// `JWT_KEYS_FILE`.
    File(PathBuf),
    /// `JWT_KEYS_URL`.
    Url(KeysUrl),
}

/// A URL with keys: `https`, or `http` at a loopback address. Whoever could change the keys on
/// their way could make tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeysUrl(Uri);

/// A text is no [`KeysUrl`].
#[derive(Debug, thiserror::Error)]
#[error("must be an https:// URL, or an http:// URL of a loopback address")]
pub struct InvalidKeysUrl;

/// The keys of the provider cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenKeysError {
    /// They cannot be read.
    #[error("{0}: {1}")]
    Unreadable(KeySource, String),
    /// What was read is something else.
    #[error("{0} is not a JSON Web Key Set: {1}")]
    NotASet(KeySource, serde_json::Error),
    /// There is no key of a kind that is supported.
    #[error("{0} has no key for RS256, ES256 or EdDSA")]
    NoKey(KeySource),
}

impl FromStr for KeysUrl {
    type Err = InvalidKeysUrl;

    fn from_str(text: &str) -> Result<Self, InvalidKeysUrl> {
        let url: Uri = text.parse().map_err(|_| InvalidKeysUrl)?;
        let host = url.host().ok_or(InvalidKeysUrl)?;
        let is_loopback = matches!(host, "127.0.0.1" | "[::1]" | "localhost");
        let has_user = url
            .authority()
            .is_some_and(|part| part.as_str().contains('@'));
        match url.scheme_str() {
            Some("https") if !has_user => Ok(Self(url)),
            Some("http") if is_loopback && !has_user => Ok(Self(url)),
            _ => Err(InvalidKeysUrl),
        }
    }
}

impl fmt::Display for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "JWT_KEYS_FILE {}", path.display()),
            Self::Url(KeysUrl(url)) => write!(f, "JWT_KEYS_URL {url}"),
        }
    }
}

impl KeySource {
    /// Reads the keys.
    pub(super) async fn read(&self) -> Result<KeySet, TokenKeysError> {
        let text = match self {
            Self::File(path) => read(path).await,
            Self::Url(KeysUrl(url)) => fetch(url).await,
        };
        let text = text.map_err(|why| TokenKeysError::Unreadable(self.clone(), why))?;
        let keys = KeySet::parse(&text);
        let keys = keys.map_err(|error| TokenKeysError::NotASet(self.clone(), error))?;
        if keys.is_empty() {
            return Err(TokenKeysError::NoKey(self.clone()));
        }
        Ok(keys)
    }
}

async fn read(path: &Path) -> Result<String, String> {
    let limit = u64::try_from(SIZE_LIMIT).unwrap_or(u64::MAX);
    let read = async {
        let mut text = String::new();
        let file = tokio::fs::File::open(path).await?;
        file.take(limit + 1).read_to_string(&mut text).await?;
        Ok::<_, std::io::Error>(text)
    };
    let text = read.await.map_err(|error| error.to_string())?;
    if text.len() > SIZE_LIMIT {
        return Err(format!("it has more than {SIZE_LIMIT} bytes"));
    }
    Ok(text)
}

async fn fetch(url: &Uri) -> Result<String, String> {
    tokio::time::timeout(PATIENCE, get(url))
        .await
        .unwrap_or_else(|_| Err(format!("no answer within {} s", PATIENCE.as_secs())))
}

/// Redirects are not followed: they would lead where nobody has configured.
async fn get(url: &Uri) -> Result<String, String> {
    let provider = rustls::crypto::ring::default_provider();
    let connector = HttpsConnectorBuilder::new()
        .with_provider_and_native_roots(provider)
        .map_err(|error| format!("no certificates of authorities: {error}"))?
        .https_or_http()
        .enable_http1()
        .build();
    let client: Client<_, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build(connector);
    let request = Request::get(url.clone())
        .header(header::ACCEPT, "application/json")
        .body(Empty::new())
        .map_err(|error| error.to_string())?;
    let response = client.request(request).await;
    let response = response.map_err(|error| with_cause(&error))?;
    if !response.status().is_success() {
        return Err(format!("the answer is {}", response.status()));
    }
    let body = Limited::new(response.into_body(), SIZE_LIMIT)
        .collect()
        .await;
    let body = body.map_err(|error| error.to_string())?.to_bytes();
    String::from_utf8(body.into()).map_err(|error| error.to_string())
}

/// The text of an error, and of what caused it.
fn with_cause(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {}", with_cause(cause)),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_do_not_travel_in_the_open() {
        for good in [
            "https://id.example/.well-known/jwks.json",
            "http://127.0.0.1:8080/keys",
            "http://[::1]/keys",
        ] {
            assert!(good.parse::<KeysUrl>().is_ok(), "{good}");
        }
        for wrong in [
            "",
            "/keys",
            "http://id.example/keys",
            "http://127.0.0.1.example/keys",
            "https://user:secret@id.example/keys",
            "ftp://id.example",
            "file:///keys.json",
        ] {
            assert!(wrong.parse::<KeysUrl>().is_err(), "{wrong}");
        }
    }
}
