//! The Docker engine: trusted contract images, a container and a network each, called over HTTP.
//!
//! [`Docker`] is the daemon; a [`ContractContainer`] is one contract. From the outside in:
//!
//! - `config`: what an operator can set; `error`: what the daemon's refusals mean.
//! - `events`, `orphans`: deaths, and what the dead left behind.
//! - `labels`: whose a container is.
//! - `image`, `tar`: what runs.
//! - `network`, `firewall`, `privileges`: what it may do, which is little.
//! - `container`: one of them, from its making to its removal.
//! - `http`, `instance`: calls, their clocks, and what becomes of them.
//!
//! This is the only place that knows Docker and bollard. What a contract is to the farm, its queue,
//! its re-runs and its quarantine belong to `crate::contracts`.

mod config;
mod container;
mod error;
mod events;
mod firewall;
mod http;
mod image;
mod instance;
mod labels;
mod network;
mod orphans;
mod privileges;
mod tar;

use std::sync::Arc;
use std::time::Duration;

use bollard::API_DEFAULT_VERSION;
use shared::protocol::id::WorkerId;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::config::{DockerConfig, Privileges, Registry};
use self::container::Container;
pub use self::error::DockerError;
use self::events::Watched;
pub use self::instance::ContractContainer;
use self::labels::Owner;
pub use self::network::Range;
use self::network::Seat;
pub(crate) use self::orphans::Leftover;
use crate::sandbox::{Blueprint, Engine, RestartLimit, StartError};

/// How long the daemon may take to begin an answer, in seconds. Pulls and loads of images answer
/// as they go.
const DAEMON_PATIENCE: u64 = 60;

/// How long the daemon may take to be reached when the worker starts.
const REACH_LIMIT: Duration = Duration::from_secs(5);

/// The time within which deaths of a container count together.
const DEATHS_WITHIN: Duration = Duration::from_mins(1);

/// The containers of a worker. A cheap handle.
#[derive(Debug, Clone)]
pub struct Docker {
    daemon: bollard::Docker,
    config: Arc<DockerConfig>,
    owner: Owner,
    seat: Seat,
    watched: Watched,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Docker {
    /// Reaches the daemon and begins to follow it. Everything made will carry the names of `farm`
    /// and `worker`.
    pub async fn start(
        config: DockerConfig,
        farm: String,
        worker: WorkerId,
    ) -> Result<Self, DockerError> {
        let daemon = reach(&config.host)
            .await
            .map_err(|source| DockerError::Unreachable {
                host: config.host.clone(),
                source,
            })?;
        let docker = Self {
            seat: Self::find_seat(&daemon).await,
            daemon,
            config: Arc::new(config),
            owner: Owner { farm, worker },
            watched: Watched::default(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        docker
            .tasks
            .spawn(events::follow(docker.clone(), docker.stop.clone()));
        docker.tasks.close();
        tracing::info!(seat = ?docker.seat, host = docker.config.host, "Docker is ready");
        Ok(docker)
    }

    /// Stops following the daemon. Containers are closed one by one before.
    pub async fn shutdown(&self) {
        self.stop.cancel();
        self.tasks.wait().await;
    }

    /// How often it should be looked for what the dead left.
    pub(crate) fn sweep_interval(&self) -> Duration {
        self.config.sweep
    }
}

/// The daemon reads credentials in the alphabet of URLs, bollard 0.21 writes the standard one: of
/// some passwords nothing would arrive.
fn with_url_alphabet<B>(mut request: ::http::Request<B>) -> ::http::Request<B> {
    if let Some(value) = request.headers_mut().get_mut("X-Registry-Auth")
        && let Ok(text) = value.to_str()
        && let Ok(corrected) = text.replace('+', "-").replace('/', "_").parse()
    {
        *value = corrected;
    }
    request
}

async fn reach(host: &str) -> Result<bollard::Docker, bollard::errors::Error> {
    let path = host.strip_prefix("unix://");
    let daemon = match path {
        Some(path) => {
            bollard::Docker::connect_with_unix(path, DAEMON_PATIENCE, API_DEFAULT_VERSION)
        }
        None => bollard::Docker::connect_with_http(host, DAEMON_PATIENCE, API_DEFAULT_VERSION),
    }?;
    let daemon = daemon.with_request_modifier(with_url_alphabet);
    // Older daemons refuse what is asked in a newer version.
    let negotiated = tokio::time::timeout(REACH_LIMIT, daemon.negotiate_version()).await;
    negotiated.unwrap_or(Err(bollard::errors::Error::RequestTimeoutError))
}

impl Engine for Docker {
    type Instance = ContractContainer;

    /// Takes at most the load limit, and what removing the pieces takes when it fails.
    async fn start(&self, plan: Blueprint<'_>) -> Result<ContractContainer, StartError> {
        let container = Container::start(self, plan).await?;
        Ok(ContractContainer::new(
            container,
            &self.config,
            &plan.spec.limits,
        ))
    }

    fn restart_limit(&self) -> RestartLimit {
        RestartLimit {
            losses: self.config.max_deaths,
            within: DEATHS_WITHIN,
        }
    }
}
