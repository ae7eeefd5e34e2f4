//! Quotas that all apis share: how far each is used up.
//!
//! An api leases a slice of a quota and spends it by itself, so that a call costs no round trip.
//! Redis grants slices by the generic cell rate algorithm (GCRA): one number for each quota, the
//! moment at which what was granted so far will have been earned.

use std::time::Duration;

use redis::Script;

use super::timing::{LEASE, millis};
use super::{Queue, QueueError};

/// Grants as much of what is wanted as fits. All times are in microseconds.
const GRANT: &str = "
    local time = redis.call('TIME')
    local now = time[1] * 1000000 + time[2]
    local window, wanted = tonumber(ARGV[2]), tonumber(ARGV[3])
    local unit = window / tonumber(ARGV[1])
    local earned = math.max(tonumber(redis.call('GET', KEYS[1]) or '0'), now)
    local room = math.floor((now + window - earned) / unit + 0.000001)
    if room < 1 then
        return {0, math.ceil(earned + math.min(wanted, tonumber(ARGV[4])) * unit - now - window)}
    end
    local granted = math.min(room, wanted)
    earned = earned + granted * unit
    redis.call('SET', KEYS[1], string.format('%.0f', earned),
        'PX', math.ceil((earned - now) / 1000) + 1)
    return {granted, 0}";

/// A quota of units in a window of time. As many units may be used at once.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Whose quota it is, and of what: a key of Redis that [`Keys::allowance`] made.
    ///
    /// [`Keys::allowance`]: super::keys::Keys::allowance
    pub key: String,
    /// The units in a window.
    pub quota: u64,
    /// The window.
    pub window: Duration,
    /// How many units are wanted.
    pub units: u64,
    /// The units after which it is worth to ask again if there are none.
    pub slice: u64,
}

/// What was granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Granted {
    /// So many units.
    Units(u64),
    /// None, and for so long it is no use to ask again.
    NotBefore(Duration),
}

impl Queue {
    /// Leases units of several quotas, in one pipeline for each node of Redis.
    pub async fn lease_allowances(&self, wanted: &[Wanted]) -> Vec<Result<Granted, QueueError>> {
        let leases = wanted.iter().map(async |wanted| {
            let (granted, wait): (u64, u64) = Script::new(GRANT)
                .key(&wanted.key)
                .arg(wanted.quota)
                .arg(u64::try_from(wanted.window.as_micros()).unwrap_or(u64::MAX))
                .arg(wanted.units)
                .arg(wanted.slice)
                .invoke_async(&mut self.shared())
                .await?;
            Ok(if granted > 0 {
                Granted::Units(granted)
            } else {
                Granted::NotBefore(Duration::from_micros(wait.max(1)))
            })
        });
        futures::future::join_all(leases).await
    }

    /// How many apis have sent a heartbeat lately: they share what may be in flight.
    pub async fn count_apis(&self) -> Result<usize, QueueError> {
        Ok(redis::cmd("ZCOUNT")
            .arg(self.keys().apis())
            .arg(self.clock().now_ms().saturating_sub(millis(LEASE)))
            .arg("+inf")
            .query_async(&mut self.shared())
            .await?)
    }
}
