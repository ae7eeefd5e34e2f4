//! The registry: which contracts and which executables exist.
//!
//! Two sorted sets by the time of the last load, so that nothing needs to walk the key space.
//! Contracts are listed here before they are claimed, executables before they are stored.
//! An entry that is one too many does no harm: listings leave it out, and the sweep removes it.

use std::collections::HashSet;

use redis::Script;

use super::contracts::{ContractRecord, FIELDS, parse_record};
use super::timing::{FILL_LOCK, LEASE, millis};
use super::{Queue, QueueError};
use crate::protocol::id::{ContractAddress, WorkerId};

/// Entries that are added by one command while the registry is filled.
const FILL_BATCH: usize = 1000;

/// An entry: what is registered, and when it was last loaded (ms, Redis' clock). Entries are
/// ordered by that time, then by name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Entry {
    pub(super) loaded_at: u64,
    pub(super) name: String,
}

impl Queue {
    /// The records of contracts, in one pipeline, and the workers that are alive. A record that
    /// cannot be read counts as missing.
    pub(super) async fn contracts_and_workers(
        &self,
        addresses: &[ContractAddress],
    ) -> Result<(Vec<Option<ContractRecord>>, HashSet<WorkerId>), QueueError> {
        let mut pipeline = redis::pipe();
        for address in addresses {
            pipeline
                .cmd("HMGET")
                .arg(self.keys().contract(address))
                .arg(&FIELDS);
        }
        pipeline
            .cmd("ZRANGE")
            .arg(self.keys().workers())
            .arg(self.clock().now_ms().saturating_sub(millis(LEASE)))
            .arg(&["+inf", "BYSCORE"]);
        let mut found: Vec<redis::Value> = pipeline.query_async(&mut self.pooled().await?).await?;
        let workers: Vec<String> = convert(found.pop().unwrap_or(redis::Value::Nil))?;
        let records = addresses.iter().zip(found).map(|(address, fields)| {
            let record = convert(fields).and_then(|fields| parse_record(address, fields));
            record.unwrap_or_else(|error| {
                tracing::warn!(contract = %address, %error, "unreadable contract record");
                None
            })
        });
        let living = workers.iter().filter_map(|worker| worker.parse().ok());
        Ok((records.collect(), living.collect()))
    }

    /// Registers a contract, or notes that it is loaded again. To be done before it is claimed, and
    /// once more after that: see [`Self::note_load`].
    pub async fn enlist_contract(&self, address: &ContractAddress) -> Result<(), QueueError> {
        self.enlist(self.keys().contracts(), address.as_str()).await
    }

    /// Registers a contract again after its claim. An unload that began before the claim may have
    /// read the entry after the load had made it, and would remove it; now the entry has another
    /// time. A failure is only logged: nearly always the first entry is still there.
    pub(super) async fn note_load(&self, address: &ContractAddress) {
        if let Err(error) = self.enlist_contract(address).await {
            tracing::warn!(contract = %address, %error, "contract not registered again");
        }
    }

    /// Registers an executable, or notes that it is loaded again. To be done before it is stored.
    pub(super) async fn enlist_blob(&self, digest: &str) -> Result<(), QueueError> {
        self.enlist(self.keys().blobs(), digest).await
    }

    /// The entry of a contract. To be read before its record is removed: see [`Self::delist`].
    pub(super) async fn contract_entry(
        &self,
        address: &ContractAddress,
    ) -> Result<Option<Entry>, QueueError> {
        self.entry(&self.keys().contracts(), address.as_str()).await
    }

    /// Removes an entry, unless it was loaded again after `entry` was read. A failure is only
    /// logged, because the sweep repeats it.
    pub(super) async fn delist(&self, list: &str, entry: Option<Entry>) {
        let Some(entry) = entry else { return };
        if let Err(error) = self.try_delist(list, &entry).await {
            tracing::debug!(name = entry.name, %error, "registry entry not removed yet");
        }
    }

    async fn try_delist(&self, list: &str, entry: &Entry) -> Result<(), QueueError> {
        let script = Script::new(
            "if tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1])) == tonumber(ARGV[2]) then
                 redis.call('ZREM', KEYS[1], ARGV[1])
             end",
        );
        Ok(script
            .key(list)
            .arg(&entry.name)
            .arg(entry.loaded_at)
            .invoke_async(&mut self.pooled().await?)
            .await?)
    }

