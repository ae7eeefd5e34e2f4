//! The connection to the Docker daemon, and the state that all parts of the engine share.

use std::sync::Arc;
use std::time::Duration;

use bollard::API_DEFAULT_VERSION;
use bollard::errors::Error;

use super::config::DockerConfig;
use super::death_watch::DeathWatches;
use super::labels::Owner;
use super::location::Location;
use crate::engine_tasks::EngineTasks;

/// How long the daemon may take to begin a response, in seconds. Responses to pulls and loads of
/// images begin before the work is done.
const RESPONSE_LIMIT: u64 = 60;

/// How long the connection to the daemon may take when the worker starts.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// The Docker engine of a worker. A cheap handle.
#[derive(Debug, Clone)]
pub struct Docker {
    pub(super) daemon: bollard::Docker,
    pub(super) config: Arc<DockerConfig>,
    pub(super) owner: Owner,
    pub(super) location: Location,
    pub(super) deaths: DeathWatches,
    pub(super) tasks: EngineTasks,
}

/// Connects to the daemon at `host` and negotiates the API version.
pub(super) async fn connect(host: &str) -> Result<bollard::Docker, Error> {
    let path = host.strip_prefix("unix://");
    let daemon = match path {
        Some(path) => bollard::Docker::connect_with_unix(path, RESPONSE_LIMIT, API_DEFAULT_VERSION),
        None => bollard::Docker::connect_with_http(host, RESPONSE_LIMIT, API_DEFAULT_VERSION),
    }?;
    let daemon = daemon.with_request_modifier(with_url_alphabet);
    // Older daemons refuse requests of a newer API version.
    let negotiated = tokio::time::timeout(CONNECT_LIMIT, daemon.negotiate_version()).await;
    negotiated.unwrap_or(Err(Error::RequestTimeoutError))
}

/// Rewrites registry credentials in the URL-safe base64 alphabet, which the daemon expects. Bollard
/// 0.21 uses the standard alphabet, with which the daemon misreads some passwords.
fn with_url_alphabet<B>(mut request: http::Request<B>) -> http::Request<B> {
    if let Some(value) = request.headers_mut().get_mut("X-Registry-Auth")
        && let Ok(text) = value.to_str()
        && let Ok(corrected) = text.replace('+', "-").replace('/', "_").parse()
    {
        *value = corrected;
    }
    request
}
