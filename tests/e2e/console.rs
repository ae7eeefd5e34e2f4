//! What contracts write to their console.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::client::{Answer, Client, send};
use crate::support::farm::Farm;
use crate::support::wait;

/// Calls a method and asks for the lines of its output.
async fn call(client: &Client, method: &str, argument: &Value, lines: &str) -> Answer {
    let request = client.request(Method::POST, &format!("/execute/abcd/{method}"));
    send(request.header("Call-Logs", lines).json(argument)).await
}

/// Runs a body that ends with a throw; returns its lines.
async fn lines(client: &Client, body: &str) -> Vec<String> {
    let answer = call(client, "run", &json!(body), "100").await;
    assert_eq!(answer.status, 500, "{answer:?}");
    let logs = answer.json()["logs"].clone();
    serde_json::from_value(logs).unwrap_or_else(|error| panic!("{error}: {answer:?}"))
}

const CONTRACT: &str = "const before = console;
const AsyncFunction = (async () => {}).constructor;
function init() {
  return {
    run: (body) => Function('before', `${body}; throw Error('end')`)(before),
    later: (body) => AsyncFunction(body)(),
    spin() { console.log('spins'); for (;;); },
    fine() { console.log('fine'); return 1 },
  };
}";

#[tokio::test]
async fn a_failed_call_has_the_lines_that_it_has_written() {
    let farm = Farm::start().await;
    let client = farm.client();
    client.must_load("abcd", CONTRACT).await;
    for (body, expected) in [
        (
            "console.log('a', 1, true, null, undefined)",
            "a 1 true null undefined",
        ),
        (
            "console.log({ a: [1, 'x'] }, new Map([[1, 2]]))",
            r#"{"a":[1,"x"]} [[1,2]]"#,
        ),
        (
            "console.log('%s has %d%%, %o', 'it', 5, { a: 1 }, 'more')",
            r#"it has 5%, {"a":1} more"#,
        ),
        ("console.error(new TypeError('no'))", "TypeError: no"),
        (
            "console.warn(Symbol('s'), 5n, () => 1)",
            "Symbol(s) 5 () => 1",
        ),
        ("console.info()", ""),
        ("console.debug('two\\nlines')", "two\nlines"),
        ("console.assert(1 > 2, 'math')", "Assertion failed math"),
        ("console.trace('here')", "Trace: here"),
        ("console.table([[1, 2]])", "[[1,2]]"),
        ("console.dir({ a: 1 })", r#"{"a":1}"#),
        ("console.count('n')", "n: 1"),
        ("before.log(before === console)", "true"),
        ("const { log } = console; log('bare')", "bare"),
    ] {
        assert_eq!(lines(client, body).await, [expected], "{body}");
    }
    let timed = lines(
        client,
        "console.time('t'); console.timeLog('t', 'x'); console.timeEnd('t')",
    )
    .await;
    assert_eq!(timed.len(), 2, "{timed:?}");
    assert!(
        timed[0].starts_with("t: ") && timed[0].ends_with(" ms x"),
        "{timed:?}"
    );
    // Nobody gets what was not asked for, and no call that succeeds has lines.
    let body = json!("console.log('a')");
    for answer in [
        client.execute("abcd", "run", &body).await,
        call(client, "run", &body, "0").await,
        call(client, "fine", &Value::Null, "20").await,
    ] {
        assert_eq!(answer.json().get("logs"), None, "{answer:?}");
    }
    for wrong in ["x", "-1", "101", ""] {
        let refused = call(client, "fine", &Value::Null, wrong).await;
        let error = refused.error(400, "invalid_request");
        assert!(error["fields"]["Call-Logs"].is_string(), "{error}");
    }
    farm.stop().await;
}

#[tokio::test]
async fn lines_belong_to_their_call() {
    let farm = Farm::start().await;
    let client = farm.client();
    client.must_load("abcd", CONTRACT).await;
    let later = "console.log('before'); await new Promise((r) => setTimeout(r, 20));
        console.log('after'); throw Error('end')";
    let answer = call(client, "later", &json!(later), "20").await;
    assert_eq!(
        answer.json()["logs"],
        json!(["before", "after"]),
        "{answer:?}"
    );
    let stuck = call(client, "spin", &Value::Null, "20").await;
    let error = stuck.error(504, "execution_timeout");
    assert_eq!(error["logs"], json!(["spins"]), "{error}");
    farm.stop().await;
}

/// After an `await` it is not known which of several calls has written a line. It may be what the
/// caller of another one must not see.
#[tokio::test]
async fn a_line_that_may_be_of_several_calls_belongs_to_none() {
    let farm = Farm::start().await;
    let client = farm.client();
    let contract = "let open, waiting = 0; const gate = new Promise((r) => { open = r });
    const init = () => ({
        async wait(name) {
            console.log(name);
            waiting += 1;
            await gate;
            console.log('secret of', name);
            throw Error('end');
        },
        waiting: () => waiting,
        open() { open(); console.log('opened'); throw Error('end') },
    })";
    client.must_load("abcd", contract).await;
    let waiting = (0..3).map(|number| async move {
        call(client, "wait", &json!(format!("call {number}")), "20").await
    });
    let opening = async {
        wait::until_true("three pending calls", wait::DEFAULT_LIMIT, async || {
            client.call("abcd", "waiting").await.data() == 3
        })
        .await;
        call(client, "open", &json!(null), "20").await
    };
    let (waited, opened) = tokio::join!(futures::future::join_all(waiting), opening);
    assert_eq!(opened.json()["logs"], json!(["opened"]), "{opened:?}");
    let left_out = "(3 lines left out: several calls were pending, and any may have written them)";
    for (number, answer) in waited.iter().enumerate() {
        let expected = json!([format!("call {number}"), left_out]);
        assert_eq!(answer.json()["logs"], expected, "{answer:?}");
    }
    farm.stop().await;
}

#[tokio::test]
async fn the_last_lines_are_kept() {
    let farm = Farm::start().await;
    let client = farm.client();
    client.must_load("abcd", CONTRACT).await;
    let flood = json!("for (let i = 0; i < 1000; i += 1) console.log('line', i)");
    let answer = call(client, "run", &flood, "3").await;
    let expected = json!(["(997 lines dropped)", "line 997", "line 998", "line 999"]);
    assert_eq!(answer.json()["logs"], expected, "{answer:?}");
    let long = lines(
        client,
        "for (let i = 0; i < 50; i += 1) console.log('ü'.repeat(9999))",
    )
    .await;
    assert_eq!(long[0], "(42 lines dropped)");
    assert_eq!(long.len(), 9);
    assert!(long[1..].iter().all(|line| line.chars().count() == 2048));
    farm.stop().await;
}

#[tokio::test]
async fn a_hostile_console_harms_nothing() {
    let farm = Farm::start().await;
    let client = farm.client();
    client.must_load("abcd", CONTRACT).await;
    for (body, expected) in [
        ("console.log({ get a() { throw 1 } })", vec!["(unreadable)"]),
        ("console.log({ get a() { console.log('inner'); return 1 } })", vec![r#"{"a":1}"#]),
        ("console.log({ toJSON() { return 'x'.repeat(1e6) } })", vec!["(over 2048 characters)"]),
        ("const d = []; d[0] = d; console.log(d)", vec!["(unreadable)"]),
        ("let d = [1]; for (let i = 0; i < 60; i += 1) d = [d, d]; console.log(d)",
            vec!["(over 2048 characters)"]),
        ("console.log('\\ud800')", vec!["\u{fffd}"]),
        ("console.log(new Proxy({}, { get() { throw 1 } }))", vec!["(unreadable)"]),
        ("Array.prototype[Symbol.iterator] = null; Object.prototype.get = 1; String.prototype.slice = null;
          console.log('still', 1)", vec!["still 1"]),
    ] {
        assert_eq!(lines(client, body).await, expected, "{body}");
    }
    // A result whose getters print keeps its own limit.
    let many = "{ get a() { console.log('x'); return 'y'.repeat(1000) } }";
    let contract = format!(
        "{{ big: () => {{ const one = {many}; return new Array(5000).fill(one) }},
            own() {{ console = {{ log() {{ throw Error('own') }} }}; console.log(1) }} }}"
    );
    client.must_load("abcd", &contract).await;
    let big = call(client, "big", &Value::Null, "20").await;
    let error = big.error(500, "result_too_large");
    assert_eq!(error["logs"].as_array().map(Vec::len), Some(21), "{error}");
    let own = call(client, "own", &Value::Null, "20").await;
    assert_eq!(own.error_text(500, "execution_failed"), "Error: own");
    farm.stop().await;
}
