//! Calls that return promises.

use std::collections::BTreeMap;
use std::time::Duration;

use execution_worker::sandbox::Instance;
use shared::protocol::reply::FailureCode;
use tokio::time::timeout;

use crate::driver::{Contract, Outcome, PATIENCE, run, within_ms};

#[test]
fn the_result_of_a_promise_is_the_value_it_settles_to() {
    let table = [
        ("Promise.resolve(1)", Ok("1")),
        ("(async () => ({ a: await 2 }))()", Ok(r#"{"a":2}"#)),
        (
            "new Promise((r) => setTimeout(r, 20, 'late'))",
            Ok(r#""late""#),
        ),
        ("({ then: (r) => r(3) })", Ok("3")),
        (
            "({ then: (r) => setTimeout(r, 5, { then: (s) => s(4) }) })",
            Ok("4"),
        ),
        ("Promise.resolve(undefined)", Ok("null")),
        (
            "(() => { const f = () => 1; f.then = (r) => r(5); return f })()",
            Ok("5"),
        ),
        (
            "Promise.reject(new TypeError('no'))",
            Err((FailureCode::ExecutionFailed, "TypeError: no")),
        ),
        (
            "(async () => { throw 'bare' })()",
            Err((FailureCode::ExecutionFailed, "bare")),
        ),
        (
            "({ then: (_, no) => no(new Error('x')) })",
            Err((FailureCode::ExecutionFailed, "Error: x")),
        ),
        (
            "({ then() { throw new Error('y') } })",
            Err((FailureCode::ExecutionFailed, "Error: y")),
        ),
        (
            "({ get then() { throw new Error('z') } })",
            Err((FailureCode::ExecutionFailed, "Error: z")),
        ),
        (
            "Promise.resolve(() => 1)",
            Err((FailureCode::ResultNotJson, "a function has no JSON form")),
        ),
    ];
    run(async {
        let mut contract = Contract::load("{ eval: (source) => (0, eval)(source) }").await;
        for (source, expected) in table {
            let argument = serde_json::to_string(source).unwrap();
            let outcome = contract.call("eval", &argument).await;
            let outcome = outcome.as_deref().map_err(|f| (f.code, f.message.as_str()));
            assert_eq!(outcome, expected, "{source}");
        }
        contract.close().await;
    });
}

#[test]
fn pending_promises_do_not_block_the_next_message() {
    run(async {
        let mut contract = Contract::load("{ slow: () => new Promise(() => {}) }").await;
        contract.submit(&[("slow", None)]);
        assert!(contract.page.worthwhile(0) > 1);
        // A large argument is on its way while the page works.
        assert_eq!(contract.page.worthwhile(64 << 10), 1);
        let events = timeout(PATIENCE, contract.page.next()).await.unwrap();
        assert!(events.is_empty(), "{events:?}");
        assert_eq!(contract.page.worthwhile(0), 1);
        contract.close().await;
    });
}

#[test]
fn a_slow_promise_does_not_delay_a_quick_call() {
    run(async {
        let source = "{ slow: () => new Promise((r) => { release = () => r('slow') }),
                        quick: () => 'quick', release: () => release() };
                      var release;";
        let mut contract = Contract::load(source).await;
        let slow = contract.submit(&[("slow", None)]);
        for _ in 0..3 {
            assert_eq!(contract.get("quick").await.unwrap(), "\"quick\"");
        }
        let release = contract.submit(&[("release", None)]);
        let mut outcomes = BTreeMap::new();
        while outcomes.len() < 2 {
            assert_eq!(contract.wait(&mut outcomes).await, None);
        }
        assert_eq!(outcomes[&slow].result(), Some("\"slow\""));
        assert_eq!(outcomes[&release].result(), Some("null"));
        contract.close().await;
    });
}

#[test]
fn many_promises_settle_in_any_order() {
    run(async {
        let source = "{ f: (n) => new Promise((r) => setTimeout(r, (n * 7) % 13, n)) }";
        let mut contract = Contract::load(source).await;
        let arguments: Vec<String> = (0..100).map(|n| n.to_string()).collect();
        let calls: Vec<_> = arguments.iter().map(|a| ("f", Some(a.as_str()))).collect();
        let outcomes = contract.run(&calls).await;
        for (n, outcome) in outcomes.iter().enumerate() {
            if !matches!(outcome, Outcome::NotStarted) {
                assert_eq!(outcome.result(), Some(n.to_string().as_str()));
            }
        }
        contract.close().await;
    });
}

/// While the worker waits for one promise, the results of others that settle at once arrive before
/// the reply to the message that started them.
#[test]
fn promises_that_settle_at_once_beside_a_pending_one() {
    run(async {
        let source = "{ slow: () => new Promise((r) => { release = () => r('slow') }),
                        quick: async (a) => a, release: () => release() }; var release";
        let mut contract = Contract::load(source).await;
        let slow = contract.submit(&[("slow", None)]);
        let mut outcomes = BTreeMap::new();
        for n in 0..200 {
            let quick = contract.submit(&[("quick", Some("1")), ("quick", Some("2"))]);
            while !outcomes.contains_key(&(quick + 1)) || !outcomes.contains_key(&quick) {
                assert_eq!(contract.wait(&mut outcomes).await, None, "round {n}");
            }
            assert_eq!(outcomes[&quick].result(), Some("1"));
            assert_eq!(outcomes[&(quick + 1)].result(), Some("2"));
        }
        while contract.page.reserve(0).calls == 0 {
            assert_eq!(contract.wait(&mut outcomes).await, None);
        }
        contract.submit(&[("release", None)]);
        while !outcomes.contains_key(&slow) {
            assert_eq!(contract.wait(&mut outcomes).await, None);
        }
        contract.close().await;
    });
}

/// Keeping the page busy must not postpone a promise's time limit for ever.
#[test]
fn a_promise_that_never_settles_times_out_under_load() {
    run(async {
        let source = "{ never: () => new Promise(() => {}), quick: () => 1 }";
        let mut contract = Contract::load_with(within_ms(500), source).await;
        let never = contract.submit(&[("never", None)]);
        let mut outcomes = BTreeMap::new();
        let mut lost = None;
        while lost.is_none() {
            while contract.page.reserve(0).calls > 0 {
                contract.submit(&[("quick", None)]);
            }
            lost = contract.wait(&mut outcomes).await;
        }
        assert_eq!(outcomes[&never].code(), Some(FailureCode::ExecutionTimeout));
        contract.close().await;
    });
}

#[test]
fn only_the_promise_that_never_settles_is_blamed() {
    run(async {
        let source = "{ never: () => new Promise(() => {}), quick: () => 1,
                        late: () => new Promise((r) => setTimeout(r, 700, 2)) }";
        let mut contract = Contract::load_with(within_ms(1000), source).await;
        let never = contract.submit(&[("never", None)]);
        let mut outcomes = BTreeMap::new();
        assert_eq!(contract.get("quick").await.unwrap(), "1");
        let late = contract.submit(&[("late", None)]);
        assert_eq!(contract.wait(&mut outcomes).await, None);
        assert_eq!(outcomes[&late].result(), Some("2"));
        let young = contract.submit(&[("late", None)]);
        let reason = contract
            .wait(&mut outcomes)
            .await
            .expect("the page is closed");
        assert_eq!(reason, "a call ran longer than its limit");
        // Only the overdue call is blamed, not the younger one beside it.
        assert_eq!(outcomes[&never].code(), Some(FailureCode::ExecutionTimeout));
        assert!(!outcomes.contains_key(&young));
        contract.close().await;
    });
}

