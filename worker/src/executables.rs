//! The executables of this worker's contracts in the store. Without them, no other worker can take
//! the contracts over.

use shared::queue::references::Reference;
use shared::queue::{Queue, QueueError};

use crate::contracts::Tenure;

/// Keeps an executable in the store for a load. Returns whether it had to be stored again.
pub(crate) async fn keep(
    queue: &Queue,
    digest: &str,
    executable: &str,
    reference: &Reference,
) -> Result<bool, QueueError> {
    if queue.keep_blob(digest, reference).await? {
        return Ok(false);
    }
    // It expired meanwhile.
    let executable = executable.as_bytes();
    queue.store_blob(digest, executable, reference).await?;
    Ok(true)
}

/// Removes the reference of a load that was replaced or unloaded. If that fails, the sweep does it:
/// what the caller asked for has been done all the same.
pub(crate) async fn release(queue: &Queue, digest: &str, reference: &Reference) {
    if let Err(error) = queue.release_blob(digest, reference).await {
        tracing::warn!(%reference, %error, "reference to an executable not removed yet");
    }
}

/// Unloads a contract whose executable is gone: no worker can ever run it again.
pub(crate) async fn give_up(queue: &Queue, tenure: &Tenure, digest: &str) {
    let contract = tenure.address();
    match tenure.unload().await {
        Ok(true) => {}
        Ok(false) => return,
        Err(error) => {
            tracing::warn!(%contract, %error, "lost contract not unloaded");
            return;
        }
    }
    release(queue, digest, &tenure.reference()).await;
    let fields = [
        ("kind", "lost"),
        ("contract", contract.as_str()),
        ("reason", "its executable is no longer in the store"),
    ];
    if let Err(error) = queue.record_dead_letter(&fields).await {
        tracing::warn!(%contract, %error, "lost contract not recorded");
    }
}
