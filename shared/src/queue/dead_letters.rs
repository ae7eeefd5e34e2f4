//! Dead letters: problems that an operator should check, such as unreadable frames and contracts
//! that were quarantined or lost. They hold no payloads, because those may be secret.

use std::collections::BTreeMap;

use serde::Serialize;

use super::blobs::digest;
use super::{Queue, QueueError};
use crate::protocol::id::ContractAddress;
use crate::protocol::tenant::Tenant;

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

impl DeadLetter {
    /// The contract that it is about, if it is about one.
    pub fn contract(&self) -> Option<ContractAddress> {
        self.fields.get("contract")?.clone().try_into().ok()
    }

    /// The tenant that it is for. What is about no contract is for who operates the farm.
    pub fn tenant(&self) -> Tenant {
        self.contract()
            .map(|contract| contract.tenant())
            .unwrap_or_default()
    }
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

    /// The latest `visible` dead letters, newest first.
    pub async fn dead_letters(
        &self,
        visible: impl Fn(&DeadLetter) -> bool,
    ) -> Result<Vec<DeadLetter>, QueueError> {
        let (mut found, mut newest) = (Vec::new(), "+".to_owned());
        loop {
            let page = self.dead_letters_between("-", &newest).await?;
            let is_last = page.len() < LISTED;
            if let Some(oldest) = page.last() {
                newest = format!("({}", oldest.id);
            }
            found.extend(page.into_iter().filter(&visible));
            if is_last || found.len() >= LISTED {
                found.truncate(LISTED);
                return Ok(found);
            }
        }
    }

    /// One dead letter.
    pub async fn dead_letter(&self, id: &str) -> Result<Option<DeadLetter>, QueueError> {
        if !is_entry_id(id) {
            return Ok(None);
        }
        Ok(self.dead_letters_between(id, id).await?.pop())
    }

    async fn dead_letters_between(
        &self,
        oldest: &str,
        newest: &str,
    ) -> Result<Vec<DeadLetter>, QueueError> {
        let entries: Vec<(String, BTreeMap<String, String>)> = redis::cmd("XREVRANGE")
            .arg(self.keys().dead_letters())
            .arg(&[newest, oldest, "COUNT"])
            .arg(LISTED)
            .query_async(&mut self.pooled().await?)
            .await?;
        let letters = entries.into_iter();
        Ok(letters
            .map(|(id, fields)| DeadLetter { id, fields })
            .collect())
    }

    /// Removes a dead letter. Returns whether it existed.
    pub async fn remove_dead_letter(&self, id: &str) -> Result<bool, QueueError> {
        if !is_entry_id(id) {
            return Ok(false);
        }
        Ok(redis::cmd("XDEL")
            .arg(self.keys().dead_letters())
            .arg(id)
            .query_async(&mut self.pooled().await?)
            .await?)
    }
}

fn is_entry_id(id: &str) -> bool {
    id.split_once('-').is_some_and(|(millis, sequence)| {
        millis.parse::<u64>().is_ok() && sequence.parse::<u64>().is_ok()
    })
}
