//! Deaths of this worker's containers, as the daemon tells them; and the daemon's own.
//!
//! Containers are not polled: the daemon's events are followed. When they break off, the daemon is
//! gone; when it is back, every container is looked at once, for what happened in between.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bollard::errors::Error;
use bollard::models::EventMessage;
use bollard::query_parameters::EventsOptionsBuilder;
use futures::StreamExt;
use shared::service::backoff::Backoff;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Docker, error};

/// The containers that somebody waits for.
#[derive(Debug, Clone, Default)]
pub(super) struct Watched(Arc<Mutex<HashMap<String, watch::Sender<Option<String>>>>>);

/// Watches one container until it is dropped.
#[derive(Debug)]
pub(super) struct Watch {
    watched: Watched,
    name: String,
    news: News,
}

/// Brings the news of a container's death.
#[derive(Debug, Clone)]
pub(super) struct News(watch::Receiver<Option<String>>);

impl Watched {
    /// Begins to watch a container, before it is made.
    pub(super) fn watch(&self, name: &str) -> Watch {
        let (sender, news) = watch::channel(None);
        self.table().insert(name.to_owned(), sender);
        Watch {
            watched: self.clone(),
            name: name.to_owned(),
            news: News(news),
        }
    }

    /// Whether somebody still has this container.
    pub(super) fn contains(&self, name: &str) -> bool {
        self.table().contains_key(name)
    }

    fn names(&self) -> Vec<String> {
        self.table().keys().cloned().collect()
    }

    fn died(&self, name: &str, how: String) {
        if let Some(sender) = self.table().get(name) {
            sender.send_replace(Some(how));
        }
    }

    fn table(&self) -> MutexGuard<'_, HashMap<String, watch::Sender<Option<String>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watch {
    /// Waits for the container's death; tells how it died.
    pub(super) async fn death(&mut self) -> String {
        self.news.death().await
    }

    /// Another way to the same news.
    pub(super) fn news(&self) -> News {
        self.news.clone()
    }
}

impl News {
    /// Waits for the container's death; tells how it died. For ever, when nobody watches it any more.
    pub(super) async fn death(&mut self) -> String {
        let news = self.0.wait_for(Option::is_some).await;
        match news.map(|how| how.clone().unwrap_or_default()) {
            Ok(how) => how,
            Err(_) => std::future::pending().await,
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.watched.table().remove(&self.name);
    }
}

/// Follows the daemon's events until `stop`.
pub(super) async fn follow(docker: Docker, stop: CancellationToken) {
    stop.run_until_cancelled(follow_for_ever(&docker)).await;
}

async fn follow_for_ever(docker: &Docker) {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
    let mut gone = false;
    loop {
        // From now on, so that nothing is missed while the containers are looked at.
        let since = now();
        match look_at_all(docker).await {
            Ok(()) => {
                if std::mem::take(&mut gone) {
                    tracing::info!("the Docker daemon is back");
                }
                backoff.reset();
                let error = listen(docker, &since).await;
                tracing::debug!(%error, "Docker's events broke off");
            }
            Err(error) if !gone => {
                gone = true;
                tracing::warn!(%error, "the Docker daemon is gone");
            }
            Err(_) => {}
        }
        backoff.wait().await;
    }
}

/// Passes deaths on until the events break off; tells why they did.
async fn listen(docker: &Docker, since: &str) -> String {
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
                    tell(docker, &name).await;
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

/// Passes a death on, with what the daemon knows about it.
async fn tell(docker: &Docker, name: &str) {
    if docker.watched.contains(name)
        && let Some(how) = docker.how_it_died(name).await.unwrap_or_else(|error| {
            tracing::debug!(%error, name, "a dead container cannot be looked at");
            Some("it died".to_owned())
        })
    {
        docker.watched.died(name, how);
    }
}

async fn look_at_all(docker: &Docker) -> Result<(), Error> {
    docker.daemon.ping().await?;
    for name in docker.watched.names() {
        if let Some(how) = docker.how_it_died(&name).await? {
            docker.watched.died(&name, how);
        }
    }
    Ok(())
}

impl Docker {
    /// How a container died, if it did. One that was not started yet has not.
    async fn how_it_died(&self, name: &str) -> Result<Option<String>, Error> {
        use bollard::models::ContainerStateStatusEnum::{DEAD, EXITED};
        let found = match self.daemon.inspect_container(name, None).await {
            Ok(found) => found,
            // It may be about to be made; if it was removed, it died first, and the daemon said so.
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
            " for want of memory"
        } else {
            ""
        };
        Ok(Some(format!("it exited with code {code}{memory}")))
    }
}

/// Seconds since the epoch, as the daemon takes them.
fn now() -> String {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    since.as_secs().to_string()
}
