//! Callers of Docker contracts. A container's effects are permanent, so no call may run twice, in
//! whichever container. Each container records the calls that it has run and returns all of them
//! with each answer.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::json;
use tokio::task::JoinSet;

use crate::rng::Rng;
use crate::support::call_log::DEADLINE;
use crate::support::client::{Answer, Client, try_send};
use crate::support::wait;

const CALLERS: usize = 3;

/// The interval of each caller's calls.
const PACE: Duration = Duration::from_millis(100);

/// The allowed outcomes of a call during faults. "no answer" means that its api was killed.
const ALLOWED: [&str; 9] = [
    "ok",
    "contract_crashed",
    "contract_quarantined",
    "deadline",
    "no answer",
    "no_capacity",
    "outcome_unknown",
    "overloaded",
    "queue_unavailable",
];

/// The running callers.
pub(crate) struct Ledger {
    shared: Arc<Shared>,
    callers: JoinSet<Vec<CallRecord>>,
}

struct Shared {
    clients: Vec<Client>,
    addresses: Vec<String>,
    next: AtomicU64,
    ended: AtomicBool,
}

/// One call.
struct CallRecord {
    id: u64,
    address: String,
    answer: Option<Answer>,
}

/// The summary of the calls.
pub(crate) struct LedgerSummary {
    outcomes: BTreeMap<String, usize>,
    containers: usize,
}

impl Ledger {
    pub(crate) fn start(clients: &[Client], addresses: &[String], rng: &mut Rng) -> Self {
        let shared = Arc::new(Shared {
            clients: clients.to_vec(),
            addresses: addresses.to_vec(),
            next: AtomicU64::new(1),
            ended: AtomicBool::new(false),
        });
        let callers = (0..CALLERS).map(|_| call(shared.clone(), rng.fork()));
        Self {
            callers: callers.collect(),
            shared,
        }
    }

    /// Ends the callers and checks their record against that of the containers.
    pub(crate) async fn end(self) -> LedgerSummary {
        self.shared.ended.store(true, Ordering::Relaxed);
        let callers = self.callers.join_all().await.into_iter();
        let mut records: Vec<_> = callers.flatten().collect();
        // The last containers may have run calls whose answers were lost.
        for address in &self.shared.addresses {
            let last = self.shared.call(&self.shared.clients[0], address).await;
            assert_eq!(last.outcome(), "ok", "{:?}", last.answer);
            records.push(last);
        }
        audit(&records)
    }
}

async fn call(shared: Arc<Shared>, mut rng: Rng) -> Vec<CallRecord> {
    let mut records = Vec::new();
    while !shared.ended.load(Ordering::Relaxed) {
        let (client, address) = (rng.pick(&shared.clients), rng.pick(&shared.addresses));
        records.push(shared.call(client, address).await);
        wait::pass(PACE).await;
    }
    records
}

impl Shared {
    async fn call(&self, client: &Client, address: &str) -> CallRecord {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let request = client.request(Method::POST, &format!("/execute/{address}/note"));
        let sent = Instant::now();
        let answer = try_send(request.json(&json!(id))).await.ok();
        assert!(
            sent.elapsed() <= DEADLINE + Duration::from_secs(1),
            "I1, took {:?}: {answer:?}",
            sent.elapsed()
        );
        CallRecord {
            id,
            address: address.to_owned(),
            answer,
        }
    }
}

impl CallRecord {
    fn outcome(&self) -> String {
        let answer = self.answer.as_ref();
        answer.map_or_else(|| "no answer".to_owned(), Answer::outcome)
    }

    /// The container that answered, and the calls that it has run so far.
    fn container_record(&self) -> Option<((String, u64), Vec<u64>)> {
        let answer = self.answer.as_ref().filter(|answer| answer.status == 200)?;
        let calls = serde_json::from_value(answer.data()).expect("a list of calls");
        Some(((self.address.clone(), answer.generation()), calls))
    }

    fn never_started(&self) -> bool {
        self.answer.as_ref().is_some_and(Answer::never_started)
    }
}

fn audit(records: &[CallRecord]) -> LedgerSummary {
    let mut outcomes = BTreeMap::new();
    let mut containers: BTreeMap<_, Vec<u64>> = BTreeMap::new();
    for record in records {
        let outcome = record.outcome();
        assert!(
            ALLOWED.contains(&outcome.as_str()),
            "{}: {:?}",
            record.id,
            record.answer
        );
        *outcomes.entry(outcome).or_default() += 1;
        if let Some((container, calls)) = record.container_record() {
            assert!(
                calls.contains(&record.id),
                "I3, {} is not among the calls that were run: {calls:?}",
                record.id
            );
            let longest = containers.entry(container).or_default();
            if calls.len() > longest.len() {
                *longest = calls;
            }
        }
    }
    let mut run = BTreeSet::new();
    for (container, calls) in &containers {
        for call in calls {
            assert!(
                run.insert(*call),
                "I2, a call was run twice: {call}, the second time by {container:?}"
            );
        }
    }
    for record in records.iter().filter(|record| record.never_started()) {
        assert!(
            !run.contains(&record.id),
            "I4, a call answered as not started was run: {}",
            record.id
        );
    }
    LedgerSummary {
        outcomes,
        containers: containers.len(),
    }
}

impl fmt::Display for LedgerSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let calls: usize = self.outcomes.values().sum();
        write!(
            f,
            "{calls} calls of {} containers {:?}, none run twice",
            self.containers, self.outcomes
        )
    }
}
