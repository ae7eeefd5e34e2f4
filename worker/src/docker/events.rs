//! Detects deaths of this worker's containers, and outages of the daemon.
//!
//! Containers are not polled: the engine follows the daemon's events. The event stream ends when
//! the daemon is gone. When the daemon is back, every container is inspected once, to detect deaths
//! that happened meanwhile.

use std::pin::pin;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bollard::errors::Error;
use bollard::models::EventMessage;
use bollard::query_parameters::EventsOptionsBuilder;
use futures::StreamExt;
use shared::service::backoff::Backoff;
use tokio_util::sync::CancellationToken;

use super::daemon::Docker;
use super::error;

/// Follows the daemon's events until `stop`.
pub(super) async fn follow(docker: Docker, stop: CancellationToken) {
    stop.run_until_cancelled(follow_forever(&docker)).await;
}

async fn follow_forever(docker: &Docker) {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
    let mut gone = false;
    loop {
        // The time is taken first, so that no event during the inspection is missed.
        let since = now();
        match inspect_all(docker).await {
            Ok(()) => {
                if std::mem::take(&mut gone) {
                    tracing::info!("docker daemon available again");
                }
                backoff.reset();
                let error = read_events(docker, &since).await;
                tracing::debug!(%error, "docker event stream ended");
            }
            Err(error) if !gone => {
                gone = true;
                tracing::warn!(%error, "docker daemon unavailable");
            }
            Err(_) => {}
        }
        backoff.wait().await;
    }
}

/// Reports deaths until the event stream ends, and returns why it ended.
async fn read_events(docker: &Docker, since: &str) -> String {
    let filter = docker.owner.death_filter();
    let options = EventsOptionsBuilder::new()
        .since(since)
        .filters(&filter)
        .build();
    let mut events = pin!(docker.daemon.events(Some(options)));
    loop {
        match events.next().await {
            Some(Ok(event)) => {
                if let Some(name) = name_of(event) {
                    report_death(docker, &name).await;
                }
            }
            Some(Err(error)) => return error.to_string(),
            None => return "the daemon closed the connection".to_owned(),
        }
    }
}

fn name_of(event: EventMessage) -> Option<String> {
    event.actor?.attributes?.remove("name")
}

/// Reports a death with the cause that the daemon knows.
async fn report_death(docker: &Docker, name: &str) {
    if docker.deaths.contains(name)
        && let Some(cause) = docker.cause_of_death(name).await.unwrap_or_else(|error| {
            tracing::debug!(%error, name, "dead container not inspected");
            Some("it died".to_owned())
        })
    {
        docker.deaths.report(name, cause);
    }
}

async fn inspect_all(docker: &Docker) -> Result<(), Error> {
    docker.daemon.ping().await?;
    for name in docker.deaths.names() {
        if let Some(cause) = docker.cause_of_death(&name).await? {
            docker.deaths.report(&name, cause);
        }
    }
    Ok(())
}

impl Docker {
    /// Why a container died, with its last output. None if it runs or was not started yet.
    async fn cause_of_death(&self, name: &str) -> Result<Option<String>, Error> {
        use bollard::models::ContainerStateStatusEnum::{DEAD, EXITED};
        let found = match self.daemon.inspect_container(name, None).await {
            Ok(found) => found,
            // The container may not exist yet. If it was removed, its death was reported before.
            Err(error) if error::status(&error) == Some(404) => return Ok(None),
            Err(error) => return Err(error),
        };
        let Some(state) = found
            .state
            .filter(|state| matches!(state.status, Some(EXITED | DEAD)))
        else {
            return Ok(None);
        };
        let code = state.exit_code.unwrap_or_default();
        let memory = if state.oom_killed == Some(true) {
            " because it ran out of memory"
        } else {
            ""
        };
        let output = self.last_output(name).await;
        Ok(Some(format!("it exited with code {code}{memory}{output}")))
    }
}

/// The current time in seconds since the epoch, the format that the daemon expects.
fn now() -> String {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    since.as_secs().to_string()
}
