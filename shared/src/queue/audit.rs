//! The audit stream: who changed what. The log of the apis has the same entries; this one is in one
//! place for the whole farm, and capped.

use super::{Queue, QueueError};
use crate::protocol::tenant::Tenant;

/// The approximate number of entries that are kept.
const KEPT: usize = 10_000;

/// One change.
#[derive(Debug, Clone)]
pub struct AuditEntry {
    /// Who: `key:ID`, `token:SUBJECT`, or `anybody`.
    pub caller: String,
    /// The tenant of the caller.
    pub tenant: Tenant,
    /// What was done.
    pub action: &'static str,
    /// To which contract, key, worker or dead letter.
    pub subject: String,
    /// The SHA-256 of an executable.
    pub digest: Option<String>,
    /// `ok`, or an error code.
    pub outcome: &'static str,
}

impl Queue {
    /// Appends entries to the stream.
    pub async fn record_audit(&self, entries: &[AuditEntry]) -> Result<(), QueueError> {
        let mut appending = redis::pipe();
        for entry in entries {
            let command = appending.cmd("XADD").arg(self.keys().audit());
            command.arg(&["MAXLEN", "~"]).arg(KEPT).arg("*");
            command.arg(&["caller", &entry.caller, "action", entry.action]);
            command.arg(&["subject", &entry.subject, "outcome", entry.outcome]);
            if let Some(tenant) = entry.tenant.name() {
                command.arg("tenant").arg(tenant);
            }
            if let Some(digest) = &entry.digest {
                command.arg("digest").arg(digest);
            }
            command.ignore();
        }
        appending
            .query_async::<()>(&mut self.pooled().await?)
            .await?;
        Ok(())
    }
}
