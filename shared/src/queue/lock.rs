//! Advisory locks: they keep processes from doing the same work at the same time.
//!
//! No decision that matters depends on one: work under a lock must be safe to do twice at once.

use std::time::Duration;

use redis::Script;
use uuid::Uuid;

use super::timing::millis;
use super::{Queue, QueueError};

/// A lock that this process has taken. It expires by itself.
#[derive(Debug)]
pub(super) struct AdvisoryLock {
    key: String,
    /// Random: a process that was slow must not renew or release the lock of its successor.
    token: String,
    ttl: Duration,
}

impl Queue {
    /// Takes the lock `key` for `ttl`. None if another process holds it.
    pub(super) async fn try_lock(
        &self,
        key: String,
        ttl: Duration,
    ) -> Result<Option<AdvisoryLock>, QueueError> {
        let token = Uuid::new_v4().simple().to_string();
        let reply: Option<String> = redis::cmd("SET")
            .arg(&key)
            .arg(&token)
            .arg(&["NX", "PX"])
            .arg(millis(ttl))
            .query_async(&mut self.pooled().await?)
            .await?;
        Ok(reply.map(|_| AdvisoryLock { key, token, ttl }))
    }

    /// Holds the lock for its full time again. False if it has expired.
    pub(super) async fn renew_lock(&self, lock: &AdvisoryLock) -> Result<bool, QueueError> {
        let script = Script::new(
            "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
             return redis.call('PEXPIRE', KEYS[1], ARGV[2])",
        );
        Ok(script
            .key(&lock.key)
            .arg(&lock.token)
            .arg(millis(lock.ttl))
            .invoke_async(&mut self.pooled().await?)
            .await?)
    }

    /// Gives the lock up before it expires.
    pub(super) async fn unlock(&self, lock: AdvisoryLock) -> Result<(), QueueError> {
        let script = Script::new(
            "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end",
        );
        Ok(script
            .key(lock.key)
            .arg(lock.token)
            .invoke_async(&mut self.pooled().await?)
            .await?)
    }
}
