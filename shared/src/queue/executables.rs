//! The bytes of all executables in the store: counted, so that loads can be refused before the
//! memory of Redis is short.
//!
//! One hash holds the size of each executable and their sum; every script changes both. A load
//! reserves its size before it sends anything, so the sum never exceeds the limit. The size is
//! counted once more when the executable is there: whatever removed it from the count meanwhile did
//! not know of the load. A process that dies between two steps leaves the count too high, never too
//! low; the sweep corrects that.

use redis::Script;

use super::blobs::PIECE;
use super::registry::Entry;
use super::timing::{RECLAIM_AFTER, RECLAIM_LOCK};
use super::{Queue, QueueError};

/// The field of the sum. No digest has this form.
const SUM: &str = "sum";

/// Executables that are read at once.
const PAGE: usize = 100;

/// Counts an executable unless it is counted, or there is no room below a limit.
const ADD: &str = "
    if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 1 then return 1 end
    local sum = tonumber(redis.call('HGET', KEYS[1], 'sum') or '0')
    if ARGV[3] and sum + tonumber(ARGV[2]) > tonumber(ARGV[3]) then return 0 end
    redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
    redis.call('HINCRBY', KEYS[1], 'sum', ARGV[2])
    return 1";

/// Takes an executable out of the count. With the last one the hash is removed.
const REMOVE: &str = "
    local size = redis.call('HGET', KEYS[1], ARGV[1])
    if not size then return 0 end
    redis.call('HDEL', KEYS[1], ARGV[1])
    redis.call('HINCRBY', KEYS[1], 'sum', -size)
    if redis.call('HLEN', KEYS[1]) == 1 then redis.call('DEL', KEYS[1]) end
    return 1";

/// Removes an executable without references.
const DROP: &str = "
    if redis.call('SCARD', KEYS[2]) > 0 then return 0 end
    redis.call('UNLINK', KEYS[1])
    return 1";

impl Queue {
    /// The bytes of all executables in the store, and of those that are being sent.
    pub async fn executable_bytes(&self) -> Result<u64, QueueError> {
        let sum: Option<u64> = redis::cmd("HGET")
            .arg(self.keys().executables())
            .arg(SUM)
            .query_async(&mut self.shared())
            .await?;
        Ok(sum.unwrap_or_default())
    }

    /// Reserves room for an executable, below `limit` bytes of all together. If there is none,
    /// executables that no contract refers to any more are removed first. False if there is no
    /// room.
    pub async fn reserve_executable(
        &self,
        digest: &str,
        bytes: usize,
        limit: u64,
    ) -> Result<bool, QueueError> {
        if self.add_size(digest, bytes, Some(limit)).await? {
            return Ok(true);
        }
        let bytes_u64 = u64::try_from(bytes).unwrap_or(u64::MAX);
        if bytes_u64 > limit || !self.reclaim(limit - bytes_u64).await? {
            return Ok(false);
        }
        self.add_size(digest, bytes, Some(limit)).await
    }

    /// When an executable was loaded last, in milliseconds by the clock of Redis. None if it is not
    /// registered.
    pub async fn executable_loaded_at(&self, digest: &str) -> Result<Option<u64>, QueueError> {
        let entry = self.entry(&self.keys().blobs(), digest).await?;
        Ok(entry.map(|entry| entry.loaded_at))
    }

    /// Removes the executable of a load that has failed, unless a contract refers to it or it was
    /// loaded again after `loaded_at`.
    pub async fn discard_executable(&self, digest: &str, loaded_at: u64) -> Result<(), QueueError> {
        let entry = self.entry(&self.keys().blobs(), digest).await?;
        if let Some(entry) = entry.filter(|entry| entry.loaded_at == loaded_at) {
            self.drop_unreferenced(entry).await?;
        }
        Ok(())
    }

    /// Counts an executable that is in the store.
    pub(super) async fn count_executable(
        &self,
        digest: &str,
        bytes: usize,
    ) -> Result<(), QueueError> {
        self.add_size(digest, bytes, None).await?;
        Ok(())
    }