#[test]
fn a_lone_promise_that_never_settles_is_a_timeout() {
    run(async {
        let source = "{ never: () => new Promise(() => {}) }";
        let mut contract = Contract::load_with(within_ms(300), source).await;
        let outcome = contract.run(&[("never", None)]).await.remove(0);
        let Outcome::Done(Err(failure)) = outcome else {
            panic!("{outcome:?}")
        };
        assert_eq!(failure.code, FailureCode::ExecutionTimeout);
        assert_eq!(failure.message, "The call ran longer than 300 ms");
        assert!(failure.started);
        contract.close().await;
    });
}

#[test]
fn timers_stop_while_the_contract_is_idle() {
    let source = "let ticks = 0;
        setInterval(() => { ticks += 1 }, 10);
        const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
        const init = () => ({
            ticks: () => ticks,
            nap: async () => { const begun = Date.now(); await pause(30); return Date.now() - begun },
        })";
    run(async {
        let mut contract = Contract::load(source).await;
        contract.idle(Duration::from_secs(4)).await;
        let ticks: u32 = contract.get("ticks").await.unwrap().parse().unwrap();
        assert!(ticks < 300, "{ticks} ticks of 400");
        // Timers that a call awaits run at their usual pace.
        for _ in 0..3 {
            let nap: u32 = contract.get("nap").await.unwrap().parse().unwrap();
            assert!((29..800).contains(&nap), "{nap} ms");
        }
        let later: u32 = contract.get("ticks").await.unwrap().parse().unwrap();
        assert!(later > ticks);
        contract.close().await;
    });
}
