//! Calls that run over their time limit: which call is blamed, which calls keep their results, and
//! that the page ends.

use execution_worker::sandbox::Instance;
use futures::future::join_all;
use shared::protocol::reply::FailureCode;

use crate::driver::{Contract, Outcome, run, within_ms};
use crate::own_engine::OwnEngine;

const BUSY: &str = "{
    quick: (a) => a,
    loop: () => { for (;;) {} },
    microtasks: async () => { for (;;) await 0 },
    regex: () => /^(a+)+$/.test('a'.repeat(40) + 'b'),
    getter: () => ({ get a() { for (;;) {} } }),
    sort: () => { const a = []; for (let i = 0; i < 1e7; i++) a.push((i * 7919) % 1e7); a.sort(); },
    thrown: () => { throw { get message() { for (;;) {} } } },
    later: async () => { await 0; for (;;) {} },
    leaves: () => { (async () => { for (;;) await 0 })(); return 'left' },
    burn: () => { const f = () => { for (const t = Date.now(); Date.now() - t < 50;); setTimeout(f) }; f() },
}";

/// A call that runs alone is always the one to blame, whatever code it runs.
#[test]
fn a_lone_call_over_its_limit_is_a_timeout() {
    run(async {
        for method in [
            "loop",
            "microtasks",
            "regex",
            "getter",
            "sort",
            "thrown",
            "later",
        ] {
            let mut contract = Contract::load_with(within_ms(300), BUSY).await;
            let outcome = contract.run(&[(method, None)]).await.remove(0);
            assert_eq!(
                outcome.code(),
                Some(FailureCode::ExecutionTimeout),
                "{method}: {outcome:?}"
            );
            contract.close().await;
        }
    });
}

#[test]
fn only_the_call_that_hangs_is_blamed() {
    run(async {
        let mut contract = Contract::load_with(within_ms(500), BUSY).await;
        let arguments: Vec<String> = (0..100).map(|n| n.to_string()).collect();
        let mut calls: Vec<_> = arguments
            .iter()
            .map(|a| ("quick", Some(a.as_str())))
            .collect();
        calls[40] = ("loop", None);
        let outcomes = contract.run(&calls).await;
        assert!(
            outcomes[0].result().is_some(),
            "the first call is always started: {:?}",
            outcomes[0]
        );
        let handed_back = matches!(outcomes[40], Outcome::NotStarted);
        for (n, outcome) in outcomes.iter().enumerate() {
            match outcome {
                Outcome::Done(Ok(json)) => {
                    assert!(n < 40 || handed_back);
                    assert_eq!(*json, n.to_string());
                }
                Outcome::Done(Err(failure)) => {
                    assert_eq!((n, failure.code), (40, FailureCode::ExecutionTimeout));
                }
                Outcome::NotStarted => {}
                Outcome::Lost(_) => assert!(n > 40, "call {n} was lost"),
            }
        }
        if !handed_back {
            assert_eq!(outcomes[40].code(), Some(FailureCode::ExecutionTimeout));
            assert!(outcomes[99].is_lost());
        }
        contract.close().await;
    });
}

#[test]
fn calls_behind_a_call_that_hangs_are_not_blamed() {
    run(async {
        let mut contract = Contract::load_with(within_ms(500), BUSY).await;
        contract.submit(&[("loop", None)]);
        let outcomes = contract
            .run(&[("quick", Some("1")), ("quick", Some("2"))])
            .await;
        assert!(
            outcomes
                .iter()
                .all(|outcome| matches!(outcome, Outcome::NotStarted)),
            "{outcomes:?}"
        );
        assert_eq!(contract.page.reserve(0).calls, 0);
        contract.close().await;
    });
}

#[test]
fn results_of_calls_beside_endless_microtasks_are_kept() {
    run(async {
        let mut contract = Contract::load_with(within_ms(500), BUSY).await;
        let calls = [
            ("quick", Some("1")),
            ("microtasks", None),
            ("quick", Some("2")),
        ];
        let outcomes = contract.run(&calls).await;
        assert_eq!(outcomes[0].result(), Some("1"), "{outcomes:?}");
        assert_eq!(
            outcomes[1].code(),
            Some(FailureCode::ExecutionTimeout),
            "{outcomes:?}"
        );
        assert_eq!(outcomes[2].result(), Some("2"), "{outcomes:?}");
        contract.close().await;
    });
}

#[test]
fn a_finished_call_keeps_its_result_if_the_page_hangs_afterwards() {
    run(async {
        let mut contract = Contract::load_with(within_ms(500), BUSY).await;
        let outcomes = contract
            .run(&[("leaves", None), ("quick", Some("1"))])
            .await;
        assert_eq!(outcomes[0].result(), Some("\"left\""), "{outcomes:?}");
        assert_eq!(contract.page.reserve(0).calls, 0);
        contract.close().await;
    });
}