    /// Takes an executable out of the count. To be done before its entry is removed from the
    /// registry, so that the sweep finds it again if this fails.
    pub(super) async fn uncount_executable(&self, digest: &str) -> Result<(), QueueError> {
        let script = Script::new(REMOVE);
        Ok(script
            .key(self.keys().executables())
            .arg(digest)
            .invoke_async(&mut self.pooled().await?)
            .await?)
    }

    /// Counts an executable that an older version has stored.
    pub(super) async fn count_if_missing(&self, digest: &str) -> Result<(), QueueError> {
        let (counted, pieces): (bool, usize) = redis::pipe()
            .cmd("HEXISTS")
            .arg(self.keys().executables())
            .arg(digest)
            .cmd("LLEN")
            .arg(self.keys().blob(digest))
            .query_async(&mut self.pooled().await?)
            .await?;
        if counted || pieces == 0 {
            return Ok(());
        }
        // The last piece may be shorter.
        self.count_executable(digest, pieces * PIECE).await
    }

    /// Takes executables out of the count that are not in the registry: a process died before it
    /// registered them.
    pub(super) async fn sweep_executables(&self) -> Result<(), QueueError> {
        let mut connection = self.pooled().await?;
        let mut cursor = 0_u64;
        loop {
            let (next, found): (u64, Vec<(String, u64)>) = redis::cmd("HSCAN")
                .arg(self.keys().executables())
                .arg(cursor)
                .arg("COUNT")
                .arg(PAGE)
                .query_async(&mut connection)
                .await?;
            let digests = found.iter().map(|(field, _)| field);
            let digests: Vec<_> = digests.filter(|field| *field != SUM).collect();
            if !digests.is_empty() {
                let registered: Vec<Option<f64>> = redis::cmd("ZMSCORE")
                    .arg(self.keys().blobs())
                    .arg(&digests)
                    .query_async(&mut connection)
                    .await?;
                for (digest, registered) in digests.iter().zip(registered) {
                    if registered.is_none() {
                        self.uncount_executable(digest).await?;
                    }
                }
            }
            cursor = next;
            if cursor == 0 {
                return Ok(());
            }
        }
    }

    /// Removes executables without references, the one with the oldest load first, until at most
    /// `target` bytes are left. Those that were loaded lately stay, because a load may be about to
    /// use them. False if nothing was removed, or another process has just tried.
    async fn reclaim(&self, target: u64) -> Result<bool, QueueError> {
        // It is not released: it bounds how often this is tried.
        let lock = self.keys().reclaim_lock();
        if self.try_lock(lock, RECLAIM_LOCK).await?.is_none() {
            return Ok(false);
        }
        let (blobs, mut last, mut removed) = (self.keys().blobs(), None::<Entry>, false);
        loop {
            let page = self.entries(&blobs, last.as_ref(), PAGE).await?;
            last = page.last().cloned();
            if page.is_empty() {
                return Ok(removed);
            }
            for entry in page {
                if self.clock().since(entry.loaded_at) < RECLAIM_AFTER
                    || self.executable_bytes().await? <= target
                {
                    return Ok(removed);
                }
                removed |= self.drop_unreferenced(entry).await?;
            }
        }
    }

    async fn drop_unreferenced(&self, entry: Entry) -> Result<bool, QueueError> {
        let (digest, script) = (&entry.name, Script::new(DROP));
        let dropped: bool = script
            .key(self.keys().blob(digest))
            .key(self.keys().blob_refs(digest))
            .invoke_async(&mut self.pooled().await?)
            .await?;
        if dropped {
            self.uncount_executable(digest).await?;
            self.delist(&self.keys().blobs(), Some(entry)).await;
        }
        Ok(dropped)
    }

    async fn add_size(
        &self,
        digest: &str,
        bytes: usize,
        limit: Option<u64>,
    ) -> Result<bool, QueueError> {
        let script = Script::new(ADD);
        Ok(script
            .key(self.keys().executables())
            .arg(digest)
            .arg(bytes)
            .arg(limit)
            .invoke_async(&mut self.pooled().await?)
            .await?)
    }
}
