//! What tenants may use. An api holds all limits in memory and asks whether they have changed.

use std::collections::HashMap;

use redis::Script;
use serde::{Deserialize, Serialize};

use super::{Queue, QueueError};
use crate::protocol::quota::Quota;
use crate::protocol::tenant::Tenant;

/// How many tenants can have limits.
pub const TENANTS_KEPT: usize = 10_000;

/// Sets the limits of a tenant, unless too many have some (0).
const SET: &str = "
    if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0
        and redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[3]) then return 0 end
    redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
    redis.call('INCR', KEYS[2])
    return 1";

/// Removes them; 0 if there are none.
const REMOVE: &str = "
    if redis.call('HDEL', KEYS[1], ARGV[1]) == 0 then return 0 end
    redis.call('INCR', KEYS[2])
    return 1";

/// The limits of a tenant. What is missing is not limited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TenantLimits {
    /// How many calls may begin in a second, by all keys together. As many may begin at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 1_000_000))]
    pub calls_per_second: Option<u32>,
    /// How many calls may wait or run at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 1_000_000))]
    pub calls_in_flight: Option<u32>,
    /// How many milliseconds of processor time calls may use in a minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 10_000_000))]
    pub cpu_ms_per_minute: Option<u32>,
    /// How many contracts may be loaded. Replicas count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 1_000_000))]
    pub contracts: Option<u32>,
    /// How many bytes the executables of all contracts may have. One that several contracts share
    /// counts for each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(
        feature = "openapi",
        schema(minimum = 1, maximum = 1_000_000_000_000_u64)
    )]
    pub executable_bytes: Option<u64>,
}

impl TenantLimits {
    /// The highest number of contracts: far more than a farm has.
    pub const MOST_CONTRACTS: u32 = 1_000_000;

    /// The highest number of bytes: 1 TB, far more than Redis has.
    pub const MOST_BYTES: u64 = 1_000_000_000_000;

    /// The limits of calls.
    pub fn quota(&self) -> Quota {
        Quota {
            calls_per_second: self.calls_per_second,
            calls_in_flight: self.calls_in_flight,
            cpu_ms_per_minute: self.cpu_ms_per_minute,
        }
    }

    /// The name of a limit that is 0 or too high, and the highest value that it may have.
    pub fn invalid(&self) -> Option<(&'static str, u64)> {
        let of_calls = self.quota().invalid();
        if let Some((name, most)) = of_calls {
            return Some((name, most.into()));
        }
        let contracts = self.contracts.map(u64::from);
        let all = [
            ("contracts", contracts, Self::MOST_CONTRACTS.into()),
            ("executableBytes", self.executable_bytes, Self::MOST_BYTES),
        ];
        let wrong = all
            .into_iter()
            .find(|(_, value, most)| value.is_some_and(|value| !(1..=*most).contains(&value)));
        wrong.map(|(name, _, most)| (name, most))
    }
}

/// The limits of all tenants that have some.
pub type AllLimits = HashMap<Tenant, TenantLimits>;

impl Queue {
    /// Sets the limits of a tenant. False if too many tenants have some.
    pub async fn set_tenant_limits(
        &self,
        tenant: &Tenant,
        limits: &TenantLimits,
    ) -> Result<bool, QueueError> {
        let text = serde_json::to_string(limits).expect("limits are JSON");
        let [all, version] = self.keys().tenants();
        Ok(Script::new(SET)
            .key(all)
            .key(version)
            .arg(tenant.as_str())
            .arg(text)
            .arg(TENANTS_KEPT)
            .invoke_async(&mut self.pooled().await?)
            .await?)
    }

    /// Removes the limits of a tenant. False if it has none.
    pub async fn remove_tenant_limits(&self, tenant: &Tenant) -> Result<bool, QueueError> {
        let [all, version] = self.keys().tenants();
        Ok(Script::new(REMOVE)
            .key(all)
            .key(version)
            .arg(tenant.as_str())
            .invoke_async(&mut self.pooled().await?)
            .await?)
    }

    /// The limits of all tenants with their version, unless it is `known`.
    pub async fn tenant_limits(
        &self,
        known: Option<u64>,
    ) -> Result<Option<(u64, AllLimits)>, QueueError> {
        let [all, version] = self.keys().tenants();
        let newest: Option<u64> = redis::cmd("GET")
            .arg(&version)
            .query_async(&mut self.shared())
            .await?;
        if known == Some(newest.unwrap_or_default()) {
            return Ok(None);
        }
        let (newest, all): (Option<u64>, HashMap<String, String>) = redis::pipe()
            .atomic()
            .cmd("GET")
            .arg(&version)
            .cmd("HGETALL")
            .arg(&all)
            .query_async(&mut self.pooled().await?)
            .await?;
        let limits = all.into_iter().filter_map(|(name, text)| {
            let tenant = name.parse().ok()?;
            let limits = serde_json::from_str(&text)
                .inspect_err(|error| tracing::warn!(tenant = name, %error, "limits ignored"));
            Some((tenant, limits.ok()?))
        });
        Ok(Some((newest.unwrap_or_default(), limits.collect())))
    }
}
