//! How much of the farm each key, tenant and contract may use, and how much it has used.
//!
//! | file | what it does |
//! |---|---|
//! | `allowance` | what this process may spend of a quota that all apis share |
//! | `refill` | the task that leases further slices of quotas from Redis |
//! | `meter` | the allowances and the counters of one key, tenant or contract |
//! | `meters` | all meters of the process |
//! | `exceeded` | which limit a request exceeds, and the headers that say so |
//! | `tenants` | the limits of tenants in memory |
//! | `holdings` | whether a tenant may load another contract |
//! | `usage` | the task that adds up what was used in Redis |
//!
//! A call costs no round trip: it spends what was leased before. Only one that finds nothing left
//! waits for the next slice, or is refused.

mod allowance;
mod exceeded;
mod holdings;
mod meter;
mod meters;
mod refill;
mod tenants;
mod usage;

pub(crate) use self::exceeded::{Exceeded, Owner, Refusals, Resource};
pub(crate) use self::holdings::{Held, Holdings};
pub(crate) use self::meter::{Meter, MeterPermit};
pub(crate) use self::meters::{Counted, Meters};
pub(crate) use self::tenants::TenantTable;
