//! The worker's metrics: counters, and gauges that are set at each scrape. All handles are created
//! here, once.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use shared::protocol::id::{ContractAddress, WorkerId};
use shared::protocol::job::EngineKind;
use shared::protocol::reply::{ContractState, ContractStatus, Failure, FailureCode};
use shared::service::telemetry::metrics::{Counter, Gauge, Histogram, Registry};

use crate::chromium::Chromium;
use crate::contracts::ContractHandle;
use crate::sandbox::LossCause;

/// The states that an owned contract can be in.
const STATES: [(ContractState, &str); 4] = [
    (ContractState::Loading, "loading"),
    (ContractState::Ready, "ready"),
    (ContractState::Restarting, "restarting"),
    (ContractState::Unloading, "unloading"),
];

/// The worker's state at the moment of a scrape.
pub(crate) struct Snapshot<'a> {
    pub(crate) worker: WorkerId,
    pub(crate) contracts: Vec<(ContractAddress, Arc<ContractHandle>)>,
    /// The maximum number of contracts.
    pub(crate) capacity: usize,
    pub(crate) has_lease: bool,
    pub(crate) is_draining: bool,
    /// The JavaScript engine, if this worker offers it.
    pub(crate) chromium: Option<&'a Chromium>,
}

/// The worker's metrics.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    javascript: EngineMetrics,
    docker: EngineMetrics,
    /// Frames read from the inbox.
    pub(crate) frames: Counter,
    /// Jobs that were delivered twice.
    pub(crate) duplicates: Counter,
    /// Frames in the inbox.
    pub(crate) inbox_depth: Gauge,
    /// Differences between this worker and the registry.
    pub(crate) repairs: Repairs,
    gauges: Gauges,
    /// Whether each contract has series of its own.
    by_contract: bool,
}

/// Differences between this worker and the registry that were repaired, by kind.
#[derive(Debug)]
pub(crate) struct Repairs {
    /// Records written back that Redis had lost.
    pub(crate) restored: Counter,
    /// Contracts closed because they are not this worker's any more.
    pub(crate) closed: Counter,
    /// Contracts released that this worker does not have.
    pub(crate) released: Counter,
    /// Executables stored again.
    pub(crate) executables: Counter,
    /// Contracts and executables added to the registry's lists, where they were missing.
    pub(crate) listed: Counter,
}

impl Repairs {
    fn new(registry: &Registry) -> Self {
        let kind = |kind| {
            registry.counter(
                "execution_registry_repairs_total",
                "Differences between this worker's contracts and the registry that were repaired.",
                &[("kind", kind)],
            )
        };
        Self {
            restored: kind("restored"),
            closed: kind("closed"),
            released: kind("released"),
            executables: kind("executable"),
            listed: kind("listed"),
        }
    }
}

/// The metrics of the contracts of one engine.
#[derive(Debug)]
pub(crate) struct EngineMetrics {
    engine: EngineKind,
    registry: Registry,
    succeeded: Counter,
    failed: Mutex<HashMap<FailureCode, Counter>>,
    /// The time from a call's arrival at the worker to its start.
    pub(crate) wait: Histogram,
    run: Histogram,
    /// The time to start a contract's first sandbox.
    pub(crate) load: Histogram,
    /// Calls submitted to a sandbox together.
    pub(crate) batch: Histogram,
    /// Sandboxes that crashed.
    crashes: Counter,
    /// Sandboxes closed because a call exceeded its limit.
    timeouts: Counter,
    /// Sandboxes that did not respond in time.
    unresponsive: Counter,
    /// Sandboxes that the arguments of calls were too large for.
    arguments: Counter,
    /// Sandboxes restarted.
    pub(crate) restarts: Counter,
}

#[derive(Debug)]
struct Gauges {
    contracts: Vec<(EngineKind, ContractState, Gauge)>,
    capacity: Gauge,
    waiting: Gauge,
    lease: Gauge,
    draining: Gauge,
    browsers: Gauge,
    pages: Gauge,
    browser_restarts: Counter,
}

