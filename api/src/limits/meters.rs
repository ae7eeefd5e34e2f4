//! All meters of this process. A call reaches its meters through its caller and its route, so
//! nothing is looked up here for each call.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::hash::Hash;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use shared::protocol::id::ContractAddress;
use shared::protocol::quota::Quota;
use shared::protocol::tenant::Tenant;
use shared::queue::Queue;
use shared::queue::tenants::AllLimits;
use shared::queue::usage::Usage;
use shared::service::lifecycle::Lifecycle;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::exceeded::Owner;
use super::meter::{Meter, Refill};
use super::{refill, usage};

/// The meters.
#[derive(Debug)]
pub(crate) struct Meters {
    callers: Table<String>,
    tenants: Table<Tenant>,
    contracts: Table<ContractAddress>,
    apis: Arc<AtomicUsize>,
    refills: UnboundedSender<Refill>,
    counted: Counted,
}

/// What is counted.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counted {
    /// What callers and contracts use, because callers are known.
    pub(crate) callers: bool,
    /// What tenants use, for metrics.
    pub(crate) tenants: bool,
}

/// How many tenants have series of their own.
const TENANTS_SHOWN: usize = 1000;

/// A metric of tenants, and what it is.
type Figure = (&'static str, fn(&Usage) -> f64);

type Table<K> = Mutex<HashMap<K, Arc<Meter>>>;

impl Meters {
    /// Starts the tasks behind the meters.
    pub(crate) fn start(queue: &Queue, counted: Counted, life: &Lifecycle) -> Arc<Self> {
        let (meters, asked) = Self::new(counted);
        life.spawn("quotas", refill::run(queue.clone(), asked, life.clone()));
        // Where nothing is counted, it only forgets meters that are not used any more.
        let adding = usage::run(queue.clone(), meters.clone(), life.clone());
        life.spawn("usage", adding);
        meters
    }

    fn new(counted: Counted) -> (Arc<Self>, UnboundedReceiver<Refill>) {
        let (refills, asked) = unbounded_channel();
        let meters = Self {
            callers: Mutex::default(),
            tenants: Mutex::default(),
            contracts: Mutex::default(),
            apis: Arc::new(AtomicUsize::new(1)),
            refills,
            counted,
        };
        (Arc::new(meters), asked)
    }

    /// Meters without tasks behind them.
    #[cfg(test)]
    pub(crate) fn idle() -> Arc<Self> {
        Self::new(Counted::default()).0
    }

    /// The meter of a caller.
    pub(crate) fn caller(&self, tenant: &Tenant, name: &str, quota: Quota) -> Arc<Meter> {
        let meter = get(&self.callers, &name.to_owned(), || {
            self.meter(Owner::Key, tenant.clone(), name.to_owned())
        });
        meter.limit(quota);
        meter
    }

    /// The meter of a tenant.
    pub(crate) fn tenant(&self, tenant: &Tenant) -> Arc<Meter> {
        get(&self.tenants, tenant, || {
            self.meter(Owner::Tenant, tenant.clone(), tenant.to_string())
        })
    }

    /// The meter of a contract, if it needs one.
    pub(crate) fn contract(&self, address: &ContractAddress, quota: Quota) -> Option<Arc<Meter>> {
        if !self.counted.callers && quota.is_empty() {
            return None;
        }
        let meter = get(&self.contracts, address, || {
            self.meter(Owner::Contract, address.tenant(), address.to_string())
        });
        meter.limit(quota);
        Some(meter)
    }

    /// Applies the limits of tenants.
    pub(super) fn limit_tenants(&self, limits: &AllLimits) {
        for tenant in limits.keys() {
            self.tenant(tenant);
        }
        let tenants = lock(&self.tenants);
        for (tenant, meter) in tenants.iter() {
            let limits = limits.get(tenant).copied().unwrap_or_default();
            meter.limit(limits.quota());
        }
    }

    /// Writes a line for each tenant and metric, if tenants are counted. There are as many label
    /// values as tenants, so these series are optional, and a registry would never forget one.
    pub(crate) fn write_tenants(&self, text: &mut String) {
        if !self.counted.tenants {
            return;
        }
        let tenants: Vec<_> = lock(&self.tenants)
            .values()
            .take(TENANTS_SHOWN)
            .map(|meter| (meter.name.clone(), meter.used()))
            .collect();
        let metrics: [Figure; 3] = [
            ("execution_api_tenant_calls_total", |used| float(used.calls)),
            ("execution_api_tenant_errors_total", |used| {
                float(used.errors)
            }),
            ("execution_api_tenant_cpu_seconds_total", |used| {
                float(used.cpu_us) / 1e6
            }),
        ];
        for (name, value) in metrics {
            // Writing into a String cannot fail. Names contain no character that needs escaping.
            _ = writeln!(text, "# TYPE {name} counter");
            for (tenant, used) in &tenants {
                _ = writeln!(text, "{name}{{tenant=\"{tenant}\"}} {}", value(used));
            }
        }
    }

    /// Notes how many apis there are.
    pub(super) fn set_apis(&self, apis: usize) {
        self.apis.store(apis, Ordering::Relaxed);
    }

    /// The meters of callers and contracts. Those that nothing refers to any more are forgotten
    /// once what they have used is paid.
    pub(super) fn take_callers_and_contracts(&self) -> Vec<Arc<Meter>> {
        let mut all = take(&self.callers);
        all.extend(take(&self.contracts));
        all
    }

    fn meter(&self, owner: Owner, tenant: Tenant, name: String) -> Meter {
        let is_counting = match owner {
            Owner::Key | Owner::Contract => self.counted.callers,
            Owner::Tenant => self.counted.tenants,
        };
        let (apis, refills) = (self.apis.clone(), self.refills.clone());
        Meter::new(owner, tenant, name, is_counting, apis, refills)
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a figure of this size needs no precision"
)]
fn float(number: u64) -> f64 {
    number as f64
}

fn lock<K>(table: &Table<K>) -> std::sync::MutexGuard<'_, HashMap<K, Arc<Meter>>> {
    // No holder of the lock can panic half-way.
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

fn get<K: Eq + Hash + Clone>(
    table: &Table<K>,
    key: &K,
    make: impl FnOnce() -> Meter,
) -> Arc<Meter> {
    let mut table = lock(table);
    if let Some(meter) = table.get(key) {
        return meter.clone();
    }
    let meter = Arc::new(make());
    table.insert(key.clone(), meter.clone());
    meter
}

fn take<K: Eq + Hash>(table: &Table<K>) -> Vec<Arc<Meter>> {
    let mut table = lock(table);
    let all = table.values().cloned().collect();
    // Two: the table's own, and the one in `all`, through which its last figures are added up.
    table.retain(|_, meter| meter.is_in_debt() || Arc::strong_count(meter) > 2);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_meter_is_forgotten_once_it_is_unused_and_owes_nothing() {
        let (meters, mut asked) = Meters::new(Counted::default());
        let address = ContractAddress::try_from("metered".to_owned()).expect("valid");
        let quota = Quota {
            cpu_ms_per_minute: Some(1000),
            ..Quota::default()
        };
        let meter = meters.contract(&address, quota).expect("it has a limit");
        // A call begins while something is left, and may use more than that.
        meter.answered(false, 2_000_000);
        drop(meter);
        drop(asked.try_recv().expect("a slice is asked for"));
        for _ in 0..2 {
            assert_eq!(meters.take_callers_and_contracts().len(), 1);
        }
        let meter = meters.contract(&address, quota).expect("it has a limit");
        meter.cpu.granted(1_000_000);
        assert!(meter.is_in_debt());
        let refill = asked.try_recv().expect("the rest is asked for");
        assert_eq!(refill.meter.cpu.wanted(0), 1_000_000, "at most a window");
        meter.cpu.granted(1_000_000);
        drop((refill, meter));
        assert_eq!(meters.take_callers_and_contracts().len(), 1);
        assert!(meters.take_callers_and_contracts().is_empty());
    }
}