    /// Adds or renews an entry. Its time grows with each load, also within one millisecond.
    async fn enlist(&self, list: String, name: &str) -> Result<(), QueueError> {
        let script = Script::new(
            "local time = redis.call('TIME')
             local now = time[1] * 1000 + math.floor(time[2] / 1000)
             local before = tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]) or '0')
             redis.call('ZADD', KEYS[1],
                 string.format('%.0f', math.max(now, before + 1)), ARGV[1])",
        );
        Ok(script
            .key(list)
            .arg(name)
            .invoke_async(&mut self.pooled().await?)
            .await?)
    }

    pub(super) async fn entry(&self, list: &str, name: &str) -> Result<Option<Entry>, QueueError> {
        let score: Option<f64> = redis::cmd("ZSCORE")
            .arg(list)
            .arg(name)
            .query_async(&mut self.pooled().await?)
            .await?;
        Ok(score.map(|score| entry(name.to_owned(), score)))
    }

    /// The first `count` entries after `after`, in order.
    pub(super) async fn entries(
        &self,
        list: &str,
        after: Option<&Entry>,
        count: usize,
    ) -> Result<Vec<Entry>, QueueError> {
        let from = after.map_or(0, |entry| entry.loaded_at);
        let mut connection = self.pooled().await?;
        let (mut found, mut offset) = (Vec::new(), 0);
        loop {
            // One more: usually only `after` itself has its time.
            let wanted = count.saturating_add(1);
            let page: Vec<(String, f64)> = redis::cmd("ZRANGE")
                .arg(list)
                .arg(from)
                .arg(&["+inf", "BYSCORE", "LIMIT"])
                .arg(offset)
                .arg(wanted)
                .arg("WITHSCORES")
                .query_async(&mut connection)
                .await?;
            let is_last = page.len() < wanted;
            offset += page.len();
            let page = page.into_iter().map(|(name, score)| entry(name, score));
            found.extend(page.filter(|entry| after.is_none_or(|after| entry > after)));
            if is_last || found.len() >= count {
                found.truncate(count);
                return Ok(found);
            }
        }
    }

    /// Fills the registry if this was not done yet: the farm was run by a version without it, or
    /// Redis has lost its data. This is the only walk of the key space. It does nothing if another
    /// process is at it.
    pub async fn fill_registry(&self) -> Result<(), QueueError> {
        let filled: bool = redis::cmd("EXISTS")
            .arg(self.keys().registry())
            .query_async(&mut self.pooled().await?)
            .await?;
        if filled {
            return Ok(());
        }
        let Some(lock) = self.try_lock(self.keys().fill_lock(), FILL_LOCK).await? else {
            return Ok(());
        };
        let keys = self.keys();
        let contracts = self.scan(&keys.contract_pattern()).await?;
        let contracts: Vec<_> = contracts
            .iter()
            .filter_map(|key| keys.contract_of(key))
            .collect();
        let blobs = self.scan(&keys.blob_refs_pattern()).await?;
        let blobs: Vec<_> = blobs
            .iter()
            .filter_map(|key| keys.referred_blob(key))
            .collect();
        let addresses: Vec<_> = contracts.iter().map(ContractAddress::as_str).collect();
        self.add_missing(&keys.contracts(), &addresses).await?;
        self.add_missing(&keys.blobs(), &blobs).await?;
        redis::cmd("SET")
            .arg(keys.registry())
            .arg("1")
            .query_async::<()>(&mut self.pooled().await?)
            .await?;
        if !contracts.is_empty() {
            let count = contracts.len();
            tracing::info!(contracts = count, "registry of contracts filled");
        }
        self.unlock(lock).await
    }

    /// Adds contracts that are loaded, and their executables, if they have no entry: an older
    /// version loaded them, or Redis has lost the entries. Returns how many there were. Where
    /// nothing is missing it only reads, in one round trip for each of the two lists.
    pub async fn enlist_missing(
        &self,
        contracts: &[ContractAddress],
        digests: &[&str],
    ) -> Result<u64, QueueError> {
        let contracts: Vec<_> = contracts.iter().map(ContractAddress::as_str).collect();
        let keys = self.keys();
        let added = self.enlist_unlisted(&keys.contracts(), &contracts).await?;
        Ok(added + self.enlist_unlisted(&keys.blobs(), digests).await?)
    }

    async fn enlist_unlisted(&self, list: &str, names: &[&str]) -> Result<u64, QueueError> {
        if names.is_empty() {
            return Ok(0);
        }
        let scores: Vec<Option<f64>> = redis::cmd("ZMSCORE")
            .arg(list)
            .arg(names)
            .query_async(&mut self.pooled().await?)
            .await?;
        let unlisted = names.iter().zip(scores);
        let unlisted = unlisted.filter_map(|(name, score)| score.is_none().then_some(*name));
        // Contracts may share an executable.
        let unlisted: HashSet<_> = unlisted.collect();
        let unlisted: Vec<_> = unlisted.into_iter().collect();
        self.add_missing(list, &unlisted).await?;
        Ok(unlisted.len() as u64)
    }

    /// Adds entries that do not exist yet. Each has a time of its own, since pages are cut by time.
    async fn add_missing(&self, list: &str, names: &[&str]) -> Result<(), QueueError> {
        let mut time = self.clock().now_ms().saturating_sub(names.len() as u64);
        let mut connection = self.pooled().await?;
        for batch in names.chunks(FILL_BATCH) {
            let mut command = redis::cmd("ZADD");
            command.arg(list).arg("NX");
            for name in batch {
                command.arg(time).arg(name);
                time += 1;
            }
            command.query_async::<()>(&mut connection).await?;
        }
        Ok(())
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a time in milliseconds is a positive integer below 2^53"
)]
fn entry(name: String, score: f64) -> Entry {
    Entry {
        loaded_at: score as u64,
        name,
    }
}

fn convert<T: redis::FromRedisValue>(value: redis::Value) -> Result<T, QueueError> {
    redis::from_redis_value(value).map_err(|error| QueueError::Unexpected(error.to_string()))
}
