//! Starts and stops the Docker engine, and starts instances of contracts.

use std::sync::Arc;
use std::time::Duration;

use shared::protocol::id::WorkerId;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::config::DockerConfig;
use super::container::Container;
use super::daemon::{self, Docker};
use super::death_watch::DeathWatches;
use super::error::DockerError;
use super::instance::ContractContainer;
use super::labels::Owner;
use super::{events, location};
use crate::sandbox::{Blueprint, Engine, RestartLimit, StartError};

/// The time within which deaths of a contract's containers count together.
const DEATHS_WITHIN: Duration = Duration::from_mins(1);

impl Docker {
    /// Connects to the daemon and starts to follow its events. Everything that is created gets
    /// labels with the names of `farm` and `worker`.
    pub async fn start(
        config: DockerConfig,
        farm: String,
        worker: WorkerId,
    ) -> Result<Self, DockerError> {
        let daemon =
            daemon::connect(&config.host)
                .await
                .map_err(|source| DockerError::Unreachable {
                    host: config.host.clone(),
                    source,
                })?;
        let docker = Self {
            location: location::detect(&daemon).await,
            daemon,
            config: Arc::new(config),
            owner: Owner { farm, worker },
            deaths: DeathWatches::default(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        docker
            .tasks
            .spawn(events::follow(docker.clone(), docker.stop.clone()));
        docker.tasks.close();
        let (location, host) = (&docker.location, &docker.config.host);
        tracing::info!(?location, host, "Docker is ready");
        Ok(docker)
    }

    /// Stops following the daemon's events. The containers must be closed before, one by one.
    pub async fn shutdown(&self) {
        self.stop.cancel();
        self.tasks.wait().await;
    }

    /// The interval between sweeps for leftovers of dead workers.
    pub(crate) fn sweep_interval(&self) -> Duration {
        self.config.sweep
    }
}

impl Engine for Docker {
    type Instance = ContractContainer;

    /// Ends within the load limit. A failed start also takes the time to remove what it created.
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
