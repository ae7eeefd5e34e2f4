//! The record of all calls of a load, and the invariants that hold whatever failed meanwhile:
//!
//! - **I1** every call is answered within its deadline plus one second
//! - **I2** no page runs a call twice
//! - **I3** a call that succeeded was run
//! - **I4** a call answered `"started": false` was not run
//! - no contract is ever answered by two owners at the same time
//!
//! The contract in `recorder.js` records the other side: the calls that its page has run. That
//! record is reset with every generation.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::client::{Answer, Client};

/// The contract that records the calls that it ran.
pub(crate) const CONTRACT: &str = include_str!("recorder.js");

/// The service's default deadline of a call.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);

/// How many ids a page is asked about in one call.
const IDS_PER_CALL: usize = 5_000;

/// One call as its caller observed it.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) id: u64,
    pub(crate) address: String,
    pub(crate) sent: Instant,
    pub(crate) ended: Instant,
    /// None when the connection broke.
    pub(crate) answer: Option<Answer>,
    /// How many times the caller sent it before, each time after a broken connection.
    pub(crate) broken_connections: u64,
}

impl Call {
    pub(crate) fn succeeded(&self) -> bool {
        self.answer
            .as_ref()
            .is_some_and(|answer| answer.status == 200)
    }

    /// The time from sending it to its answer.
    pub(crate) fn took(&self) -> Duration {
        self.ended - self.sent
    }

    /// See [`Answer::outcome`].
    pub(crate) fn outcome(&self) -> String {
        let answer = self.answer.as_ref();
        answer.map_or_else(|| "no answer".to_owned(), Answer::outcome)
    }

    /// Whether its answer states that it was certainly not run.
    pub(crate) fn never_started(&self) -> bool {
        self.answer.as_ref().is_some_and(Answer::never_started)
    }

    /// The generation that answered.
    fn generation(&self) -> Option<u64> {
        let answer = self.answer.as_ref().filter(|_| self.succeeded())?;
        Some(answer.generation())
    }
}

/// Whether one page may have run one call twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repeats {
    Never,
    /// Only if its caller sent it again.
    ByCallers,
}

/// All calls of a load.
pub(crate) struct CallLog {
    pub(crate) calls: Vec<Call>,
}

impl CallLog {
    pub(crate) fn new(calls: Vec<Call>) -> Self {
        Self { calls }
    }

    /// Checks the invariants, and that every call ended in one of the `allowed` outcomes.
    pub(crate) async fn check(&self, client: &Client, allowed: &[&str]) {
        self.check_allowing(client, allowed, Repeats::Never).await;
    }

    /// The same as [`CallLog::check`], but a page may have run a call as often as `repeats` says.
    pub(crate) async fn check_allowing(&self, client: &Client, allowed: &[&str], repeats: Repeats) {
        eprintln!("{self}");
        for call in &self.calls {
            let outcome = call.outcome();
            assert!(allowed.contains(&outcome.as_str()), "{outcome}: {call:#?}");
            assert!(
                call.took() <= DEADLINE + Duration::from_secs(1),
                "I1, took {:?}: {call:#?}",
                call.took()
            );
            call.check_answer(repeats);
        }
        self.one_owner_at_a_time();
        for (address, calls) in self.by_contract() {
            audit(client, address, &calls, repeats).await;
        }
    }

    fn by_contract(&self) -> BTreeMap<&str, Vec<&Call>> {
        let mut contracts: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for call in &self.calls {
            contracts
                .entry(call.address.as_str())
                .or_default()
                .push(call);
        }
        contracts
    }

