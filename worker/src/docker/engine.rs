//! Starts and stops the Docker engine, and starts instances of contracts.

use std::sync::Arc;
use std::time::Duration;

use shared::protocol::id::WorkerId;
use shared::protocol::image::{PinnedImage, is_reference};
use shared::protocol::job::{EffectiveLimits, Limits};
use shared::protocol::schemas;
use shared::service::lifecycle::Lifecycle;
use tokio::time::timeout;

use super::config::DockerConfig;
use super::container::Container;
use super::daemon::{self, Docker};
use super::death_watch::DeathWatches;
use super::error::DockerError;
use super::instance::ContractContainer;
use super::labels::Owner;
use super::{events, image, location};
use crate::engine_tasks::EngineTasks;
use crate::sandbox::{Blueprint, Engine, RestartLimit, StartError};

/// The time within which deaths of a contract's containers count together.
const DEATHS_WITHIN: Duration = Duration::from_mins(1);

impl Docker {
    /// Connects to the daemon and starts to follow its events. Everything that is created gets
    /// labels with the names of `farm` and `worker`. A task of the engine that panics stops the
    /// process through `life`.
    pub async fn start(
        config: DockerConfig,
        farm: String,
        worker: WorkerId,
        life: Lifecycle,
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
            tasks: EngineTasks::new(life),
        };
        let following = events::follow(docker.clone(), docker.tasks.stop().clone());
        docker.tasks.spawn("container events", following);
        let (location, host) = (docker.location.name(), &docker.config.host);
        tracing::info!(location, host, "Docker is ready");
        Ok(docker)
    }

    /// Stops following the daemon's events. The containers must be closed before, one by one.
    pub async fn shutdown(&self) {
        self.tasks.shutdown().await;
    }

    /// The interval between sweeps for leftovers of dead workers.
    pub(crate) fn sweep_interval(&self) -> Duration {
        self.config.sweep
    }
}

/// The reference or the tar in an executable, which may have schemas behind it.
fn image_of(executable: &str) -> &str {
    schemas::without(executable).trim_end()
}

impl Engine for Docker {
    type Instance = ContractContainer;

    /// Ends within the load limit. A failed start also takes the time to remove what it created.
    async fn start(&self, plan: Blueprint<'_>) -> Result<ContractContainer, StartError> {
        let executable = image_of(plan.executable);
        let container = Container::start(self, Blueprint { executable, ..plan }).await?;
        Ok(ContractContainer::new(
            container,
            &self.config,
            &plan.spec.limits,
        ))
    }

    fn limits(&self, limits: &Limits) -> EffectiveLimits {
        self.config.limits(limits)
    }

    /// A tar is the image itself, but the daemon names it by an id.
    async fn resolve(&self, executable: &str) -> Result<Option<PinnedImage>, StartError> {
        let executable = image_of(executable);
        if !is_reference(executable) {
            return Ok(None);
        }
        let lookup = timeout(self.config.load_limit, self.image(executable, None));
        let image = lookup.await.map_err(|_| image::late())??;
        Ok(Some(image.pin))
    }

    fn restart_limit(&self) -> RestartLimit {
        RestartLimit {
            losses: self.config.max_deaths,
            within: DEATHS_WITHIN,
        }
    }
}
