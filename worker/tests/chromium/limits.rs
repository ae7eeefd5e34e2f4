//! Calls that run over their limit: who is blamed, who gets a result, and that the page ends.

use execution_worker::sandbox::Instance;
use futures::future::join_all;
use shared::protocol::reply::FailureCode;

use crate::driver::{Contract, Fate, run, within_ms};
use crate::own::Own;

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

/// A call that runs on its own is always the one to blame, whatever keeps it busy.
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
            let fate = contract.run(&[(method, None)]).await.remove(0);
            assert_eq!(
                fate.code(),
                Some(FailureCode::ExecutionTimeout),
                "{method}: {fate:?}"
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
        let fates = contract.run(&calls).await;
        assert!(
            fates[0].result().is_some(),
            "the first call is always started: {:?}",
            fates[0]
        );
        let handed_back = matches!(fates[40], Fate::NotStarted);
        for (n, fate) in fates.iter().enumerate() {
            match fate {
                Fate::Done(Ok(json)) => {
                    assert!(n < 40 || handed_back);
                    assert_eq!(*json, n.to_string());
                }
                Fate::Done(Err(failure)) => {
                    assert_eq!((n, failure.code), (40, FailureCode::ExecutionTimeout));
                }
                Fate::NotStarted => {}
                Fate::Lost(_) => assert!(n > 40, "call {n} was lost"),
            }
        }
        if !handed_back {
            assert_eq!(fates[40].code(), Some(FailureCode::ExecutionTimeout));
            assert!(fates[99].is_lost());
        }
        contract.close().await;
    });
}

#[test]
fn what_waits_behind_a_call_that_hangs_is_not_blamed() {
    run(async {
        let mut contract = Contract::load_with(within_ms(500), BUSY).await;
        contract.submit(&[("loop", None)]);
        let fates = contract
            .run(&[("quick", Some("1")), ("quick", Some("2"))])
            .await;
        assert!(
            fates.iter().all(|fate| matches!(fate, Fate::NotStarted)),
            "{fates:?}"
        );
        assert_eq!(contract.page.reserve(), 0);
        contract.close().await;
    });
}

#[test]
fn the_results_beside_endless_microtasks_are_kept() {
    run(async {
        let mut contract = Contract::load_with(within_ms(500), BUSY).await;
        let calls = [
            ("quick", Some("1")),
            ("microtasks", None),
            ("quick", Some("2")),
        ];
        let fates = contract.run(&calls).await;
        assert_eq!(fates[0].result(), Some("1"), "{fates:?}");
        assert_eq!(
            fates[1].code(),
            Some(FailureCode::ExecutionTimeout),
            "{fates:?}"
        );
        assert_eq!(fates[2].result(), Some("2"), "{fates:?}");
        contract.close().await;
    });
}

#[test]
fn a_call_that_finished_has_its_result_even_if_the_page_hangs_after_it() {
    run(async {
        let mut contract = Contract::load_with(within_ms(500), BUSY).await;
        let fates = contract
            .run(&[("leaves", None), ("quick", Some("1"))])
            .await;
        assert_eq!(fates[0].result(), Some("\"left\""), "{fates:?}");
        assert_eq!(contract.page.reserve(), 0);
        contract.close().await;
    });
}

#[test]
fn a_page_that_hangs_in_the_engine_itself_is_closed_all_the_same() {
    run(async {
        let mut contract = Contract::load_with(within_ms(300), BUSY).await;
        let fates = contract.run(&[("quick", Some("1")), ("sort", None)]).await;
        // It can tell nobody which of the two it is.
        let blamed = fates[1].code() == Some(FailureCode::ExecutionTimeout);
        assert!(blamed || fates[1].is_lost(), "{fates:?}");
        contract.close().await;
    });
}

#[test]
fn a_page_that_burns_on_after_its_answer_can_be_closed() {
    run(async {
        let mut contract = Contract::load_with(within_ms(2000), BUSY).await;
        contract.get("burn").await.unwrap();
        contract.close().await;
    });
}

#[test]
fn a_message_does_not_start_calls_for_long() {
    run(async {
        let source = "{ busy: () => { for (const t = Date.now(); Date.now() - t < 20;); } }";
        let mut contract = Contract::load(source).await;
        let fates = contract.run(&[("busy", None); 5]).await;
        assert_eq!(fates[0].result(), Some("null"));
        assert!(
            fates[1..]
                .iter()
                .all(|fate| matches!(fate, Fate::NotStarted)),
            "{fates:?}"
        );
        contract.close().await;
    });
}

/// Names may be used again for a call that was handed back; what was said of it then is stale.
#[test]
fn a_call_that_was_handed_back_and_hangs_when_it_comes_again_is_blamed() {
    run(async {
        let source = "{ busy: () => { for (const t = Date.now(); Date.now() - t < 20;); },
                        loop: () => { for (;;) {} } }";
        let mut contract = Contract::load_with(within_ms(500), source).await;
        let fates = contract.run(&[("busy", None), ("loop", None)]).await;
        assert!(matches!(fates[1], Fate::NotStarted), "{fates:?}");
        contract.rewind(1);
        let fates = contract.run(&[("loop", None)]).await;
        assert_eq!(
            fates[0].code(),
            Some(FailureCode::ExecutionTimeout),
            "{fates:?}"
        );
        contract.close().await;
    });
}

#[test]
fn a_contract_over_its_memory_is_lost() {
    run(async {
        let source = "{ eat: () => { const a = []; for (;;) a.push(new Array(1000).fill(1.5)) } }";
        let mut contract = Contract::load(source).await;
        let fates = contract.run(&[("eat", None)]).await;
        let [Fate::Lost(reason)] = &fates[..] else {
            panic!("{fates:?}")
        };
        assert!(reason.starts_with("its process ended"), "{reason}");
        contract.close().await;
    });
}

#[test]
fn room_is_two_messages() {
    run(async {
        let mut contract = Contract::load(BUSY).await;
        assert_eq!(contract.page.reserve(), 128);
        contract.submit(&[("quick", Some("1"))]);
        assert_eq!(contract.page.reserve(), 128);
        contract.submit(&[("quick", Some("2"))]);
        assert_eq!(contract.page.reserve(), 0);
        let mut fates = std::collections::BTreeMap::new();
        while fates.len() < 2 {
            assert_eq!(contract.wait(&mut fates).await, None);
        }
        assert_eq!(contract.page.reserve(), 128);
        contract.close().await;
    });
}

#[test]
fn contracts_that_compute_hold_up_no_other() {
    run(async {
        let own = Own::start().await;
        // As many as there may be messages under way to a browser at once.
        let lanes = 4 * std::thread::available_parallelism().unwrap().get();
        let mut busy = Vec::new();
        for _ in 0..lanes {
            busy.push(own.load(BUSY).await);
        }
        let mut quick = own.load(BUSY).await;
        for contract in &mut busy {
            contract.submit(&[("loop", None)]);
        }
        assert_eq!(quick.page.reserve(), 0);
        let ends = join_all(busy.iter_mut().map(Contract::lost));
        let answer = async {
            while quick.page.reserve() == 0 {
                assert!(quick.page.next().await.is_empty());
            }
            quick.call("quick", "1").await
        };
        tokio::select! {
            ends = ends => panic!("it had to wait for the others: {ends:?}"),
            answer = answer => assert_eq!(answer.unwrap(), "1"),
        }
        own.engine.shutdown().await;
    });
}
