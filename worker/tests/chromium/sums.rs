//! Many legal calls at once whose arguments or results are large together.

use std::collections::{BTreeMap, VecDeque};

use execution_worker::sandbox::{Instance, LossCause};
use shared::protocol::reply::FailureCode;

use crate::driver::{Contract, Outcome, run, within_ms};

/// Nearly a megabyte of JSON that takes ten times as much in the heap.
fn objects() -> String {
    format!("[{}]", vec!["{}"; 340_000].join(","))
}

/// Makes the calls as a worker does: in order, as many at a time as there is room for. Returns
/// their outcomes in order.
async fn run_all(contract: &mut Contract, calls: &[(&str, Option<&str>)]) -> Vec<Outcome> {
    let mut waiting: VecDeque<usize> = (0..calls.len()).collect();
    let mut numbers = BTreeMap::new();
    let mut outcomes = BTreeMap::new();
    let mut ended = BTreeMap::new();
    while ended.len() < calls.len() {
        while let Some(next) = waiting.front() {
            let size = |index: usize| calls[index].1.map_or(0, str::len);
            let room = contract.page.reserve(size(*next));
            let mut batch = Vec::new();
            let mut bytes = 0;
            while batch.len() < room.calls
                && let Some(next) = waiting.front()
                && (batch.is_empty() || bytes + size(*next) <= room.bytes)
            {
                bytes += size(*next);
                batch.extend(waiting.pop_front());
            }
            if batch.is_empty() {
                break;
            }
            let submitted: Vec<_> = batch.iter().map(|index| calls[*index]).collect();
            numbers.extend((contract.submit_reserved(&submitted)..).zip(batch));
        }
        if let Some(reason) = contract.wait_or_room(&mut outcomes).await {
            panic!("the page was lost: {reason}");
        }
        for (number, outcome) in std::mem::take(&mut outcomes) {
            match (numbers[&number], outcome) {
                (index, Outcome::NotStarted) => waiting.push_front(index),
                (index, outcome) => assert!(ended.insert(index, outcome).is_none()),
            }
        }
    }
    ended.into_values().collect()
}

#[test]
fn large_arguments_of_many_calls_cost_no_state() {
    run(async {
        let source =
            "let n = 0; const init = () => ({ length: (x) => x.length, count: () => ++n })";
        let mut contract = Contract::load(source).await;
        assert_eq!(contract.get("count").await.unwrap(), "1");
        let objects = objects();
        let calls = vec![("length", Some(objects.as_str())); 16];
        for outcome in run_all(&mut contract, &calls).await {
            assert_eq!(outcome.result(), Some("340000"));
        }
        let text = format!("\"{}\"", "x".repeat(1_040_000));
        let calls = vec![("length", Some(text.as_str())); 100];
        for outcome in run_all(&mut contract, &calls).await {
            assert_eq!(outcome.result(), Some("1040000"));
        }
        assert_eq!(contract.get("count").await.unwrap(), "2");
        contract.close().await;
    });
}

#[test]
fn arguments_of_pending_promises_are_bounded_together() {
    run(async {
        let source = "let n = 0; const init = () => ({ count: () => ++n,
            later: async (x) => { await new Promise((r) => setTimeout(r, 20)); return x.length } })";
        let mut contract = Contract::load(source).await;
        assert_eq!(contract.get("count").await.unwrap(), "1");
        let text = format!("\"{}\"", "x".repeat(1_040_000));
        let calls = vec![("later", Some(text.as_str())); 150];
        for outcome in run_all(&mut contract, &calls).await {
            assert_eq!(outcome.result(), Some("1040000"));
        }
        assert_eq!(contract.get("count").await.unwrap(), "2");
        contract.close().await;
    });
}

#[test]
fn an_argument_of_any_size_arrives_unchanged() {
    run(async {
        let mut contract = Contract::load("{ echo: (x) => x, length: (x) => x.length }").await;
        // More bytes than one piece has, with characters across the cuts.
        for text in ["\u{1f600}".repeat(100_000), "a\u{e9}".repeat(200_000)] {
            let json = serde_json::to_string(&text).unwrap();
            assert!(contract.call("echo", &json).await.unwrap() == json);
        }
        let huge = format!("\"{}\"", "x".repeat(20_000_000));
        assert_eq!(contract.call("length", &huge).await.unwrap(), "20000000");
        contract.close().await;
    });
}

