//! What the worker counts, and how it is at the moment of a scrape. Handles are made here, once.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use shared::protocol::job::EngineKind;
use shared::protocol::reply::{ContractState, ContractStatus, Failure, FailureCode};
use shared::service::telemetry::metrics::{Counter, Gauge, Histogram, Registry};

use crate::Worker;

/// The states that a hosted contract can be in.
const STATES: [(ContractState, &str); 4] = [
    (ContractState::Loading, "loading"),
    (ContractState::Ready, "ready"),
    (ContractState::Restarting, "restarting"),
    (ContractState::Unloading, "unloading"),
];

/// The worker's metrics.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    javascript: EngineMetrics,
    docker: EngineMetrics,
    /// Frames taken from the inbox.
    pub(crate) frames: Counter,
    /// Jobs that came twice.
    pub(crate) duplicates: Counter,
    /// Frames that wait in the inbox.
    pub(crate) inbox_depth: Gauge,
    gauges: Gauges,
    /// Whether contracts are told apart.
    by_contract: bool,
}

/// What is counted of the contracts of one engine.
#[derive(Debug)]
pub(crate) struct EngineMetrics {
    engine: EngineKind,
    registry: Registry,
    succeeded: Counter,
    failed: Mutex<HashMap<FailureCode, Counter>>,
    /// From a call's arrival at the worker to its start.
    pub(crate) wait: Histogram,
    run: Histogram,
    /// From a load's turn to the ready sandbox.
    pub(crate) load: Histogram,
    /// Calls given to a sandbox at once.
    pub(crate) batch: Histogram,
    /// Sandboxes lost.
    crashes: Counter,
    timeouts: Counter,
    /// Sandboxes made anew.
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
                "Frames taken from the inbox.",
                &[],
            ),
            duplicates: registry.counter(
                "execution_worker_duplicate_jobs_total",
                "Jobs that came twice and were dropped.",
                &[],
            ),
            inbox_depth: registry.gauge(
                "execution_worker_inbox_depth",
                "Frames in the inbox that are not settled, a second ago at most.",
                &[],
            ),
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

    /// Everything, as Prometheus reads it.
    pub(crate) fn render(&self, worker: &Worker) -> String {
        self.gauges.set(worker);
        let mut text = self.registry.render();
        if self.by_contract {
            write_contracts(worker, &mut text);
        }
        text
    }
}

impl EngineMetrics {
    fn new(registry: &Registry, engine: EngineKind) -> Self {
        let labels = [("engine", engine.name())];
        let losses = |cause| {
            registry.counter(
                "execution_worker_sandbox_losses_total",
                "Sandboxes that broke, or were closed because a call ran over its limit.",
                &[("engine", engine.name()), ("cause", cause)],
            )
        };
        Self {
            engine,
            registry: registry.clone(),
            succeeded: calls(registry, engine, "ok"),
            failed: Mutex::default(),
            wait: registry.histogram(
                "execution_worker_queue_wait_seconds",
                "From a call's arrival at the worker to its start.",
                &labels,
            ),
            run: registry.histogram(
                "execution_worker_execute_duration_seconds",
                "How long calls ran.",
                &labels,
            ),
            load: registry.histogram(
                "execution_worker_load_duration_seconds",
                "How long sandboxes took to be made, whether or not they came up.",
                &labels,
            ),
            batch: registry.histogram(
                "execution_worker_batch_size",
                "Calls given to a sandbox at once.",
                &labels,
            ),
            crashes: losses("crash"),
            timeouts: losses("timeout"),
            restarts: registry.counter(
                "execution_worker_sandbox_restarts_total",
                "Sandboxes made anew.",
                &labels,
            ),
        }
    }

    /// A call was answered.
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

    /// A sandbox was lost; it `broke`, or a call ran over its limit.
    pub(crate) fn lost(&self, broke: bool) {
        if broke {
            self.crashes.increment(1);
        } else {
            self.timeouts.increment(1);
        }
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
                    "Contracts hosted here.",
                    &[("engine", engine.name()), ("state", name)],
                );
                contracts.push((engine, state, gauge));
            }
        }
        Self {
            contracts,
            capacity: gauge(
                "execution_worker_capacity",
                "Contracts that can be hosted here.",
            ),
            waiting: gauge(
                "execution_worker_calls_waiting",
                "Calls that wait or run here.",
            ),
            lease: gauge(
                "execution_worker_lease_held",
                "1 while the worker may act, 0 while its lease is not renewed.",
            ),
            draining: gauge(
                "execution_worker_draining",
                "1 while the worker hands its contracts over, else 0.",
            ),
            browsers: gauge("execution_worker_browsers", "Browsers that are up."),
            pages: gauge("execution_worker_pages", "Pages in them."),
            browser_restarts: registry.counter(
                "execution_worker_browser_restarts_total",
                "Browsers started again after they died.",
                &[],
            ),
        }
    }

    fn set(&self, worker: &Worker) {
        let hosts = worker.contracts.all();
        let facts: Vec<_> = hosts
            .iter()
            .map(|(_, host)| (host.spec.engine, host.status.state()))
            .collect();
        for (engine, state, gauge) in &self.contracts {
            let fact = (*engine, *state);
            gauge.set(count(facts.iter().filter(|other| **other == fact).count()));
        }
        let waiting: u64 = hosts.iter().map(|(_, host)| host.status.waiting()).sum();
        self.waiting
            .set(count(usize::try_from(waiting).unwrap_or(usize::MAX)));
        self.capacity.set(count(worker.contracts.capacity()));
        self.lease.set(truth(!worker.fence.is_closed()));
        self.draining.set(truth(worker.life.is_draining()));
        if let Some(chromium) = &worker.chromium {
            let stats = chromium.stats();
            self.browsers.set(count(stats.browsers));
            self.pages.set(count(stats.pages));
            self.browser_restarts.absolute(stats.restarts);
        }
    }
}

/// What a line of a contract tells.
type Value = fn(&ContractStatus) -> u64;

/// A line per contract: as many labels as there are addresses, so only where that is asked for.
/// Written by hand, since a registry forgets no label that it has seen once.
fn write_contracts(worker: &Worker, text: &mut String) {
    let statuses: Vec<_> = worker
        .contracts
        .all()
        .into_iter()
        .map(|(address, host)| host.status.report(address, &host.spec, worker.id))
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
            // Addresses have no character that would have to be escaped.
            let contract = &status.contract_address;
            let (engine, value) = (status.engine, value(status));
            _ = writeln!(
                text,
                "{name}{{contract=\"{contract}\",engine=\"{engine}\"}} {value}"
            );
        }
    }
}

fn truth(holds: bool) -> f64 {
    f64::from(u8::from(holds))
}

#[expect(clippy::cast_precision_loss, reason = "there are never 2^52 of them")]
fn count(number: usize) -> f64 {
    number as f64
}
