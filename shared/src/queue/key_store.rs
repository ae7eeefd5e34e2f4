//! The keys of callers, as Redis stores them. What a key permits is decided by the apis.
//!
//! Four keys in one slot: the records, the moments of revocation, the moments of the last use, and
//! a sorted set that says in which version of the store each record changed last. An api holds all
//! records in memory and asks for what changed since its version, so a request costs no round trip.
//!
//! Secrets are not stored: a record has the SHA-256 of one. Secrets are random, so nobody can guess
//! one from its hash.

use std::collections::HashMap;

use redis::Script;
use serde::{Deserialize, Serialize};

use super::{Queue, QueueError};
use crate::protocol::quota::Quota;
use crate::protocol::tenant::Tenant;

/// How many keys are kept, those that were revoked or have expired included. With the longest
/// scopes they take 40 MB in Redis and in each api.
pub const KEYS_KEPT: usize = 20_000;

/// How many records are read at once.
const PAGE: usize = 1000;

/// Adds a record, unless its id is taken (0) or the store is full (-1).
const ADD: &str = "
    if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 1 then return 0 end
    if redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[3]) then return -1 end
    redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
    local last = redis.call('ZRANGE', KEYS[2], -1, -1, 'WITHSCORES')
    redis.call('ZADD', KEYS[2], (tonumber(last[2] or '0') + 1), ARGV[1])
    return 1";

/// Revokes a key, unless there is none (0) or it is revoked.
const REVOKE: &str = "
    if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then return 0 end
    if redis.call('HSETNX', KEYS[3], ARGV[1], ARGV[2]) == 0 then return 1 end
    local last = redis.call('ZRANGE', KEYS[2], -1, -1, 'WITHSCORES')
    redis.call('ZADD', KEYS[2], (tonumber(last[2] or '0') + 1), ARGV[1])
    return 1";

/// One key of a caller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "StoredKey", into = "StoredKey")]
pub struct KeyRecord {
    /// What people call it.
    pub name: String,
    /// The tenant that it belongs to.
    pub tenant: Tenant,
    /// The SHA-256 of its secret, in hexadecimal.
    pub sha256: String,
    /// What it permits.
    pub scopes: Vec<String>,
    /// What it may use.
    pub quota: Quota,
    /// When it was created, in milliseconds since the epoch by the clock of Redis.
    pub created: u64,
    /// When it expires, if it does.
    pub expires: Option<u64>,
    /// Whether a file names it, which an api registers again whenever it starts. Then it is never
    /// forgotten: otherwise a revoked key could come back.
    pub is_from_file: bool,
    /// When it was revoked. Stored apart.
    pub revoked: Option<u64>,
}

/// A record as Redis stores it.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct StoredKey {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    name: String,
    sha256: String,
    /// Of a key of the default tenant. A version that knows no tenants would take any key for one
    /// of these; so it finds no scope here that another tenant's key has.
    scopes: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    of_tenant: Option<OfTenant>,
    #[serde(default, skip_serializing_if = "Quota::is_empty")]
    quota: Quota,
    created: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires: Option<u64>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    is_from_file: bool,
}

/// What the key of another tenant than the default one permits.
#[derive(Clone, Serialize, Deserialize)]
struct OfTenant {
    name: Tenant,
    scopes: Vec<String>,
}

impl From<KeyRecord> for StoredKey {
    fn from(record: KeyRecord) -> Self {
        let (scopes, of_tenant) = if record.tenant.is_default() {
            (record.scopes, None)
        } else {
            let (name, scopes) = (record.tenant, record.scopes);
            (Vec::new(), Some(OfTenant { name, scopes }))
        };
        Self {
            name: record.name,
            sha256: record.sha256,
            scopes,
            of_tenant,
            quota: record.quota,
            created: record.created,
            expires: record.expires,
            is_from_file: record.is_from_file,
        }
    }
}

impl From<StoredKey> for KeyRecord {
    fn from(stored: StoredKey) -> Self {
        let (tenant, scopes) = match stored.of_tenant {
            Some(OfTenant { name, scopes }) => (name, scopes),
            None => (Tenant::default(), stored.scopes),
        };
        Self {
            name: stored.name,
            tenant,
            sha256: stored.sha256,
            scopes,
            quota: stored.quota,
            created: stored.created,
            expires: stored.expires,
            is_from_file: stored.is_from_file,
            revoked: None,
        }
    }
}

/// What became of a new key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Added {
    /// It is stored.
    Stored,
    /// There is a key with this id.
    IdTaken,
    /// There are [`KEYS_KEPT`] keys.
    Full,
}

/// A part of what changed.
#[derive(Debug, Default)]
pub struct Changes {
    /// The records that changed, by id.
    pub records: Vec<(String, KeyRecord)>,
    /// The version up to which these are all changes.
    pub version: u64,
    /// Whether there may be further changes.
    pub has_more: bool,
    /// Whether the store is older than the version that was asked for: Redis has lost data.
    pub is_older: bool,
}

/// Ids, each with a version.
type Versions = Vec<(String, u64)>;