impl Metrics {
    pub(crate) fn new(registry: Registry, by_contract: bool) -> Self {
        Self {
            javascript: EngineMetrics::new(&registry, EngineKind::Javascript),
            docker: EngineMetrics::new(&registry, EngineKind::Docker),
            frames: registry.counter(
                "execution_worker_frames_total",
                "Frames read from the inbox.",
                &[],
            ),
            duplicates: registry.counter(
                "execution_worker_duplicate_jobs_total",
                "Duplicate jobs that were dropped.",
                &[],
            ),
            inbox_depth: registry.gauge(
                "execution_worker_inbox_depth",
                "Frames in the inbox that are not settled, measured once a second.",
                &[],
            ),
            repairs: Repairs::new(&registry),
            gauges: Gauges::new(&registry),
            registry,
            by_contract,
        }
    }

    pub(crate) fn of(&self, engine: EngineKind) -> &EngineMetrics {
        match engine {
            EngineKind::Javascript => &self.javascript,
            EngineKind::Docker => &self.docker,
        }
    }

    /// All metrics in the Prometheus text format. Those of each contract only if `by_contract` or
    /// else the setting says so.
    pub(crate) fn render(&self, now: &Snapshot<'_>, by_contract: Option<bool>) -> String {
        self.gauges.set(now);
        let mut text = self.registry.render();
        if by_contract.unwrap_or(self.by_contract) {
            write_contracts(now, &mut text);
        }
        text
    }
}

impl EngineMetrics {
    fn new(registry: &Registry, engine: EngineKind) -> Self {
        let labels = [("engine", engine.name())];
        let losses = |cause: LossCause| {
            registry.counter(
                "execution_worker_sandbox_losses_total",
                "Sandboxes that were lost: by a crash, by a call over its limit, or without a response.",
                &[("engine", engine.name()), ("cause", cause.name())],
            )
        };
        Self {
            engine,
            registry: registry.clone(),
            succeeded: calls(registry, engine, "ok"),
            failed: Mutex::default(),
            wait: registry.histogram(
                "execution_worker_queue_wait_seconds",
                "Time from a call's arrival at the worker to its start.",
                &labels,
            ),
            run: registry.histogram(
                "execution_worker_execute_duration_seconds",
                "Run time of calls.",
                &labels,
            ),
            load: registry.histogram(
                "execution_worker_load_duration_seconds",
                "Time to start a sandbox, including failed starts.",
                &labels,
            ),
            batch: registry.histogram(
                "execution_worker_batch_size",
                "Calls submitted to a sandbox together.",
                &labels,
            ),
            crashes: losses(LossCause::Crash),
            timeouts: losses(LossCause::Timeout),
            unresponsive: losses(LossCause::Unresponsive),
            arguments: losses(LossCause::Arguments),
            restarts: registry.counter(
                "execution_worker_sandbox_restarts_total",
                "Sandboxes restarted.",
                &labels,
            ),
        }
    }

    /// Counts an answered call.
    pub(crate) fn answered<T>(&self, outcome: &Result<T, Failure>, ran: Option<Duration>) {
        if let Some(ran) = ran {
            self.run.record(ran);
        }
        match outcome {
            Ok(_) => self.succeeded.increment(1),
            Err(failure) => self
                .failed
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .entry(failure.code)
                .or_insert_with(|| calls(&self.registry, self.engine, failure.code.name()))
                .increment(1),
        }
    }

    /// Counts a lost sandbox.
    pub(crate) fn lost(&self, cause: LossCause) {
        let counter = match cause {
            LossCause::Crash => &self.crashes,
            LossCause::Timeout => &self.timeouts,
            LossCause::Unresponsive => &self.unresponsive,
            LossCause::Arguments => &self.arguments,
        };
        counter.increment(1);
    }
}

fn calls(registry: &Registry, engine: EngineKind, outcome: &'static str) -> Counter {
    registry.counter(
        "execution_worker_calls_total",
        "Calls answered.",
        &[("engine", engine.name()), ("outcome", outcome)],
    )
}