    /// A call that is sent after another one was answered is never answered by an older generation.
    fn one_owner_at_a_time(&self) {
        for calls in self.by_contract().into_values() {
            let mut answered: Vec<_> = calls
                .iter()
                .filter_map(|call| Some((call.ended, call.generation()?)))
                .collect();
            answered.sort_unstable();
            let mut sent: Vec<_> = calls
                .iter()
                .filter_map(|call| Some((call.sent, call.generation()?, call)))
                .collect();
            sent.sort_unstable_by_key(|(at, ..)| *at);
            let (mut answered, mut newest) = (answered.into_iter().peekable(), 0);
            for (at, generation, call) in sent {
                while let Some((_, known)) = answered.next_if(|(ended, _)| *ended < at) {
                    newest = newest.max(known);
                }
                assert!(
                    generation >= newest,
                    "generation {newest} had answered before: {call:#?}"
                );
            }
        }
    }

    /// The number of calls that succeeded.
    pub(crate) fn succeeded(&self) -> usize {
        self.calls.iter().filter(|call| call.succeeded()).count()
    }

    /// The calls sent in a span of time.
    pub(crate) fn sent_between(&self, from: Instant, to: Instant) -> Vec<&Call> {
        let calls = self.calls.iter();
        calls
            .filter(|call| (from..to).contains(&call.sent))
            .collect()
    }
}

impl Call {
    fn check_answer(&self, repeats: Repeats) {
        if !self.succeeded() {
            return;
        }
        let data = self.answer.as_ref().expect("it succeeded").data();
        assert_eq!(data["id"], self.id, "the answer of another call: {self:#?}");
        let most = match repeats {
            Repeats::Never => 1,
            Repeats::ByCallers => 1 + self.broken_connections,
        };
        let times = data["times"].as_u64().expect("the contract counts");
        assert!(
            (1..=most).contains(&times),
            "I2, the page ran it {times} times: {self:#?}"
        );
    }
}

/// Compares the callers' record with that of the page that the contract has now.
async fn audit(client: &Client, address: &str, calls: &[&Call], repeats: Repeats) {
    let repeated = client.call(address, "repeated").await;
    let generation = repeated.generation();
    if repeats == Repeats::Never {
        assert_eq!(
            repeated.data(),
            json!([]),
            "I2, a page ran a call twice: {address}"
        );
    }
    let answered_now = |call: &&&Call| call.generation() == Some(generation);
    let ids = |calls: Vec<&&Call>| calls.iter().map(|call| call.id).collect::<Vec<_>>();
    let succeeded = ids(calls.iter().filter(answered_now).collect());
    let refused = ids(calls.iter().filter(|call| call.never_started()).collect());
    for ids in succeeded.chunks(IDS_PER_CALL) {
        let run = client.execute(address, "known", &json!(ids)).await;
        assert_eq!(
            run.generation(),
            generation,
            "the page was recreated during the check"
        );
        assert_eq!(
            run.data(),
            json!(ids),
            "I3, a call succeeded that was not run: {address}"
        );
    }
    for ids in refused.chunks(IDS_PER_CALL) {
        let run = client.execute(address, "known", &json!(ids)).await;
        assert_eq!(
            run.data(),
            Value::Array(Vec::new()),
            "I4, a call answered as not started was run: {address}"
        );
    }
}

/// The percentile of the latencies: `percentile(99, ..)` is the p99.
pub(crate) fn percentile<'a>(part: usize, calls: impl IntoIterator<Item = &'a Call>) -> Duration {
    let mut times: Vec<_> = calls.into_iter().map(Call::took).collect();
    times.sort_unstable();
    let last = times.len().saturating_sub(1);
    times.get(last * part / 100).copied().unwrap_or_default()
}

impl fmt::Display for CallLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut outcomes: HashMap<String, usize> = HashMap::new();
        for call in &self.calls {
            *outcomes.entry(call.outcome()).or_default() += 1;
        }
        let outcomes = BTreeMap::from_iter(outcomes);
        let [p50, p95, p99, longest] = [50, 95, 99, 100].map(|part| percentile(part, &self.calls));
        write!(
            f,
            "{} calls {outcomes:?}, p50 {p50:.1?}, p95 {p95:.1?}, p99 {p99:.1?}, longest {longest:.2?}",
            self.calls.len()
        )
    }
}
