//! Callers that load and unload contracts, and call methods that throw, return a promise, or never
//! end. Whatever fails, each request is answered with an expected status.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use reqwest::{Method, RequestBuilder};
use serde_json::json;
use tokio::task::JoinSet;

use crate::rng::Rng;
use crate::support::client::{Client, try_send};
use crate::support::wait;

const CALLERS: usize = 3;

const CONTRACT: &str = "{
    echo: (a) => a,
    later: async (a) => { await null; return a },
    fails: () => { throw new Error('no') },
    forever: () => { for (;;); },
}";

/// The allowed outcomes of a request while faults are injected.
const EXPECTED_STATUSES: [u16; 8] = [200, 204, 404, 500, 502, 503, 504, NO_ANSWER];

/// The api was killed.
const NO_ANSWER: u16 = 0;

/// A load may wait as long as the api's deadline plus one second.
const LIMIT: Duration = Duration::from_secs(31);

type Counts = BTreeMap<u16, usize>;

/// The running callers.
pub(crate) struct Churn {
    ended: Arc<AtomicBool>,
    callers: JoinSet<Counts>,
}

/// How many requests ended with each status.
pub(crate) struct ChurnSummary(Counts);

impl Churn {
    pub(crate) fn start(clients: &[Client], mut rng: Rng) -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        let callers = (0..CALLERS).map(|caller| {
            let (clients, rng, ended) = (clients.to_vec(), rng.fork(), ended.clone());
            load_call_and_unload(caller, clients, rng, ended)
        });
        Self {
            callers: callers.collect(),
            ended,
        }
    }

    pub(crate) async fn end(self) -> ChurnSummary {
        self.ended.store(true, Ordering::Relaxed);
        let mut all = Counts::new();
        for (status, count) in self.callers.join_all().await.into_iter().flatten() {
            *all.entry(status).or_default() += count;
        }
        ChurnSummary(all)
    }
}

async fn load_call_and_unload(
    caller: usize,
    clients: Vec<Client>,
    mut rng: Rng,
    ended: Arc<AtomicBool>,
) -> Counts {
    let mut counts = Counts::new();
    for round in 0_u64.. {
        if ended.load(Ordering::Relaxed) {
            break;
        }
        // Each address is used twice in a row, so that a contract is sometimes loaded over another
        // one.
        let address = format!("churn-{caller}-{}", round / 2);
        let executable = format!("{CONTRACT}//{round}");
        let load = json!({ "contractAddress": address, "executable": executable });
        let client = rng.pick(&clients);
        let mut requests = vec![
            client
                .request(Method::POST, "/loadSmartContract")
                .json(&load),
        ];
        for _ in 0..rng.below(10) {
            let method = *rng.pick(&["echo", "later", "fails", "echo", "later", "forever"]);
            let path = format!("/execute/{address}/{method}");
            requests.push(rng.pick(&clients).request(Method::POST, &path).json(&round));
        }
        let unload = json!({ "contractAddress": address });
        let client = rng.pick(&clients);
        requests.push(
            client
                .request(Method::POST, "/unloadSmartContract")
                .json(&unload),
        );
        requests.push(client.request(Method::GET, "/contracts"));
        for request in requests {
            *counts.entry(status_of(request).await).or_default() += 1;
            wait::pass(rng.up_to(Duration::from_millis(200))).await;
        }
    }
    counts
}

async fn status_of(request: RequestBuilder) -> u16 {
    let sent = Instant::now();
    let answer = try_send(request).await;
    assert!(
        sent.elapsed() <= LIMIT,
        "I1, took {:?}: {answer:?}",
        sent.elapsed()
    );
    let status = answer.as_ref().map_or(NO_ANSWER, |answer| answer.status);
    assert!(EXPECTED_STATUSES.contains(&status), "{answer:?}");
    status
}

impl fmt::Display for ChurnSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "other requests by status {:?}", self.0)
    }
}
