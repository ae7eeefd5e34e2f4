//! S: pages that flood the browser which they share, in a call and while they are loaded. What
//! becomes of them is their own affair; their neighbour must not fail, and not wait for long.

use std::time::Duration;

use serde_json::Value;

use crate::attack::{contract, shown};
use crate::attack_farm::{AttackFarm, Browser, NEIGHBOUR_LATENCY};
use crate::support::client::Answer;

/// How long a neighbour may wait until a flood is over. One address of 2 MB takes the thread that
/// all pages share 130 to 150 ms, and takes the page that sends it 30 ms. So about five are on
/// their way before the first can be noticed, and those are worked off even once the page is dead.
const FLOOD_BOUND: Duration = Duration::from_millis(1500);

/// How the calls of a flooding contract may end.
const ENDS: &[u16] = &[200, 500, 503, 504];

/// Code of the method `attack`.
const CALLS: &[(&str, &str, &str)] = &[
    (
        "S2",
        "40 long addresses",
        "for (let i = 0; i < 40; i++) location.href = 'https://x.invalid/' + i + 'x'.repeat(2e6 - 100); return 1",
    ),
    (
        "S2",
        "40 long links",
        "const link = document.createElement('a'); for (let i = 0; i < 40; i++) { link.href = 'https://x.invalid/' + i + 'x'.repeat(2e6 - 100); link.click() } return 1",
    ),
    (
        "S2",
        "40 long frames",
        "const f = document.createElement('iframe'); document.documentElement.append(f); for (let i = 0; i < 40; i++) f.src = 'https://x.invalid/' + i + 'x'.repeat(2e6 - 100); return 1",
    ),
    (
        "S2",
        "200 long fragments",
        "for (let i = 0; i < 200; i++) location.hash = 'x'.repeat(2e6) + i; return 1",
    ),
    (
        "S2",
        "200 long titles",
        "for (let i = 0; i < 200; i++) { document.title = 'x'.repeat(2e6) + i; await 0 } return 1",
    ),
    (
        "S2",
        "a long history",
        "for (let i = 0; i < 200; i++) try { history.replaceState('x'.repeat(2e6) + i, '') } catch {} return 1",
    ),
    (
        "S3",
        "moves of the window",
        "for (let n = 0, end = Date.now() + 1200; Date.now() < end; n++) { resizeTo(100 + n % 100, 100); moveTo(n % 50, 1) } return 1",
    ),
    (
        "S3",
        "focus and blur",
        "for (const end = Date.now() + 1200; Date.now() < end;) { focus(); blur() } return 1",
    ),
    (
        "S3",
        "prints",
        "for (const end = Date.now() + 1200; Date.now() < end;) print(); return 1",
    ),
    (
        "S3",
        "questions for permission",
        "for (const end = Date.now() + 1200; Date.now() < end;) navigator.permissions?.query({ name: 'geolocation' }).catch(() => 0); return 1",
    ),
    (
        "S3",
        "downloads",
        "const link = document.createElement('a'); link.download = 'x'; link.href = 'data:,x'; for (const end = Date.now() + 1200; Date.now() < end;) link.click(); return 1",
    ),
    (
        "S3",
        "lines on the console",
        "for (const end = Date.now() + 1200; Date.now() < end;) console.log('x'.repeat(1e4)); return 1",
    ),
];

/// Executables that are not loaded, and what they do meanwhile.
const LOADS: &[(&str, &str, &str)] = &[
    (
        "S2",
        "long addresses at load",
        "for (let i = 0; i < 40; i++) location.href = 'https://x.invalid/' + i + 'x'.repeat(2e6 - 100); throw 1",
    ),
    (
        "S4",
        "a stack that floods the console",
        "{ Error.prepareStackTrace = () => { for (;;) console.log(1) }; throw 1 }",
    ),
    (
        "S4",
        "an error that floods the console",
        "throw { get message() { for (;;) console.log(1) } }",
    ),
    (
        "S4",
        "a name that floods the console",
        "throw Object.defineProperty(new Error('e'), 'name', { get() { for (;;) console.log(1) } })",
    ),
];

/// Runs the group.
pub(crate) async fn run(target: &mut AttackFarm) {
    target.latency_limit = FLOOD_BOUND;
    for (row, name, code) in CALLS {
        target
            .case(row, name, Browser::Stays, async |farm| {
                let client = farm.client();
                client.must_load("flood", &contract(code)).await;
                let called = client.execute("flood", "attack", &Value::Null).await;
                client.unload("flood").await.is_no_content();
                ended(&called, ENDS)
            })
            .await;
    }
    for (row, name, source) in LOADS {
        target
            .case(row, name, Browser::Stays, async |farm| {
                let loaded = farm.client().load("flood", source).await;
                farm.client().unload("flood").await.is_no_content();
                ended(&loaded, &[422, 503])
            })
            .await;
    }
    target.latency_limit = NEIGHBOUR_LATENCY;
}

fn ended(answer: &Answer, allowed: &[u16]) -> Result<String, String> {
    let seen = shown(answer);
    let is_allowed = allowed.contains(&answer.status);
    is_allowed.then_some(seen.clone()).ok_or(seen)
}
