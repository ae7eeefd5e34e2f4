//! Dead letters: problems that an operator should check, such as unreadable frames and contracts
//! that were quarantined or lost. They hold no payloads, because those may be secret.

use std::collections::BTreeMap;

use serde::Serialize;

use super::blobs::digest;
use super::{Queue, QueueError};

/// The approximate number of dead letters that are kept.
const KEPT: usize = 10_000;

/// How many dead letters a listing returns.
const LISTED: usize = 1000;

/// A dead letter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DeadLetter {
    /// The id. It begins with the time, in milliseconds since the epoch.
    pub id: String,
    /// The known facts. There is always a `kind`.
    #[serde(flatten)]
    pub fields: BTreeMap<String, String>,
}

impl Queue {
    /// Records an unreadable frame of `stream`.
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

    /// Records a dead letter.
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

    /// The latest dead letters, newest first.
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

    /// Removes a dead letter. Returns whether it existed.
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