#[test]
fn a_page_that_hangs_in_the_engine_is_closed() {
    run(async {
        let mut contract = Contract::load_with(within_ms(300), BUSY).await;
        let outcomes = contract.run(&[("quick", Some("1")), ("sort", None)]).await;
        // The page cannot report which of the two calls hangs.
        let blamed = outcomes[1].code() == Some(FailureCode::ExecutionTimeout);
        assert!(blamed || outcomes[1].is_lost(), "{outcomes:?}");
        contract.close().await;
    });
}

#[test]
fn a_page_that_computes_on_after_its_reply_can_be_closed() {
    run(async {
        let mut contract = Contract::load_with(within_ms(2000), BUSY).await;
        contract.get("burn").await.unwrap();
        contract.close().await;
    });
}

#[test]
fn a_message_starts_calls_only_for_its_time_slice() {
    run(async {
        let source = "{ busy: () => { for (const t = Date.now(); Date.now() - t < 20;); } }";
        let mut contract = Contract::load(source).await;
        let outcomes = contract.run(&[("busy", None); 5]).await;
        assert_eq!(outcomes[0].result(), Some("null"));
        assert!(
            outcomes[1..]
                .iter()
                .all(|outcome| matches!(outcome, Outcome::NotStarted)),
            "{outcomes:?}"
        );
        contract.close().await;
    });
}

/// A call that was handed back may be sent again under its number. Earlier updates are stale then.
#[test]
fn a_call_that_was_handed_back_and_hangs_when_resent_is_blamed() {
    run(async {
        let source = "{ busy: () => { for (const t = Date.now(); Date.now() - t < 20;); },
                        loop: () => { for (;;) {} } }";
        let mut contract = Contract::load_with(within_ms(500), source).await;
        let outcomes = contract.run(&[("busy", None), ("loop", None)]).await;
        assert!(matches!(outcomes[1], Outcome::NotStarted), "{outcomes:?}");
        contract.rewind(1);
        let outcomes = contract.run(&[("loop", None)]).await;
        assert_eq!(
            outcomes[0].code(),
            Some(FailureCode::ExecutionTimeout),
            "{outcomes:?}"
        );
        contract.close().await;
    });
}

#[test]
fn a_contract_over_its_heap_limit_is_lost() {
    run(async {
        let source = "{ eat: () => { const a = []; for (;;) a.push(new Array(1000).fill(1.5)) } }";
        let mut contract = Contract::load(source).await;
        let outcomes = contract.run(&[("eat", None)]).await;
        let [Outcome::Lost(reason)] = &outcomes[..] else {
            panic!("{outcomes:?}")
        };
        assert!(reason.starts_with("its process ended"), "{reason}");
        contract.close().await;
    });
}

#[test]
fn two_messages_may_be_in_flight() {
    run(async {
        let mut contract = Contract::load(BUSY).await;
        assert_eq!(contract.page.reserve(0).calls, 128);
        contract.submit(&[("quick", Some("1"))]);
        assert_eq!(contract.page.reserve(0).calls, 128);
        contract.submit(&[("quick", Some("2"))]);
        assert_eq!(contract.page.reserve(0).calls, 0);
        let mut outcomes = std::collections::BTreeMap::new();
        while outcomes.len() < 2 {
            assert_eq!(contract.wait(&mut outcomes).await, None);
        }
        assert_eq!(contract.page.reserve(0).calls, 128);
        contract.close().await;
    });
}

#[test]
fn contracts_that_compute_do_not_delay_others() {
    run(async {
        let own = OwnEngine::start().await;
        // As many contracts as a browser has send slots.
        let slots = 4 * std::thread::available_parallelism().unwrap().get();
        let mut busy = Vec::new();
        for _ in 0..slots {
            busy.push(own.load(BUSY).await);
        }
        let mut quick = own.load(BUSY).await;
        for contract in &mut busy {
            contract.submit(&[("loop", None)]);
        }
        assert_eq!(quick.page.reserve(0).calls, 0);
        let ends = join_all(busy.iter_mut().map(Contract::lost));
        let answer = async {
            while quick.page.reserve(0).calls == 0 {
                assert!(quick.page.next().await.is_empty());
            }
            quick.call("quick", "1").await
        };
        tokio::select! {
            ends = ends => panic!("it waited for the busy contracts: {ends:?}"),
            answer = answer => assert_eq!(answer.unwrap(), "1"),
        }
        own.engine.shutdown().await;
    });
}
