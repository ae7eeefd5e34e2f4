//! Pages that flood their browser with messages or with text. The browser has one thread for the
//! messages of all its pages, so each is closed, and a neighbour's calls are not blamed for the
//! time that they waited.

use std::collections::BTreeMap;
use std::time::Duration;

use execution_worker::chromium::ChromiumConfig;
use shared::protocol::job::Limits;

use crate::driver::{Contract, PATIENCE, config, patient, run, within_ms};
use crate::own_engine::OwnEngine;

const COUNTER: &str = "let n = 0; const init = () => ({ count: () => ++n })";

/// An engine whose contracts may run for long, so that a flood ends by nothing else.
async fn patient_engine() -> OwnEngine {
    OwnEngine::with(ChromiumConfig {
        calls: patient(),
        ..config()
    })
    .await
}

/// Loads a contract whose `flood` runs this code without end, calls it, and calls a neighbour in
/// the same browser until the flooding page is lost. Returns the reason.
async fn flood(own: &OwnEngine, prepare: &str, code: &str) -> String {
    let neighbour = Contract::try_load(&own.engine, within_ms(2000), COUNTER).await;
    let mut neighbour = neighbour.unwrap();
    let source = format!("{{ flood: () => {{ {prepare}; for (let i = 0; ; i++) {{ {code} }} }} }}");
    let flooding = Contract::try_load(&own.engine, Limits::default(), &source).await;
    let mut flooding = flooding.unwrap();
    flooding.submit(&[("flood", None)]);
    let mut calls = 0;
    let calling = async {
        loop {
            calls += 1;
            let count = neighbour.get("count").await;
            assert_eq!(count.expect("no call fails"), calls.to_string(), "{code}");
        }
    };
    let reason = tokio::select! {
        reason = flooding.lost() => reason,
        () = calling => unreachable!("it calls for ever"),
    };
    // A call that was in flight ends, too, and the state is kept.
    let mut outcomes = BTreeMap::new();
    let lost = tokio::time::timeout(Duration::from_secs(3), neighbour.wait(&mut outcomes)).await;
    assert!(
        !matches!(lost, Ok(Some(_))),
        "{code}: the neighbour is lost"
    );
    let count: u32 = neighbour.get("count").await.unwrap().parse().unwrap();
    assert!(
        count == calls || count == calls + 1,
        "{code}: {count} after {calls}"
    );
    flooding.close().await;
    neighbour.close().await;
    reason
}

const LONG: &str = r#"const long = "x".repeat(2e6)"#;
const LONG_FRAME: &str = r#"const long = "https://x.invalid/" + "x".repeat(2e6 - 100);
    const frame = document.createElement("iframe"); document.documentElement.append(frame)"#;

#[test]
fn a_page_that_floods_its_browser_with_text_is_closed() {
    run(async {
        let own = patient_engine().await;
        for (prepare, code) in [
            (LONG, "location.hash = long + i"),
            (LONG_FRAME, "frame.src = long + i"),
        ] {
            let reason = flood(&own, prepare, code).await;
            assert_eq!(reason, "it flooded its browser with messages", "{code}");
        }
        own.engine.shutdown().await;
    });
}

#[test]
fn a_page_that_floods_its_browser_with_messages_is_closed() {
    run(async {
        let own = patient_engine().await;
        let code = "resizeTo(100 + i % 100, 100); moveTo(i % 50, 1)";
        let reason = flood(&own, "", code).await;
        assert_eq!(reason, "it flooded its browser with messages");
        own.engine.shutdown().await;
    });
}

/// These take the page longer than the browser, so that the browser keeps up with them.
#[test]
fn messages_that_do_not_stall_the_browser_cost_no_neighbour_a_call() {
    run(async {
        let own = OwnEngine::start().await;
        for code in [
            "print()",
            "focus(); blur()",
            "console.log(i)",
            "document.title = i",
        ] {
            let reason = flood(&own, "", code).await;
            let by_time = reason == "a call ran longer than its limit";
            assert!(
                by_time || reason == "it flooded its browser with messages",
                "{reason}"
            );
        }
        own.engine.shutdown().await;
    });
}

#[test]
fn a_page_that_sends_long_requests_is_closed() {
    run(async {
        let own = OwnEngine::start().await;
        let source = r#"{ short: () => { location.href = "https://x.invalid/" },
            long: () => { location.href = "https://x.invalid/" + "x".repeat(1e6) } }"#;
        let mut contract = own.load(source).await;
        for _ in 0..5 {
            assert_eq!(contract.get("short").await.unwrap(), "null");
        }
        contract.idle(Duration::from_millis(100)).await;
        contract.submit(&[("long", None)]);
        let reason = contract.lost().await;
        assert_eq!(reason, "it sent too many requests, or too long ones");
        contract.close().await;
        own.engine.shutdown().await;
    });
}

/// Busy pages alone are no flood, however busy the machine is.
#[test]
fn pages_that_compute_and_allocate_are_no_flood() {
    run(async {
        let own = patient_engine().await;
        let source = "{ compute: () => { for (const end = Date.now() + 700; Date.now() < end;); },
            allocate: () => { for (const end = Date.now() + 700; Date.now() < end;)
                new Uint8Array(5e6).fill(1) } }";
        let mut contracts = Vec::new();
        for _ in 0..3 {
            contracts.push(own.load(source).await);
        }
        for method in ["compute", "allocate"] {
            let calls = contracts.iter_mut().map(|contract| contract.get(method));
            for outcome in futures::future::join_all(calls).await {
                assert_eq!(outcome.unwrap(), "null");
            }
        }
        for contract in contracts {
            contract.close().await;
        }
        own.engine.shutdown().await;
    });
}

/// The place of a syntax error is read before the executable could prepare the page for it.
#[test]
fn an_executable_cannot_stall_the_report_of_its_own_error() {
    run(async {
        let own = OwnEngine::start().await;
        for source in [
            "{ Error.prepareStackTrace = () => { for (;;) console.log(1) }; throw 1 }",
            "{ Error.prepareStackTrace = () => { for (;;) console.log(1) }; throw '1' }",
        ] {
            let loading = Contract::try_load(&own.engine, Limits::default(), source);
            let loaded = tokio::time::timeout(PATIENCE, loading).await.unwrap();
            let reason = loaded.map(drop).unwrap_err().to_string();
            assert!(
                reason.starts_with("SyntaxError: ") || reason == "1",
                "{reason}"
            );
        }
        own.engine.shutdown().await;
    });
}
