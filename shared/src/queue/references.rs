//! References: the store keeps an executable while a load refers to it.
//!
//! A reference names one load, not the contract. So the end of an earlier load of the same contract
//! cannot remove what a later one needs, and a stale reference is recognised from the record alone:
//! the load that it names can never be recorded any more. An executable without references is not
//! removed at once but expires, because a load that is under way may count on it.
//!
//! A load adds its reference before it is recorded. It does not remove it if it fails, because a
//! command that got no answer may have been carried out: the sweep removes it.

use std::collections::HashSet;
use std::fmt;

use redis::Script;

use super::ownership::{LoadId, Ownership};
use super::timing::UNREFERENCED_BLOB;
use super::{Queue, QueueError};
use crate::protocol::id::ContractAddress;

/// References that are compared with their records in one round trip.
const PAGE: usize = 100;

/// A load that needs an executable. Written `ADDRESS@LOAD`.
///
/// Versions without load ids wrote `ADDRESS`, for the load that has an empty id.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reference {
    address: ContractAddress,
    load: LoadId,
}

impl Reference {
    /// The reference of one load of a contract.
    pub fn new(address: &ContractAddress, load: &LoadId) -> Self {
        Self {
            address: address.clone(),
            load: load.clone(),
        }
    }

    /// Reads a member of a set of references. None if it is of another version.
    fn parse(text: &str) -> Option<Self> {
        let (address, load) = text.split_once('@').unwrap_or((text, ""));
        let load = LoadId::from(load.to_owned());
        let is_known = load.is_unnamed() || load.generation().is_some();
        let address = address.to_owned().try_into().ok()?;
        is_known.then_some(Self { address, load })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.address)?;
        if self.load.is_unnamed() {
            return Ok(());
        }
        write!(f, "@{}", self.load)
    }
}

impl Queue {
    /// Keeps an executable for a load. False if the store does not have it.
    pub async fn keep_blob(&self, digest: &str, reference: &Reference) -> Result<bool, QueueError> {
        let script = Script::new(
            "if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
             redis.call('SADD', KEYS[2], ARGV[1])
             redis.call('PERSIST', KEYS[1])
             return 1",
        );
        let kept = script
            .key(self.keys().blob(digest))
            .key(self.keys().blob_refs(digest))
            .arg(reference.to_string())
            .invoke_async(&mut self.pooled().await?)
            .await?;
        if kept {
            // Again, for the same reason as in `note_load`.
            self.enlist_blob(digest).await?;
        }
        Ok(kept)
    }

    /// Whether each executable is in the store and is kept for its load. One round trip.
    pub async fn are_blobs_kept(
        &self,
        references: &[(&str, Reference)],
    ) -> Result<Vec<bool>, QueueError> {
        if references.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipeline = redis::pipe();
        for (digest, reference) in references {
            pipeline
                .cmd("EXISTS")
                .arg(self.keys().blob(digest))
                .cmd("SISMEMBER")
                .arg(self.keys().blob_refs(digest))
                .arg(reference.to_string());
        }
        let answers: Vec<bool> = pipeline.query_async(&mut self.pooled().await?).await?;
        let is_kept = |answer: &[bool]| answer.iter().all(|part| *part);
        Ok(answers.chunks(2).map(is_kept).collect())
    }

    /// Removes the reference of a load that is not recorded any more. The executable expires
    /// [some time](UNREFERENCED_BLOB) after its last reference.
    pub async fn release_blob(
        &self,
        digest: &str,
        reference: &Reference,
    ) -> Result<(), QueueError> {
        self.remove_references(digest, std::slice::from_ref(reference))
            .await
    }

    /// Removes stale references to an executable. They stay behind when a load fails, or when a
    /// process dies before it removes them. False if the executable is gone and has none.
    pub async fn sweep_blob(&self, digest: &str) -> Result<bool, QueueError> {
        let (exists, members): (bool, HashSet<String>) = redis::pipe()
            .cmd("EXISTS")
            .arg(self.keys().blob(digest))
            .cmd("SMEMBERS")
            .arg(self.keys().blob_refs(digest))
            .query_async(&mut self.pooled().await?)
            .await?;
        if members.is_empty() {
            self.remove_references(digest, &[]).await?;
            return Ok(exists);
        }
        let references = members.iter().filter_map(|member| Reference::parse(member));
        let references: Vec<_> = references.collect();
        for page in references.chunks(PAGE) {
            let addresses: Vec<_> = page.iter().map(|each| each.address.clone()).collect();
            let found = self.ownerships(&addresses).await?;
            let mut stale = Vec::new();
            for (reference, found) in page.iter().zip(found) {
                let is_stale = match reference.load.generation() {
                    Some(begun) => is_past(&reference.load, begun, &found),
                    None => {
                        self.is_replaced(digest, reference, &found, &members)
                            .await?
                    }
                };
                if is_stale {
                    tracing::info!(%reference, digest, "stale reference to an executable removed");
                    stale.push(reference.clone());
                }
            }
            if !stale.is_empty() {
                self.remove_references(digest, &stale).await?;
            }
        }
        Ok(true)
    }

