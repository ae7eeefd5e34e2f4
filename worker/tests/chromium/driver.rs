//! Loads and calls contracts for the tests, and holds what the tests share.

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::Duration;

use execution_worker::chromium::{Chromium, ChromiumConfig, ContractPage};
use execution_worker::sandbox::{
    Blueprint, CallId, CallLimits, Engine, Event, Instance, Invocation, LossCause, StartError,
};
use serde_json::value::RawValue;
use shared::protocol::job::{ContractSpec, Limits};
use shared::protocol::reply::{Failure, FailureCode};
use shared::service::lifecycle::Lifecycle;
use tokio::runtime::Runtime;
use tokio::time::timeout;

/// Longer than any step takes on a slow and busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Limits under which a contract may run for long.
pub(crate) fn patient() -> CallLimits {
    CallLimits {
        time: Duration::from_secs(20),
        ..config().calls
    }
}

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().unwrap());

/// The browser that most tests share. Its guard ends it when the test process ends.
static SHARED: LazyLock<Chromium> = LazyLock::new(|| {
    let config = ChromiumConfig {
        calls: patient(),
        ..config()
    };
    RUNTIME
        .block_on(Chromium::start(config, Lifecycle::new()))
        .unwrap()
});

/// Runs a test on the runtime that the shared browser belongs to.
pub(crate) fn run<T>(test: impl Future<Output = T>) -> T {
    // Outside the runtime, because starting the browser blocks on the runtime.
    LazyLock::force(&SHARED);
    RUNTIME.block_on(async {
        timeout(PATIENCE * 2, test)
            .await
            .expect("the test timed out")
    })
}

pub(crate) fn shared() -> &'static Chromium {
    &SHARED
}

/// The default configuration, with the worker's program as the guard.
pub(crate) fn config() -> ChromiumConfig {
    ChromiumConfig {
        guard: env!("CARGO_BIN_EXE_execution-worker").into(),
        ..Default::default()
    }
}

pub(crate) fn spec(limits: Limits) -> ContractSpec {
    ContractSpec {
        engine: shared::protocol::job::EngineKind::Javascript,
        digest: "0".repeat(64),
        limits,
        idempotent: false,
        replicas: 1,
        keep_logs: false,
    }
}

/// Limits with only a time limit.
pub(crate) fn within_ms(timeout_ms: u32) -> Limits {
    Limits {
        timeout_ms: Some(timeout_ms),
        ..Limits::default()
    }
}

/// One loaded contract.
pub(crate) struct Contract {
    pub(crate) page: ContractPage,
    /// Why the page was lost.
    pub(crate) cause: Option<LossCause>,
    next: u32,
}

/// What happened to one call.
#[derive(Debug)]
pub(crate) enum Outcome {
    Done(Result<String, Failure>),
    NotStarted,
    Lost(String),
}

impl Outcome {
    pub(crate) fn code(&self) -> Option<FailureCode> {
        if let Self::Done(Err(failure)) = self {
            Some(failure.code)
        } else {
            None
        }
    }

    pub(crate) fn result(&self) -> Option<&str> {
        if let Self::Done(Ok(json)) = self {
            Some(json)
        } else {
            None
        }
    }

    pub(crate) fn is_lost(&self) -> bool {
        matches!(self, Self::Lost(_))
    }
}

impl Contract {
    pub(crate) async fn load(source: &str) -> Self {
        Self::try_load(shared(), Limits::default(), source)
            .await
            .unwrap()
    }

    pub(crate) async fn load_with(limits: Limits, source: &str) -> Self {
        Self::try_load(shared(), limits, source).await.unwrap()
    }

    pub(crate) async fn try_load(
        engine: &Chromium,
        limits: Limits,
        source: &str,
    ) -> Result<Self, StartError> {
        let plan = Blueprint {
            address: &"tested".parse().unwrap(),
            generation: 1,
            spec: &spec(limits),
            executable: source,
            image: None,
        };
        Ok(Self {
            page: engine.start(plan).await?,
            cause: None,
            next: 0,
        })
    }

    pub(crate) fn endpoints(&self) -> Vec<String> {
        self.page.endpoints().unwrap().to_vec()
    }

    /// Calls a method without an argument.
    pub(crate) async fn get(&mut self, method: &str) -> Result<String, Failure> {
        match self.run(&[(method, None)]).await.remove(0) {
            Outcome::Done(outcome) => outcome,
            other => panic!("{method}: {other:?}"),
        }
    }

