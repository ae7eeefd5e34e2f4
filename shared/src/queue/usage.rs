//! What each tenant used, day by day: calls, failures and processor time, in all and by caller and
//! by contract.
//!
//! One hash for each tenant and day (UTC, by the clock of Redis). Apis add what they have counted
//! every few seconds. A day has a bounded number of callers and contracts; what further ones use is
//! counted together.

use std::collections::BTreeMap;

use redis::Script;

use super::{Queue, QueueError};
use crate::protocol::tenant::Tenant;

/// How long a day is kept after its last change.
const KEPT_SECONDS: u64 = 35 * 24 * 3600;

/// How many days can be asked for.
pub const DAYS_KEPT: u64 = 31;

/// The milliseconds of a day.
const DAY: u64 = 24 * 3600 * 1000;

/// How many fields a day has at most: those of about 2,000 callers and contracts.
const FIELDS: usize = 6000;

/// The name under which those are counted together that find no place.
pub const OTHERS: &str = "others";

/// Adds to the figures of callers and contracts: of each the kind, the name and three figures.
const ADD: &str = "
    local function add(kind, name, first)
        if redis.call('HEXISTS', KEYS[1], kind .. '|calls|' .. name) == 0
            and redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[2]) then name = ARGV[3] end
        for index, figure in ipairs({'calls', 'errors', 'cpu'}) do
            local added = ARGV[first + index]
            if added ~= '0' or figure == 'calls' then
                redis.call('HINCRBY', KEYS[1], kind .. '|' .. figure .. '|' .. name, added)
            end
        end
    end
    for first = 4, #ARGV, 5 do add(ARGV[first], ARGV[first + 1], first + 1) end
    redis.call('EXPIRE', KEYS[1], ARGV[1])";

/// What was used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Calls that were answered.
    pub calls: u64,
    /// Those of them that failed.
    pub errors: u64,
    /// Their processor time in microseconds.
    pub cpu_us: u64,
}

/// By whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum UsedBy {
    /// A key or the subject of a token.
    Caller,
    /// A contract.
    Contract,
}

/// What a tenant used in some days.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TenantUsage {
    /// By all its callers.
    pub all: Usage,
    /// By each of its callers and contracts.
    pub parts: BTreeMap<(UsedBy, String), Usage>,
}

impl UsedBy {
    fn letter(self) -> &'static str {
        match self {
            Self::Caller => "k",
            Self::Contract => "c",
        }
    }
}

impl Usage {
    /// Adds what was used besides.
    pub fn add(&mut self, other: Self) {
        self.calls += other.calls;
        self.errors += other.errors;
        self.cpu_us += other.cpu_us;
    }
}

impl TenantUsage {
    fn add_field(&mut self, field: &str, value: u64) -> Option<()> {
        let (kind, rest) = field.split_once('|')?;
        let (figure, name) = rest.split_once('|')?;
        let usage = match figure {
            "calls" => Usage {
                calls: value,
                ..Usage::default()
            },
            "errors" => Usage {
                errors: value,
                ..Usage::default()
            },
            "cpu" => Usage {
                cpu_us: value,
                ..Usage::default()
            },
            _ => return None,
        };
        let by = match kind {
            "k" => UsedBy::Caller,
            "c" => UsedBy::Contract,
            _ => return None,
        };
        // Every call has a caller.
        if by == UsedBy::Caller {
            self.all.add(usage);
        }
        self.parts
            .entry((by, name.to_owned()))
            .or_default()
            .add(usage);
        Some(())
    }
}

impl Queue {
    /// Adds what was used of a tenant's share today.
    pub async fn add_usage(
        &self,
        tenant: &Tenant,
        used: &[(UsedBy, &str, Usage)],
    ) -> Result<(), QueueError> {
        let today = self.clock().now_ms() / DAY;
        let script = Script::new(ADD);
        let mut call = script.key(self.keys().usage(tenant, today));
        call.arg(KEPT_SECONDS).arg(FIELDS).arg(OTHERS);
        for (by, name, usage) in used {
            call.arg(by.letter()).arg(*name);
            call.arg(usage.calls).arg(usage.errors).arg(usage.cpu_us);
        }
        Ok(call.invoke_async(&mut self.pooled().await?).await?)
    }

    /// What a tenant used today and on the days before, and when the first of these began, in
    /// milliseconds since the epoch.
    pub async fn usage(
        &self,
        tenant: &Tenant,
        days: u64,
    ) -> Result<(u64, TenantUsage), QueueError> {
        let today = self.clock().now_ms() / DAY;
        let first = (today + 1).saturating_sub(days.clamp(1, DAYS_KEPT));
        let mut usage = TenantUsage::default();
        for day in first..=today {
            let fields: Vec<(String, u64)> = redis::cmd("HGETALL")
                .arg(self.keys().usage(tenant, day))
                .query_async(&mut self.pooled().await?)
                .await?;
            for (field, value) in fields {
                usage.add_field(&field, value);
            }
        }
        Ok((first * DAY, usage))
    }
}