/// Reading an argument takes longer than this contract's calls may.
#[test]
fn an_argument_is_not_read_in_the_time_of_its_call() {
    run(async {
        let source = "{ length: (x) => x.length, loop: (x) => { for (;;); } }";
        let mut contract = Contract::load_with(within_ms(500), source).await;
        let huge = format!("\"{}\"", "x".repeat(20_000_000));
        assert_eq!(contract.call("length", &huge).await.unwrap(), "20000000");
        // The call's own time is still limited.
        let failure = contract.call("loop", &huge).await.unwrap_err();
        assert_eq!(failure.code, FailureCode::ExecutionTimeout);
        assert_eq!(failure.message, "The call ran longer than 500 ms");
        contract.close().await;
    });
}

#[test]
fn an_argument_that_does_not_fit_into_the_heap_is_no_crash_of_the_contract() {
    run(async {
        let mut contract = Contract::load("{ length: (x) => x.length }").await;
        let huge = format!("[{}]", vec!["{}"; 8_000_000].join(","));
        let outcome = contract.run(&[("length", Some(&huge))]).await.remove(0);
        assert!(outcome.is_lost(), "{outcome:?}");
        assert_eq!(contract.cause, Some(LossCause::Arguments));
        contract.close().await;
    });
}

#[test]
fn results_of_promises_that_settle_together_are_sent_in_parts() {
    run(async {
        for body in [
            "return 'x'.repeat(9e5)",
            "return new Array(9e4).fill('abcdefg')",
            "throw 'x'.repeat(9e5)",
        ] {
            let source = format!(
                "let n = 0; let open; const gate = new Promise((r) => {{ open = r }});
                 const init = () => ({{ count: () => ++n, open: () => open(),
                     later: async () => {{ await gate; {body} }} }})"
            );
            let mut contract = Contract::load(&source).await;
            assert_eq!(contract.get("count").await.unwrap(), "1");
            let mut calls = vec![("later", None); 150];
            calls.push(("open", None));
            let outcomes = run_all(&mut contract, &calls).await;
            let expected = outcomes[..150]
                .iter()
                .filter(|outcome| match outcome {
                    Outcome::Done(Ok(json)) => json.len() > 800_000,
                    other => other.code() == Some(FailureCode::ExecutionFailed),
                })
                .count();
            assert_eq!(expected, 150, "{body}");
            assert_eq!(contract.get("count").await.unwrap(), "2");
            contract.close().await;
        }
    });
}

/// The calls' time ends when their promises settle, however long the results wait for a reply.
#[test]
fn a_result_that_waits_for_room_is_not_late() {
    run(async {
        let source = "let open; const gate = new Promise((r) => { open = r });
            const toJSON = () => { const end = Date.now() + 30; while (Date.now() < end); return 'x'.repeat(9e5) };
            const init = () => ({ open: () => open(), later: async () => { await gate; return { toJSON } } })";
        let mut contract = Contract::load_with(within_ms(1000), source).await;
        let mut calls = vec![("later", None); 60];
        calls.push(("open", None));
        for outcome in run_all(&mut contract, &calls).await {
            assert!(outcome.result().is_some(), "{:?}", outcome.code());
        }
        contract.close().await;
    });
}

#[test]
fn a_result_that_waits_for_room_and_never_ends_is_a_timeout_of_its_call() {
    run(async {
        let source = "let open; const gate = new Promise((r) => { open = r });
            const init = () => ({ open: () => open(), large: async () => { await gate; return 'x'.repeat(9e5) },
                endless: async () => { await gate; return { toJSON() { for (;;); } } } })";
        let mut contract = Contract::load_with(within_ms(500), source).await;
        let calls = [
            ("large", None),
            ("large", None),
            ("large", None),
            ("endless", None),
            ("open", None),
        ];
        let outcomes = contract.run(&calls).await;
        assert_eq!(outcomes[3].code(), Some(FailureCode::ExecutionTimeout));
        assert_eq!(contract.cause, Some(LossCause::Timeout));
        contract.close().await;
    });
}