    /// Calls a method with an argument.
    pub(crate) async fn call(&mut self, method: &str, argument: &str) -> Result<String, Failure> {
        match self.run(&[(method, Some(argument))]).await.remove(0) {
            Outcome::Done(outcome) => outcome,
            other => panic!("{method}({argument}): {other:?}"),
        }
    }

    /// Submits the calls together and waits until each has ended, or the page is lost.
    pub(crate) async fn run(&mut self, calls: &[(&str, Option<&str>)]) -> Vec<Outcome> {
        let first = self.submit(calls);
        let mut outcomes = BTreeMap::new();
        let mut lost = None;
        while lost.is_none() && outcomes.len() < calls.len() {
            lost = self.wait(&mut outcomes).await;
        }
        (first..self.next)
            .map(|id| {
                outcomes
                    .remove(&id)
                    .unwrap_or_else(|| Outcome::Lost(lost.clone().unwrap()))
            })
            .collect()
    }

    /// Submits calls; returns the number of the first.
    pub(crate) fn submit(&mut self, calls: &[(&str, Option<&str>)]) -> u32 {
        let room = self.page.reserve(0);
        assert!(calls.len() <= room.calls, "no room: {room:?}");
        self.submit_reserved(calls)
    }

    /// Submits calls for which room was reserved; returns the number of the first.
    pub(crate) fn submit_reserved(&mut self, calls: &[(&str, Option<&str>)]) -> u32 {
        let first = self.next;
        let arguments: Vec<Option<Box<RawValue>>> = calls
            .iter()
            .map(|(_, json)| json.map(|json| RawValue::from_string(json.to_owned()).unwrap()))
            .collect();
        let invocations: Vec<_> = (first..)
            .zip(calls.iter().zip(&arguments))
            .map(|(id, ((method, _), argument))| Invocation {
                id: CallId(id),
                method,
                argument: argument.as_deref(),
                logs: 0,
            })
            .collect();
        self.page.submit(&invocations);
        self.next += u32::try_from(calls.len()).unwrap();
        first
    }

    /// Reuses the numbers of the last calls.
    pub(crate) fn rewind(&mut self, calls: u32) {
        self.next -= calls;
    }

    /// Waits for the next events and records the calls that ended; returns the reason if the page
    /// is lost.
    pub(crate) async fn wait(&mut self, outcomes: &mut BTreeMap<u32, Outcome>) -> Option<String> {
        let events = timeout(PATIENCE, self.events())
            .await
            .expect("no event in time");
        self.record(events, outcomes)
    }

    /// As [`Self::wait`], but also returns when the page may have room again.
    pub(crate) async fn wait_or_room(
        &mut self,
        outcomes: &mut BTreeMap<u32, Outcome>,
    ) -> Option<String> {
        let events = timeout(PATIENCE, self.page.next())
            .await
            .expect("nothing happened in time");
        self.record(events, outcomes)
    }

    fn record(
        &mut self,
        events: Vec<Event>,
        outcomes: &mut BTreeMap<u32, Outcome>,
    ) -> Option<String> {
        for event in events {
            let (call, outcome) = match event {
                Event::Done { call, outcome, .. } => (
                    call,
                    Outcome::Done(outcome.map(|json| json.get().to_owned())),
                ),
                Event::NotStarted(call) => (call, Outcome::NotStarted),
                Event::Written(_) => continue,
                Event::Lost { reason, cause } => {
                    self.cause = Some(cause);
                    return Some(reason);
                }
            };
            assert!(
                outcomes.insert(call.0, outcome).is_none(),
                "{call:?} ended twice"
            );
        }
        None
    }

    /// Makes no call for a while, and expects no event.
    pub(crate) async fn idle(&mut self, span: Duration) {
        let event = timeout(span, self.events()).await;
        assert!(event.is_err(), "unexpected event: {event:?}");
    }

    async fn events(&mut self) -> Vec<Event> {
        loop {
            let events = self.page.next().await;
            if !events.is_empty() {
                return events;
            }
        }
    }

    /// Waits until the page is lost; returns the reason.
    pub(crate) async fn lost(&mut self) -> String {
        loop {
            if let Some(reason) = self.wait(&mut BTreeMap::new()).await {
                return reason;
            }
        }
    }

    pub(crate) async fn close(self) {
        timeout(PATIENCE, self.page.close())
            .await
            .expect("the page did not close in time");
    }
}

/// Waits until a condition holds. `what` describes it in the panic's message.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + PATIENCE;
    while !holds() {
        assert!(
            std::time::Instant::now() < deadline,
            "condition not met in time: {what}"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
