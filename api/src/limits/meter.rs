//! The allowances and the counters of one key, tenant or contract.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use shared::protocol::quota::Quota;
use shared::protocol::tenant::Tenant;
use shared::queue::usage::Usage;
use tokio::sync::mpsc::UnboundedSender;

use super::allowance::Allowance;
use super::exceeded::{Exceeded, Owner, Resource};
use crate::error::ApiError;

/// After how long a call that found too many in flight may try again.
const RETRY_IN_FLIGHT: Duration = Duration::from_secs(1);

/// The meter of one key, tenant or contract.
pub(crate) struct Meter {
    pub(super) owner: Owner,
    pub(super) tenant: Tenant,
    /// The caller's name, the tenant's, or the contract's address inside the farm.
    pub(super) name: String,
    /// Calls that may begin.
    pub(super) calls: Allowance,
    /// Processor time in microseconds.
    pub(super) cpu: Allowance,
    in_flight_limit: AtomicUsize,
    in_flight: AtomicUsize,
    /// How many apis there are: each may have its share in flight.
    apis: Arc<AtomicUsize>,
    /// Whether what was used is counted. All callers of a tenant would count in one place.
    is_counting: bool,
    used: Used,
    /// Where further slices are asked for. Each allowance is there once at most.
    refills: UnboundedSender<Refill>,
}

/// Asks for a slice of an allowance.
#[derive(Debug)]
pub(super) struct Refill {
    pub(super) meter: Arc<Meter>,
    pub(super) resource: Resource,
}

/// What was used since this was added up last.
#[derive(Debug, Default)]
struct Used {
    calls: AtomicU64,
    errors: AtomicU64,
    cpu_us: AtomicU64,
}

/// Counts one call in flight; released on drop.
#[derive(Debug)]
pub(crate) struct MeterPermit(Arc<Meter>);

impl Drop for MeterPermit {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl fmt::Debug for Meter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Meter")
            .field("owner", &self.owner)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Meter {
    pub(super) fn new(
        owner: Owner,
        tenant: Tenant,
        name: String,
        is_counting: bool,
        apis: Arc<AtomicUsize>,
        refills: UnboundedSender<Refill>,
    ) -> Self {
        Self {
            owner,
            tenant,
            name,
            calls: Allowance::default(),
            cpu: Allowance::default(),
            in_flight_limit: AtomicUsize::new(0),
            in_flight: AtomicUsize::new(0),
            apis,
            is_counting,
            used: Used::default(),
            refills,
        }
    }

    /// Sets the limits.
    pub(crate) fn limit(&self, quota: Quota) {
        let count = |limit: Option<u32>| u64::from(limit.unwrap_or_default());
        self.calls.limit(count(quota.calls_per_second));
        self.cpu.limit(count(quota.cpu_ms_per_minute) * 1000);
        let limit = quota.calls_in_flight.unwrap_or_default();
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        self.in_flight_limit.store(limit, Ordering::Relaxed);
    }

    /// Lets a call begin, or refuses it: it spends one call of the rate.
    pub(crate) async fn admit(self: &Arc<Self>) -> Result<(), ApiError> {
        let cpu = self.cpu.obtain(0, || self.ask(Resource::Cpu)).await;
        cpu.map_err(|time| self.exceeded(Resource::Cpu, time))?;
        let calls = self.calls.obtain(1, || self.ask(Resource::Calls)).await;
        calls.map_err(|time| self.exceeded(Resource::Calls, time))
    }

    /// Takes back that a call began, which another limit refused.
    pub(crate) fn take_back(&self) {
        self.calls.give_back(1);
    }

    /// Counts a call in flight, or refuses it. None if calls in flight are not limited.
    pub(crate) fn enter(self: &Arc<Self>) -> Result<Option<MeterPermit>, ApiError> {
        let limit = self.in_flight_limit.load(Ordering::Relaxed);
        if limit == 0 {
            return Ok(None);
        }
        let permit = MeterPermit(self.clone());
        let before = self.in_flight.fetch_add(1, Ordering::Relaxed);
        let apis = self.apis.load(Ordering::Relaxed).max(1);
        if before < limit.div_ceil(apis) {
            return Ok(Some(permit));
        }
        Err(self.exceeded(Resource::InFlight, RETRY_IN_FLIGHT))
    }

    /// Counts a call that was answered, and takes its processor time from the allowance.
    pub(crate) fn answered(self: &Arc<Self>, is_error: bool, cpu_us: u64) {
        if self.is_counting {
            self.add_used(Usage {
                calls: 1,
                errors: u64::from(is_error),
                cpu_us,
            });
        }
        if self.cpu.charge(cpu_us) {
            self.ask(Resource::Cpu);
        }
    }

    /// Whether it has used more processor time than it had. Then the next slice is asked for, so
    /// that this is paid also if nobody calls.
    pub(super) fn is_in_debt(self: &Arc<Self>) -> bool {
        let is_in_debt = self.cpu.is_in_debt();
        if is_in_debt {
            self.ask(Resource::Cpu);
        }
        is_in_debt
    }

    /// What was used since the beginning, of a meter from which nothing is taken.
    pub(super) fn used(&self) -> Usage {
        Usage {
            calls: self.used.calls.load(Ordering::Relaxed),
            errors: self.used.errors.load(Ordering::Relaxed),
            cpu_us: self.used.cpu_us.load(Ordering::Relaxed),
        }
    }

    /// What was used since this was asked last.
    pub(super) fn take_used(&self) -> Usage {
        Usage {
            calls: self.used.calls.swap(0, Ordering::Relaxed),
            errors: self.used.errors.swap(0, Ordering::Relaxed),
            cpu_us: self.used.cpu_us.swap(0, Ordering::Relaxed),
        }
    }

    /// Adds to what was used, also what could not be added up in Redis.
    pub(super) fn add_used(&self, used: Usage) {
        self.used.calls.fetch_add(used.calls, Ordering::Relaxed);
        self.used.errors.fetch_add(used.errors, Ordering::Relaxed);
        self.used.cpu_us.fetch_add(used.cpu_us, Ordering::Relaxed);
    }

    fn ask(self: &Arc<Self>, resource: Resource) {
        let is_needed = match resource {
            Resource::Cpu => self.cpu.begin_to_ask(),
            _ => self.calls.begin_to_ask(),
        };
        if is_needed {
            let meter = self.clone();
            // Fails only while the process stops.
            _ = self.refills.send(Refill { meter, resource });
        }
    }

    fn exceeded(&self, resource: Resource, retry_after: Duration) -> ApiError {
        let limit = match resource {
            Resource::Calls => self.calls.quota(),
            Resource::Cpu => self.cpu.quota() / 1000,
            Resource::InFlight => {
                let limit = self.in_flight_limit.load(Ordering::Relaxed);
                u64::try_from(limit).unwrap_or(u64::MAX)
            }
        };
        ApiError::RateLimited(Exceeded {
            owner: self.owner,
            resource,
            limit,
            retry_after,
        })
    }
}
