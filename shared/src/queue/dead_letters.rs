//! What went wrong in a way that a person should look at: frames that nobody could read, contracts
//! that were quarantined or lost. Without payloads: these may be secret.

use std::collections::BTreeMap;

use serde::Serialize;

use super::blobs::digest;
use super::{Queue, QueueError};

/// About how many are kept.
const KEPT: usize = 10_000;

/// How many are listed.
const LISTED: usize = 1000;

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DeadLetter {
    /// Names it; begins with the time, in milliseconds since the epoch.
    pub id: String,
    /// What is known, `kind` first of all.
    #[serde(flatten)]
    pub fields: BTreeMap<String, String>,
}

impl Queue {
    /// Records that a frame found in `stream` could not be read.
    pub async fn record_unreadable(
        &self,
        stream: &str,
        frame: &[u8],
        reason: &str,
    ) -> Result<(), QueueError> {
        let (sha256, bytes) = (digest(frame), frame.len().to_string());
        self.record_dead_letter(&[
            ("kind", "unreadable"),
            ("stream", stream),
            ("reason", reason),
            ("sha256", &sha256),
            ("bytes", &bytes),
        ])
        .await
    }

    /// Records something that a person should look at.
    pub async fn record_dead_letter(&self, fields: &[(&str, &str)]) -> Result<(), QueueError> {
        let kind = fields.iter().find(|(name, _)| *name == "kind");
        self.counts().dead_letter(kind.map(|(_, kind)| *kind));
        Ok(redis::cmd("XADD")
            .arg(self.keys().dead_letters())
            .arg(&["MAXLEN", "~"])
            .arg(KEPT)
            .arg("*")
            .arg(fields)
            .query_async(&mut self.pooled().await?)
            .await?)
    }

    /// The latest ones, newest first.
    pub async fn dead_letters(&self) -> Result<Vec<DeadLetter>, QueueError> {
        let entries: Vec<(String, BTreeMap<String, String>)> = redis::cmd("XREVRANGE")
            .arg(self.keys().dead_letters())
            .arg(&["+", "-", "COUNT"])
            .arg(LISTED)
            .query_async(&mut self.pooled().await?)
            .await?;
        Ok(entries
            .into_iter()
            .map(|(id, fields)| DeadLetter { id, fields })
            .collect())
    }

    /// Removes one; tells whether it was there.
    pub async fn remove_dead_letter(&self, id: &str) -> Result<bool, QueueError> {
        let is_entry_id = id.split_once('-').is_some_and(|(millis, sequence)| {
            millis.parse::<u64>().is_ok() && sequence.parse::<u64>().is_ok()
        });
        if !is_entry_id {
            return Ok(false);
        }
        Ok(redis::cmd("XDEL")
            .arg(self.keys().dead_letters())
            .arg(id)
            .query_async(&mut self.pooled().await?)
            .await?)
    }
}