    /// Adds references that are missing for contracts that are loaded: an older version loaded
    /// them, or Redis has lost the references.
    pub(super) async fn add_references(
        &self,
        references: &[(&str, Reference)],
    ) -> Result<(), QueueError> {
        let are_kept = self.are_blobs_kept(references).await?;
        for ((digest, reference), is_kept) in references.iter().zip(are_kept) {
            if !is_kept && self.keep_blob(digest, reference).await? {
                tracing::info!(%reference, digest, "missing reference to an executable added");
            }
        }
        Ok(())
    }

    /// Whether a reference without load id, of an older version, is not needed any more. If the
    /// contract was loaded again since, it is needed until the load has a reference of its own.
    async fn is_replaced(
        &self,
        digest: &str,
        reference: &Reference,
        found: &Ownership,
        members: &HashSet<String>,
    ) -> Result<bool, QueueError> {
        let Some(record) = self.contract(&reference.address).await? else {
            // The record of a first load that is in progress has an owner.
            return Ok(found.standing.owner.is_none());
        };
        let current = Reference::new(&reference.address, &record.load);
        let has_own = current != *reference && members.contains(&current.to_string());
        Ok(record.spec.digest != digest || has_own)
    }

    /// Removes references. What is kept without any reference expires.
    async fn remove_references(
        &self,
        digest: &str,
        references: &[Reference],
    ) -> Result<(), QueueError> {
        let script = Script::new(
            "if ARGV[2] then redis.call('SREM', KEYS[2], unpack(ARGV, 2)) end
             if redis.call('SCARD', KEYS[2]) == 0 and redis.call('TTL', KEYS[1]) == -1 then
                 redis.call('EXPIRE', KEYS[1], ARGV[1])
             end",
        );
        let references: Vec<_> = references.iter().map(Reference::to_string).collect();
        Ok(script
            .key(self.keys().blob(digest))
            .key(self.keys().blob_refs(digest))
            .arg(UNREFERENCED_BLOB.as_secs())
            .arg(references)
            .invoke_async(&mut self.pooled().await?)
            .await?)
    }
}

/// Whether a load that `begun` in this generation is not what the record names, and can never be
/// recorded any more.
fn is_past(load: &LoadId, begun: u64, found: &Ownership) -> bool {
    let generation = found.standing.generation;
    match (&found.load, found.standing.owner) {
        (Some(current), _) if current == load => false,
        // There is no record. 0: the generation of its unload is forgotten by now.
        (None, None) => generation == 0 || generation >= begun,
        _ => generation > begun,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::id::WorkerId;
    use crate::queue::ownership::Standing;

    #[test]
    fn a_reference_is_read_as_it_is_written() {
        let address: ContractAddress = "shop:v2".parse().unwrap();
        for (load, text) in [("", "shop:v2"), ("17-0f", "shop:v2@17-0f")] {
            let reference = Reference::new(&address, &LoadId::from(load.to_owned()));
            assert_eq!(reference.to_string(), text);
            assert_eq!(Reference::parse(text), Some(reference));
        }
        assert_eq!(Reference::parse("shop:v2@later"), None);
        assert_eq!(Reference::parse("a b"), None);
    }

    #[test]
    fn a_load_is_past_when_it_cannot_be_recorded_any_more() {
        let load = LoadId::new(5);
        let found = |owner, generation, load: Option<&LoadId>| Ownership {
            standing: Standing { owner, generation },
            load: load.cloned(),
            quarantined: false,
        };
        let (owner, other) = (Some(WorkerId::random()), LoadId::new(7));
        let is_past = |found| is_past(&load, 5, &found);
        assert!(!is_past(found(owner, 9, Some(&load))), "it is loaded");
        assert!(!is_past(found(owner, 5, Some(&other))), "it may be next");
        assert!(!is_past(found(owner, 5, None)), "it is the first");
        assert!(is_past(found(owner, 6, Some(&other))));
        assert!(is_past(found(owner, 6, None)));
        assert!(!is_past(found(None, 4, None)), "Redis has lost its record");
        assert!(is_past(found(None, 5, None)), "its claim was withdrawn");
        assert!(is_past(found(None, 0, None)), "ages ago");
    }
}
