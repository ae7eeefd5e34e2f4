//! S: what many legal calls, their results and their texts add up to, in the parts that contracts
//! share. The attacking contract keeps its own state, too.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;
use serde_json::Value;

use crate::attack::shown;
use crate::attack_farm::{AttackFarm, Browser};
use crate::support::client::{Answer, Client};
use crate::support::farm::{Builder, Farm};
use crate::support::wait;

/// A farm whose callers wait for a hundred large calls on a busy machine.
pub(crate) fn farm() -> Builder {
    crate::farm().env("EXECUTE_DEADLINE_MS", "45000")
}

/// A contract with a counter, which starts again at one if the contract loses its state.
fn source(methods: &str) -> String {
    format!(
        "let n = 0, open; const gate = new Promise((r) => {{ open = r }});
         const init = () => ({{ count: () => ++n, open: () => open(), {methods} }})"
    )
}

const METHODS: &str = "length: (x) => x.length,
    later: async (x) => { await new Promise((r) => setTimeout(r, 100)); return x.length },
    text: async () => { await gate; return 'x'.repeat(9e5) },
    list: async () => { await gate; return new Array(9e4).fill('abcdefg') },
    make: (body) => Function(body)()";

/// Runs the group.
pub(crate) async fn run(target: &mut AttackFarm, quick: bool) {
    if !quick {
        arguments(target).await;
        settling(target).await;
    }
    results(target).await;
    texts(target).await;
}

/// S1: arguments that are large together.
async fn arguments(target: &mut AttackFarm) {
    let objects = format!("[{}]", vec!["{}"; 340_000].join(","));
    let text = format!("\"{}\"", "x".repeat(1_040_000));
    let cases = [
        ("16 arguments of many objects", "length", &objects, 16),
        ("100 arguments of long strings", "length", &text, 100),
        ("150 arguments of pending promises", "later", &text, 150),
    ];
    for (name, method, argument, calls) in cases {
        target
            .case("S1", name, Browser::Stays, async |farm| {
                keeps_state(farm, METHODS, async |client| {
                    let path = format!("/execute/sums/{method}");
                    let calls = (0..calls).map(|_| client.post_text(&path, argument.clone()));
                    all_succeed(&join_all(calls).await)
                })
                .await
            })
            .await;
    }
}

/// S1: promises that settle together, with results that are large together.
async fn settling(target: &mut AttackFarm) {
    for (name, method) in [
        ("150 promises of strings", "text"),
        ("150 promises of lists", "list"),
    ] {
        target
            .case("S1", name, Browser::Stays, async |farm| {
                keeps_state(farm, METHODS, async |client| {
                    let calls = (0..150).map(|_| client.call("sums", method));
                    // The last call settles all promises.
                    let opened = async {
                        loop {
                            let status = client.contract("sums").await;
                            if status["queueDepth"].as_u64() >= Some(150) {
                                return client.call("sums", "open").await;
                            }
                            wait::pass(Duration::from_millis(20)).await;
                        }
                    };
                    let (answers, opened) = tokio::join!(join_all(calls), opened);
                    if opened.status != 200 {
                        return Err(shown(&opened));
                    }
                    all_succeed(&answers)
                })
                .await
            })
            .await;
    }
}

/// Bodies of methods, and the code that their results are answered with.
const RESULTS: &[(&str, &str, &str)] = &[
    (
        "raw JSON that is not Unicode",
        "return JSON.rawJSON('\"\\ud800\"')",
        "result_not_json",
    ),
    (
        "much raw JSON",
        "return new Array(2000).fill(JSON.rawJSON(JSON.stringify('x'.repeat(5e5))))",
        "result_too_large",
    ),
    (
        "boxed strings",
        "return new Array(2000).fill(new String('x'.repeat(5e5)))",
        "result_too_large",
    ),
    (
        "a boxed string that reads as another",
        "const s = new String('a'); s.toString = () => 'x'.repeat(5e8); return [s]",
        "result_too_large",
    ),
    (
        "a hundred million holes",
        "return new Array(1e8)",
        "result_too_large",
    ),
    (
        "a million functions",
        "return new Array(1e6).fill(() => 1)",
        "result_too_large",
    ),
    (
        "a function that grows",
        "const f = () => 1; f.toJSON = () => { let a = ['xxxxxxxx']; for (let i = 0; i < 40; i++) a = [a, a]; return a }; return f",
        "result_too_large",
    ),
    (
        "a number that grows",
        "BigInt.prototype.toJSON = () => { let a = ['xxxxxxxx']; for (let i = 0; i < 40; i++) a = [a, a]; return a }; return 1n",
        "result_too_large",
    ),
    (
        "a function that never ends",
        "const f = () => 1; f.toJSON = function () { const g = () => 1; g.toJSON = f.toJSON; return [g] }; return f",
        "result_not_json",
    ),
];

