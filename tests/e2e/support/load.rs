//! Callers that call at a steady pace during a fault and record every answer.
//!
//! The pace is fixed, not "as fast as possible", so a busy machine does not change what is
//! expected. [`super::call_log`] checks the recorded calls.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use reqwest::header::HeaderName;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval_at};

use super::call_log::{Call, CallLog};
use super::client::{Answer, Client, try_send};
use super::wait::{self, DEFAULT_LIMIT};

/// The number of callers and the interval of their calls. A caller waits for its answer before its
/// next call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    pub(crate) callers: u32,
    pub(crate) every: Duration,
}

impl Pace {
    /// 200 calls per second.
    pub(crate) const STEADY: Self = Self {
        callers: 40,
        every: Duration::from_millis(200),
    };

    /// Calls per second.
    fn rate(self) -> f64 {
        f64::from(self.callers) / self.every.as_secs_f64()
    }
}

/// What a caller does when it gets no answer, or `draining`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OnFailure {
    /// It records the outcome.
    Record,
    /// It tries the next api, as a load balancer would.
    Retry,
}

const GENERATION: HeaderName = HeaderName::from_static("contract-generation");

/// How long a retrying caller keeps trying.
const RETRY_FOR: Duration = Duration::from_secs(10);

/// A running load.
pub(crate) struct Load {
    pace: Pace,
    shared: Arc<Shared>,
    callers: JoinSet<Vec<Call>>,
}

struct Shared {
    clients: Vec<Client>,
    addresses: Vec<String>,
    on_failure: OnFailure,
    next: AtomicU64,
    succeeded: AtomicUsize,
    /// The latest outcome of each contract's calls.
    latest: Mutex<BTreeMap<String, String>>,
    ended: AtomicBool,
}

impl Load {
    /// Starts calling `add` of every contract through every client.
    pub(crate) fn start(clients: &[Client], addresses: &[String], pace: Pace) -> Self {
        Self::launch(1, clients, addresses, pace, OnFailure::Record)
    }

    /// The same, with ids from `first` on. A caller tries the next api when one is gone.
    pub(crate) fn retrying(
        first: u64,
        clients: &[Client],
        addresses: &[String],
        pace: Pace,
    ) -> Self {
        Self::launch(first, clients, addresses, pace, OnFailure::Retry)
    }

    fn launch(
        first: u64,
        clients: &[Client],
        addresses: &[String],
        pace: Pace,
        on_failure: OnFailure,
    ) -> Self {
        let shared = Arc::new(Shared {
            clients: clients.to_vec(),
            addresses: addresses.to_vec(),
            on_failure,
            next: AtomicU64::new(first),
            succeeded: AtomicUsize::new(0),
            latest: Mutex::default(),
            ended: AtomicBool::new(false),
        });
        let callers = (0..pace.callers).map(|number| caller(number, pace, shared.clone()));
        Self {
            pace,
            callers: callers.collect(),
            shared,
        }
    }

    /// Calls that have succeeded so far.
    pub(crate) fn succeeded(&self) -> usize {
        self.shared.succeeded.load(Ordering::Relaxed)
    }

    /// Waits until calls succeed at the pace, and returns the time that this took (I6: nine in ten,
    /// within 15 s).
    pub(crate) async fn full_pace(&self) -> Duration {
        const WINDOW: Duration = Duration::from_secs(1);
        let start = Instant::now();
        let mut seen = std::collections::VecDeque::from([(start, self.succeeded())]);
        wait::until_none(DEFAULT_LIMIT / 2, async || {
            let (now, count) = (Instant::now(), self.succeeded());
            seen.push_back((now, count));
            while seen.get(1).is_some_and(|(then, _)| now - *then >= WINDOW) {
                seen.pop_front();
            }
            let (then, before) = seen[0];
            let (calls, window) = (count - before, now - then);
            // Counts of calls are far below what a float holds exactly.
            let rate = f64::from(u32::try_from(calls).unwrap_or(u32::MAX)) / window.as_secs_f64();
            let at_pace = window >= WINDOW && rate >= 0.9 * self.pace.rate();
            let progress = || {
                let latest = self.shared.latest();
                format!(
                    "{calls} calls have succeeded in {window:?}, {count} before; latest: {latest:?}"
                )
            };
            (!at_pace).then(progress).into_iter().collect()
        })
        .await;
        start.elapsed().saturating_sub(WINDOW)
    }

    /// Lets every caller finish and returns the recorded calls.
    pub(crate) async fn end(self) -> CallLog {
        self.shared.ended.store(true, Ordering::Relaxed);
        CallLog::new(self.callers.join_all().await.concat())
    }
}

async fn caller(number: u32, pace: Pace, shared: Arc<Shared>) -> Vec<Call> {
    let first = tokio::time::Instant::now() + pace.every * number / pace.callers;
    let mut due = interval_at(first, pace.every);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut calls = Vec::new();
    loop {
        due.tick().await;
        if shared.ended.load(Ordering::Relaxed) {
            return calls;
        }
        let id = shared.next.fetch_add(1, Ordering::Relaxed);
        let call = shared
            .call(id, usize::try_from(number).unwrap_or_default())
            .await;
        let outcome = format!("{} after {:.1?}", call.outcome(), call.took());
        shared.latest().insert(call.address.clone(), outcome);
        if call.succeeded() {
            shared.succeeded.fetch_add(1, Ordering::Relaxed);
        }
        calls.push(call);
    }
}

impl Shared {
    fn latest(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.latest.lock().expect("the lock is not poisoned")
    }

    async fn call(&self, id: u64, caller: usize) -> Call {
        let index = usize::try_from(id).unwrap_or_default();
        let address = &self.addresses[index % self.addresses.len()];
        let first = Instant::now();
        let (mut client, mut broken_connections) = (caller, 0);
        loop {
            let sent = Instant::now();
            let answer = self.clients[client % self.clients.len()]
                .try_execute(address, "add", id)
                .await;
            let elsewhere = answer.as_ref().is_none_or(should_try_next_api);
            if self.on_failure == OnFailure::Retry && elsewhere && first.elapsed() < RETRY_FOR {
                client += 1;
                broken_connections += u64::from(answer.is_none());
                wait::pass(Duration::from_millis(20)).await;
                continue;
            }
            return Call {
                id,
                address: address.clone(),
                sent,
                ended: Instant::now(),
                answer: answer.map(without_headers),
                broken_connections,
            };
        }
    }
}

/// Drops the headers that no check reads, to save memory: there are many answers.
fn without_headers(mut answer: Answer) -> Answer {
    if answer.status == 200 {
        let generation = answer.headers.remove(GENERATION);
        answer.headers = generation
            .map(|value| (GENERATION, value))
            .into_iter()
            .collect();
    }
    answer
}

fn should_try_next_api(answer: &Answer) -> bool {
    answer.status == 503 && answer.json()["code"] == "draining"
}

impl Client {
    /// Calls a method of an api that may be shutting down. None when it gives no answer.
    pub(crate) async fn try_execute(&self, address: &str, method: &str, id: u64) -> Option<Answer> {
        let path = format!("/execute/{address}/{method}");
        let request = self.request(reqwest::Method::POST, &path).json(&json!(id));
        try_send(request).await.ok()
    }
}
