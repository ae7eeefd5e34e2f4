//! Hostile contracts and their callers: each loads a contract that harms whoever shares a browser,
//! a worker, an api or Redis with it, calls it several times at once, and unloads it again.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures::future::join_all;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::rng::Rng;
use crate::support::client::{Answer, Client, try_send};

/// How many calls of a hostile contract are under way at once, at most.
const CALLS_AT_ONCE: usize = 16;

/// The limit of a request: the api's deadline of a load and one second.
const LIMIT: Duration = Duration::from_secs(31);

/// A hostile contract. Its method `attack` is called with an argument of `bytes` bytes.
struct Hostile {
    executable: &'static str,
    bytes: usize,
}

const fn hostile(executable: &'static str) -> Hostile {
    Hostile {
        executable,
        bytes: 0,
    }
}

/// One or two of each kind that the attack cases try one at a time.
const ALL: &[Hostile] = &[
    // Legal calls that add up.
    Hostile {
        executable: "{ attack: () => 1 }",
        bytes: 1_000_000,
    },
    Hostile {
        executable: "{ attack: (text) => text }",
        bytes: 900_000,
    },
    hostile(
        "{ attack: async () => { await new Promise((r) => setTimeout(r, 50)); return 'x'.repeat(9e5) } }",
    ),
    // Loops, and work after the answer.
    hostile("{ attack: () => { for (;;); } }"),
    hostile("{ attack: async () => { for (;;) await 0 } }"),
    hostile(
        "{ attack: () => { setInterval(() => { for (const t = Date.now(); Date.now() - t < 30;); }); return 1 } }",
    ),
    hostile("{ attack: () => /^(a+)+$/.test('a'.repeat(40) + 'b') }"),
    // Memory of the page and of the browser.
    hostile("{ attack: () => { const x = []; for (;;) x.push(new Array(1e4).fill(1.5)) } }"),
    hostile(
        "{ attack: () => { const x = []; for (let i = 0; i < 200; i++) x.push(new Uint8Array(16 << 20).fill(1)); return 1 } }",
    ),
    hostile(
        "{ attack: async () => { const x = [], b = new Uint8Array(8 << 20).fill(7); for (let i = 0; i < 100; i++) { x.push(new Blob([b])); await new Promise((r) => setTimeout(r)) } return 1 } }",
    ),
    hostile(
        "{ attack: async () => { for (let i = 0; i < 20; i++) { window.name = 'n'.repeat(1 << 26) + i; await 0 } return 1 } }",
    ),
    // Messages to the browser.
    hostile(
        "{ attack: () => { for (let i = 0; i < 40; i++) location.href = 'https://x.invalid/' + i + 'x'.repeat(2e6 - 100); return 1 } }",
    ),
    hostile(
        "{ attack: () => { for (let i = 0; i < 200; i++) location.hash = 'x'.repeat(2e6) + i; return 1 } }",
    ),
    hostile(
        "{ attack: () => { const end = Date.now() + 900; for (let n = 0; Date.now() < end; n++) { resizeTo(100 + n % 100, 100); moveTo(n % 50, 1); focus(); blur(); print() } return 1 } }",
    ),
    hostile(
        "{ attack: () => { const s = 'x'.repeat(1e5); for (let i = 0; i < 1e4; i++) console.log(s, i); return 1 } }",
    ),
    hostile("{ attack: () => { close(); location.reload(); history.back(); stop(); return 1 } }"),
    // Results that are small in memory and large on paper, or no text at all.
    hostile("{ attack: () => JSON.rawJSON('\"\\\\ud800\"') }"),
    hostile("{ attack: () => Array(2000).fill(new String('x'.repeat(5e5))) }"),
    hostile("{ attack: () => new Array(1e8) }"),
    hostile(
        "{ attack: () => { let x = ['xxxxxxxx']; for (let i = 0; i < 40; i++) x = [x, x]; return x } }",
    ),
    // Errors.
    hostile("{ attack: () => { throw new Error('e'.repeat(5e6)) } }"),
    hostile("{ attack: () => { throw { get message() { for (;;); } } } }"),
    // What happens while a load fails.
    hostile("{ Error.prepareStackTrace = () => { for (;;) console.log(1) }; throw 1 }"),
    hostile("for (;;);"),
    hostile("location.href = 'https://x.invalid/' + 'x'.repeat(2e6 - 100); throw 1"),
];

type Counts = BTreeMap<String, usize>;

/// The running attackers.
pub(crate) struct Attackers {
    ended: Arc<AtomicBool>,
    tasks: JoinSet<Counts>,
}

/// How many requests of the attackers had each outcome.
pub(crate) struct Outcomes(Counts);

impl Attackers {
    /// Starts `count` attackers.
    pub(crate) fn start(client: &Client, count: u64, rng: &mut Rng) -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        let tasks = (0..count).map(|number| {
            let (client, rng, ended) = (client.clone(), rng.fork(), ended.clone());
            attack(format!("hostile-{number}"), client, rng, ended)
        });
        Self {
            tasks: tasks.collect(),
            ended,
        }
    }

    /// Lets every attacker finish.
    pub(crate) async fn end(self) -> Outcomes {
        self.ended.store(true, Ordering::Relaxed);
        let mut all = Counts::new();
        for (outcome, count) in self.tasks.join_all().await.into_iter().flatten() {
            *all.entry(outcome).or_default() += count;
        }
        Outcomes(all)
    }
}

async fn attack(address: String, client: Client, mut rng: Rng, ended: Arc<AtomicBool>) -> Counts {
    let mut counts = Counts::new();
    while !ended.load(Ordering::Relaxed) {
        let Hostile { executable, bytes } = rng.pick(ALL);
        let load = json!({ "contractAddress": address, "executable": executable });
        let loaded = post(&client, "/loadSmartContract", &load).await;
        let argument = Value::String("x".repeat(*bytes));
        let path = format!("/execute/{address}/attack");
        let calls = (0..=rng.below(CALLS_AT_ONCE)).map(|_| post(&client, &path, &argument));
        let called = join_all(calls).await;
        let unload = json!({ "contractAddress": address });
        let unloaded = post(&client, "/unloadSmartContract", &unload).await;
        for answer in [loaded, unloaded].into_iter().chain(called) {
            *counts.entry(outcome(&answer)).or_default() += 1;
        }
    }
    counts
}

fn outcome(answer: &Answer) -> String {
    match answer.status {
        204 => "done".to_owned(),
        _ => answer.outcome(),
    }
}

/// Whatever an attacker asks for, it is answered in time.
async fn post(client: &Client, path: &str, body: &Value) -> Answer {
    let sent = Instant::now();
    let request = client.request(reqwest::Method::POST, path).json(body);
    let answer = try_send(request).await;
    let took = sent.elapsed();
    assert!(took <= LIMIT, "{path} took {took:?}: {answer:?}");
    answer.unwrap_or_else(|error| panic!("{path} was not answered: {error}"))
}

impl fmt::Display for Outcomes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "hostile requests {:?}", self.0)
    }
}