/// S5: results that are small in memory and large on paper, beside other calls of the same
/// contract.
async fn results(target: &mut AttackFarm) {
    for (name, body, code) in RESULTS {
        target
            .case("S5", name, Browser::Stays, async |farm| {
                keeps_state(farm, METHODS, async |client| {
                    let body = Value::from(*body);
                    let made = client.execute("sums", "make", &body);
                    let beside = (0..8).map(|_| client.call("sums", "open"));
                    let (made, beside) = tokio::join!(made, join_all(beside));
                    all_succeed(&beside)?;
                    let is_expected = made.json()["code"] == *code;
                    is_expected
                        .then(|| shown(&made))
                        .ok_or_else(|| format!("expected {code}, got {}", shown(&made)))
                })
                .await
            })
            .await;
    }
}

/// The most bytes of a response that describes a failure.
const TEXT_LIMIT: usize = 7000;

/// S6: texts that leave the service.
async fn texts(target: &mut AttackFarm) {
    let word = "c".repeat(5_000_000);
    let loads = [
        ("a syntax error of 5 MB", format!("{{ a: b {word} }}")),
        (
            "a syntax error of a script of 5 MB",
            format!("const a = b {word}"),
        ),
        (
            "an error whose name has 5 MB",
            "{ SyntaxError.prototype.name = 'Z'.repeat(5e6); throw 1 }".to_owned(),
        ),
        (
            "an error whose text has 500 MB",
            "throw new Error('x'.repeat(5e8))".to_owned(),
        ),
    ];
    for (name, source) in loads {
        target
            .case("S6", name, Browser::Stays, async |farm| {
                let answer = farm.client().load("texts", &source).await;
                is_short(&answer, 422)
            })
            .await;
    }
    target
        .case(
            "S6",
            "a thousand long names",
            Browser::Stays,
            async |farm| {
                let name = |n| format!("['{n:03}{}']: () => 1", "\u{e9}".repeat(253));
                let names: Vec<_> = (0..1000).map(name).collect();
                let client = farm.client();
                let source = format!("{{ {} }}", names.join(", "));
                client.must_load("texts", &source).await;
                let answer = client.call("texts", "missing").await;
                let listed = client.get("/contracts/texts").await.body.len();
                client.unload("texts").await.is_no_content();
                if listed > 200_000 {
                    return Err(format!("its status has {listed} bytes"));
                }
                is_short(&answer, 404)
            },
        )
        .await;
    target
        .case("S6", "an exception of 5 MB", Browser::Stays, async |farm| {
            keeps_state(farm, METHODS, async |client| {
                let body =
                    "const e = new Error('x'.repeat(5e6)); e.name = '\u{e9}'.repeat(5e6); throw e";
                let answer = client.execute("sums", "make", &Value::from(body)).await;
                is_short(&answer, 500)
            })
            .await
        })
        .await;
}

fn is_short(answer: &Answer, status: u16) -> Result<String, String> {
    let bytes = answer.body.len();
    let seen = format!("{bytes} bytes: {}", shown(answer));
    let is_met = answer.status == status && bytes <= TEXT_LIMIT;
    is_met.then_some(seen.clone()).ok_or(seen)
}

/// Runs an attack on a contract, which must be the same instance afterwards.
async fn keeps_state(
    farm: &Farm,
    methods: &str,
    attack: impl AsyncFn(&Client) -> Result<String, String>,
) -> Result<String, String> {
    let client = farm.client();
    client.must_load("sums", &source(methods)).await;
    let first = client.call("sums", "count").await;
    let outcome = attack(client).await;
    let second = client.call("sums", "count").await;
    client.unload("sums").await.is_no_content();
    let is_kept = second.status == 200 && first.data() == 1 && second.data() == 2;
    if is_kept {
        outcome
    } else {
        let kept = shown(&second);
        Err(format!("{outcome:?}, then its state is gone: {kept}"))
    }
}

fn all_succeed(answers: &[Answer]) -> Result<String, String> {
    let mut seen = BTreeMap::new();
    for answer in answers {
        let code = answer.json()["code"].as_str().map(str::to_owned);
        *seen
            .entry(code.unwrap_or_else(|| answer.status.to_string()))
            .or_insert(0) += 1;
    }
    let text = format!("{seen:?}");
    let is_met = seen.keys().all(|code| code == "200");
    is_met.then_some(text.clone()).ok_or(text)
}
