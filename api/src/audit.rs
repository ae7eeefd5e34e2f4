//! The audit log: who changed what, and what came of it. One line for each request that was
//! permitted, with the target `audit`, and one entry in a capped stream in Redis; never a payload
//! or a secret.

use shared::queue::Queue;
use shared::queue::audit::AuditEntry;
use shared::service::lifecycle::Lifecycle;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::access::Caller;
use crate::error::{ApiError, cut};

/// How many entries may wait for Redis. Beyond that only the log has them.
const WAITING: usize = 1024;

/// How many entries are sent at once.
const BATCH: usize = 128;

/// What a caller did.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Action {
    /// Loaded a contract.
    Load,
    /// Unloaded one.
    Unload,
    /// Created a key.
    CreateKey,
    /// Revoked one.
    RevokeKey,
    /// Set the limits of a tenant.
    LimitTenant,
    /// Removed them.
    UnlimitTenant,
    /// Drained a worker.
    Drain,
    /// Removed a dead letter.
    RemoveDeadLetter,
}

impl Action {
    fn name(self) -> &'static str {
        match self {
            Self::Load => "load",
            Self::Unload => "unload",
            Self::CreateKey => "create_key",
            Self::RevokeKey => "revoke_key",
            Self::LimitTenant => "limit_tenant",
            Self::UnlimitTenant => "unlimit_tenant",
            Self::Drain => "drain",
            Self::RemoveDeadLetter => "remove_dead_letter",
        }
    }
}

/// Where the handlers record what was done.
#[derive(Debug)]
pub(crate) struct Audit(Sender<AuditEntry>);

impl Audit {
    /// Starts the task that sends the entries to Redis.
    pub(crate) fn start(queue: Queue, life: &Lifecycle) -> Self {
        let (sender, entries) = channel(WAITING);
        life.spawn("audit", write(queue, entries, life.clone()));
        Self(sender)
    }

    /// Records that `caller` did something to the contract, key, worker or dead letter `subject`,
    /// and returns the outcome unchanged. `digest` is that of an executable.
    pub(crate) fn record<T>(
        &self,
        caller: &Caller,
        action: Action,
        subject: &str,
        digest: Option<&str>,
        outcome: Result<T, ApiError>,
    ) -> Result<T, ApiError> {
        let code = outcome.as_ref().err().map_or("ok", ApiError::code);
        let (action, subject) = (action.name(), cut(subject));
        tracing::info!(
            target: "audit",
            caller = caller.name,
            tenant = caller.tenant.name(),
            action,
            subject = &*subject,
            digest,
            outcome = code,
            "audit"
        );
        let entry = AuditEntry {
            caller: caller.name.clone(),
            tenant: caller.tenant.clone(),
            action,
            subject: subject.into_owned(),
            digest: digest.map(str::to_owned),
            outcome: code,
        };
        if self.0.try_send(entry).is_err() {
            tracing::warn!("audit entry is only in this log: redis is too slow");
        }
        outcome
    }
}

/// Sends the entries to Redis until the process stops.
async fn write(queue: Queue, mut entries: Receiver<AuditEntry>, life: Lifecycle) {
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        tokio::select! {
            biased;
            received = entries.recv_many(&mut batch, BATCH) => {
                if received == 0 {
                    return;
                }
            }
            () = life.stopping() => return,
        }
        if let Err(error) = queue.record_audit(&batch).await {
            let lost = batch.len();
            tracing::warn!(%error, lost, "audit entries are only in this log");
        }
        batch.clear();
    }
}