/// The store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct KeyStore {
    queue: Queue,
    records: String,
    changed: String,
    revoked: String,
    used: String,
}

impl KeyStore {
    /// The store of a farm.
    pub fn new(queue: Queue) -> Self {
        let [records, changed, revoked, used] = queue.keys().caller_keys();
        Self {
            queue,
            records,
            changed,
            revoked,
            used,
        }
    }

    /// The time by which keys expire, in milliseconds since the epoch.
    pub fn now_ms(&self) -> u64 {
        self.queue.clock().now_ms()
    }

    /// Adds a key.
    pub async fn add(&self, id: &str, record: &KeyRecord) -> Result<Added, QueueError> {
        let text = serde_json::to_string(record).expect("a record is JSON");
        let added: i64 = Script::new(ADD)
            .key(&self.records)
            .key(&self.changed)
            .arg(id)
            .arg(text)
            .arg(KEYS_KEPT)
            .invoke_async(&mut self.queue.pooled().await?)
            .await?;
        Ok(match added {
            1 => Added::Stored,
            0 => Added::IdTaken,
            _ => Added::Full,
        })
    }

    /// Revokes a key, for good. False if there is none.
    pub async fn revoke(&self, id: &str) -> Result<bool, QueueError> {
        Ok(Script::new(REVOKE)
            .key(&self.records)
            .key(&self.changed)
            .key(&self.revoked)
            .arg(id)
            .arg(self.queue.clock().now_ms())
            .invoke_async(&mut self.queue.pooled().await?)
            .await?)
    }

    /// The changes after a version; version 0 is the empty store.
    pub async fn changes(&self, since: u64) -> Result<Changes, QueueError> {
        let mut connection = self.queue.shared();
        let (changed, last): (Versions, Versions) = redis::pipe()
            .cmd("ZRANGEBYSCORE")
            .arg(&self.changed)
            .arg(format!("({since}"))
            .arg(&["+inf", "WITHSCORES", "LIMIT", "0"])
            .arg(PAGE)
            .cmd("ZRANGE")
            .arg(&self.changed)
            .arg(&["-1", "-1", "WITHSCORES"])
            .query_async(&mut connection)
            .await?;
        let newest = last.first().map_or(0, |(_, version)| *version);
        let Some(version) = changed.last().map(|(_, version)| *version) else {
            return Ok(Changes {
                version: since,
                is_older: newest < since,
                ..Changes::default()
            });
        };
        let ids: Vec<_> = changed.into_iter().map(|(id, _)| id).collect();
        let (records, revoked): (Vec<Option<String>>, Vec<Option<u64>>) = redis::pipe()
            .cmd("HMGET")
            .arg(&self.records)
            .arg(&ids)
            .cmd("HMGET")
            .arg(&self.revoked)
            .arg(&ids)
            .query_async(&mut connection)
            .await?;
        let stored = ids.into_iter().zip(records).zip(revoked);
        let stored = stored.filter_map(|((id, text), revoked)| Some((id, text?, revoked)));
        let records = stored.filter_map(|(id, text, revoked)| {
            // That of a newer version, perhaps. The other keys are valid all the same.
            let record: KeyRecord = serde_json::from_str(&text)
                .inspect_err(|error| tracing::warn!(key = id, %error, "key ignored"))
                .ok()?;
            Some((id, KeyRecord { revoked, ..record }))
        });
        Ok(Changes {
            records: records.collect(),
            version,
            has_more: version < newest,
            is_older: false,
        })
    }

    /// Records when keys were used last, in milliseconds since the epoch.
    pub async fn record_use(&self, used: &[(String, u64)]) -> Result<(), QueueError> {
        for page in used.chunks(PAGE) {
            let mut command = redis::cmd("HSET");
            command.arg(&self.used);
            for (id, at) in page {
                command.arg(id).arg(*at);
            }
            let mut connection = self.queue.pooled().await?;
            command.query_async::<()>(&mut connection).await?;
        }
        Ok(())
    }

    /// When keys were used last. Keys that were never used are missing.
    pub async fn last_used(&self, ids: &[&str]) -> Result<HashMap<String, u64>, QueueError> {
        if ids.is_empty() {
            return Ok(HashMap::new());
        }
        let used: Vec<Option<u64>> = redis::cmd("HMGET")
            .arg(&self.used)
            .arg(ids)
            .query_async(&mut self.queue.pooled().await?)
            .await?;
        let used = ids.iter().zip(used);
        Ok(used
            .filter_map(|(id, at)| Some(((*id).to_owned(), at?)))
            .collect())
    }

    /// Forgets keys that can never be used again.
    pub async fn forget(&self, ids: &[String]) -> Result<(), QueueError> {
        for page in ids.chunks(PAGE) {
            let mut connection = self.queue.pooled().await?;
            let mut forgetting = redis::pipe();
            forgetting.atomic();
            for key in [&self.records, &self.revoked, &self.used] {
                forgetting.cmd("HDEL").arg(key).arg(page).ignore();
            }
            forgetting.cmd("ZREM").arg(&self.changed).arg(page).ignore();
            forgetting.query_async::<()>(&mut connection).await?;
        }
        Ok(())
    }
}