impl Gauges {
    fn new(registry: &Registry) -> Self {
        let gauge = |name, help| registry.gauge(name, help, &[]);
        let mut contracts = Vec::new();
        for engine in EngineKind::ALL {
            for (state, name) in STATES {
                let gauge = registry.gauge(
                    "execution_worker_contracts",
                    "Contracts assigned to this worker.",
                    &[("engine", engine.name()), ("state", name)],
                );
                contracts.push((engine, state, gauge));
            }
        }
        Self {
            contracts,
            capacity: gauge(
                "execution_worker_capacity",
                "Maximum number of contracts on this worker.",
            ),
            waiting: gauge(
                "execution_worker_calls_waiting",
                "Calls that wait or run on this worker.",
            ),
            lease: gauge(
                "execution_worker_lease_held",
                "1 while the worker holds its lease and may act, else 0.",
            ),
            draining: gauge(
                "execution_worker_draining",
                "1 while the worker drains, else 0.",
            ),
            browsers: gauge("execution_worker_browsers", "Running browsers."),
            pages: gauge("execution_worker_pages", "Pages in the running browsers."),
            browser_restarts: registry.counter(
                "execution_worker_browser_restarts_total",
                "Browsers restarted after they died.",
                &[],
            ),
        }
    }

    fn set(&self, now: &Snapshot<'_>) {
        let contracts = &now.contracts;
        let current: Vec<_> = contracts
            .iter()
            .map(|(_, contract)| (contract.spec.engine, contract.status.state()))
            .collect();
        for (engine, state, gauge) in &self.contracts {
            let wanted = (*engine, *state);
            gauge.set(count(current.iter().filter(|one| **one == wanted).count()));
        }
        let waiting = contracts
            .iter()
            .map(|(_, contract)| contract.status.waiting())
            .sum::<u64>();
        self.waiting
            .set(count(usize::try_from(waiting).unwrap_or(usize::MAX)));
        self.capacity.set(count(now.capacity));
        self.lease.set(flag(now.has_lease));
        self.draining.set(flag(now.is_draining));
        if let Some(chromium) = now.chromium {
            let stats = chromium.stats();
            self.browsers.set(count(stats.browsers));
            self.pages.set(count(stats.pages));
            self.browser_restarts.absolute(stats.restarts);
        }
    }
}

/// Selects the value of a contract's series.
type Value = fn(&ContractStatus) -> Option<u64>;

/// Writes one line per contract and metric. There are as many label values as addresses, so these
/// series are optional. They are written by hand, because a registry never forgets a label value.
fn write_contracts(now: &Snapshot<'_>, text: &mut String) {
    let statuses: Vec<_> = now
        .contracts
        .iter()
        .map(|(address, contract)| {
            contract
                .status
                .report(address.clone(), &contract.spec, now.worker)
        })
        .collect();
    let metrics: [(&str, &str, Value); 3] = [
        ("execution_worker_contract_calls_total", "counter", |s| {
            s.calls
        }),
        ("execution_worker_contract_errors_total", "counter", |s| {
            s.errors
        }),
        ("execution_worker_contract_calls_waiting", "gauge", |s| {
            s.queue_depth
        }),
    ];
    for (name, kind, value) in metrics {
        // Writing into a String cannot fail.
        _ = writeln!(text, "# TYPE {name} {kind}");
        for status in &statuses {
            // Addresses and names contain no character that needs escaping.
            let contract = status.contract_address.local();
            let tenant = status.contract_address.tenant();
            let (engine, value) = (status.engine, value(status).unwrap_or_default());
            _ = write!(text, "{name}{{contract=\"{contract}\",engine=\"{engine}\"");
            if let Some(tenant) = tenant.name() {
                _ = write!(text, ",tenant=\"{tenant}\"");
            }
            _ = writeln!(text, "}} {value}");
        }
    }
}

fn flag(is_set: bool) -> f64 {
    f64::from(u8::from(is_set))
}

#[expect(clippy::cast_precision_loss, reason = "there are never 2^52 of them")]
fn count(number: usize) -> f64 {
    number as f64
}
