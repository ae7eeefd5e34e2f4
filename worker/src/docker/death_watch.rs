//! Reports the death of a container to the tasks that wait for it.
//!
//! [`events`](super::events) detects the deaths.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// The containers in use by this worker, with a channel for the cause of each one's death.
#[derive(Debug, Clone, Default)]
pub(super) struct DeathWatches(Arc<Mutex<HashMap<String, watch::Sender<Option<String>>>>>);

/// Marks one container as in use, and reports its death, until this is dropped.
#[derive(Debug)]
pub(super) struct DeathWatch {
    all: DeathWatches,
    name: String,
    notice: DeathNotice,
}

/// Receives the cause of a container's death. Does not keep the container marked as in use.
#[derive(Debug, Clone)]
pub(super) struct DeathNotice(watch::Receiver<Option<String>>);

impl DeathWatches {
    /// Starts to watch a container. Must be called before the container is created.
    pub(super) fn watch(&self, name: &str) -> DeathWatch {
        let (sender, notice) = watch::channel(None);
        self.table().insert(name.to_owned(), sender);
        DeathWatch {
            all: self.clone(),
            name: name.to_owned(),
            notice: DeathNotice(notice),
        }
    }

    /// Whether the container is in use.
    pub(super) fn contains(&self, name: &str) -> bool {
        self.table().contains_key(name)
    }

    /// The names of the containers in use.
    pub(super) fn names(&self) -> Vec<String> {
        self.table().keys().cloned().collect()
    }

    /// Reports a death with its cause.
    pub(super) fn report(&self, name: &str, cause: String) {
        if let Some(sender) = self.table().get(name) {
            sender.send_replace(Some(cause));
        }
    }

    fn table(&self) -> MutexGuard<'_, HashMap<String, watch::Sender<Option<String>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl DeathWatch {
    /// Waits for the container's death and returns its cause.
    pub(super) async fn death(&mut self) -> String {
        self.notice.death().await
    }

    /// Another receiver of the same report.
    pub(super) fn notice(&self) -> DeathNotice {
        self.notice.clone()
    }
}

impl DeathNotice {
    /// Waits for the container's death and returns its cause. Pending forever once the container is
    /// no longer watched.
    pub(super) async fn death(&mut self) -> String {
        let report = self.0.wait_for(Option::is_some).await;
        match report.map(|cause| cause.clone().unwrap_or_default()) {
            Ok(cause) => cause,
            Err(_) => std::future::pending().await,
        }
    }
}

impl Drop for DeathWatch {
    fn drop(&mut self) {
        self.all.table().remove(&self.name);
    }
}
