//! Which executables are contracts, and the errors for those that are not.

use execution_worker::sandbox::StartError;
use shared::protocol::job::Limits;

use crate::driver::{Contract, config, run, shared};

/// Why a source is refused.
async fn refusal(source: &str) -> String {
    match Contract::try_load(shared(), Limits::default(), source).await {
        Err(StartError::Invalid(reason)) => reason,
        Err(StartError::Unavailable(reason)) => panic!("unavailable: {reason}"),
        Ok(contract) => panic!("{source:?} is a contract: {:?}", contract.endpoints()),
    }
}

#[test]
fn every_form_of_a_contract_is_accepted() {
    let sources = [
        "{ f: (a) => a + 1 }",
        "{ f(a) { return a + 1 } };",
        "{ f: async (a) => a + 1 } ; // the end",
        "// the beginning {\n/* of */ { f: function (a) { return a + 1 } } /* the end */",
        "({ f: (a) => a + 1 })",
        "(function () { return { f: (a) => a + 1 } })()",
        "function f(a) { return a + 1 }\nfunction init() { return { f } }",
        "function init() { return { f: g } } function g(a) { return a + 1 } // the end",
        "const f = (a) => a + 1; const init = () => ({ f })",
        "'use strict'; var init = function () { return { f: (a) => a + 1 } };",
        "{ var one = 1 } function init() { return { f: (a) => a + one } }",
        "(function () { globalThis.one = 1 })(); function init() { return { f: (a) => a + one } }",
        "class C { constructor() { this.f = (a) => a + 1 } } function init() { return new C() }",
        "\u{feff}{ f: (a) => a + 1 }",
    ];
    run(async {
        for source in sources {
            let mut contract = Contract::load(source).await;
            assert_eq!(contract.endpoints(), ["f"], "{source}");
            assert_eq!(contract.call("f", "41").await.unwrap(), "42", "{source}");
            contract.close().await;
        }
    });
}

#[test]
fn endpoints_are_the_own_functions_in_order() {
    run(async {
        let source =
            "{ b() {}, a() {}, data: 1, nested: { c() {} }, ['x y']() {}, '\\u2028'() {} }";
        let contract = Contract::load(source).await;
        assert_eq!(contract.endpoints(), ["b", "a", "x y", "\u{2028}"]);
        contract.close().await;
    });
}

#[test]
fn an_endpoint_may_be_named_then() {
    run(async {
        let mut contract = Contract::load("function init() { return { then: () => 1 } }").await;
        assert_eq!(contract.get("then").await.unwrap(), "1");
        contract.close().await;
    });
}

#[test]
fn endpoints_share_the_contract_as_this() {
    run(async {
        let source = "{ n: 0, add(a) { this.n += a; return this.get() }, get() { return this.n } }";
        let mut contract = Contract::load(source).await;
        contract.call("add", "2").await.unwrap();
        assert_eq!(contract.call("add", "3").await.unwrap(), "5");
        contract.close().await;
    });
}

#[test]
fn a_syntax_error_is_reported_with_its_position_in_the_source() {
    run(async {
        for (source, place) in [
            ("{ f: ) }", "(line 1, column 6)"),
            ("{\n  f: (a) => a +\n}", "(line 3, column 1)"),
            ("function init( {\n  return 1 }", "(line 2, column 10)"),
            ("let a = 1;\nlet a = 2;", "(line 2, column 5)"),
            ("{ f: () => 1 ", "(line 1, column 14)"),
        ] {
            let reason = refusal(source).await;
            assert!(reason.starts_with("SyntaxError: "), "{source:?}: {reason}");
            assert!(reason.ends_with(place), "{source:?}: {reason}");
        }
    });
}

#[test]
fn an_executable_without_endpoints_is_refused() {
    run(async {
        for source in [
            "",
            ";",
            "{}",
            "{ a: 1 }",
            "1",
            "function f() {}",
            "const init = 1",
            "function init() { return 1 }",
            "function init() { return null }",
            "({})",
            "function init() { return { a: 'x' } }",
            "async function init() { return { f() {} } }",
        ] {
            let reason = refusal(source).await;
            assert!(
                reason.starts_with("The executable has no endpoints"),
                "{source:?}: {reason}"
            );
        }
    });
}

#[test]
fn an_executable_that_throws_is_refused() {
    run(async {
        for (source, expected) in [
            ("throw new TypeError('no')", "TypeError: no"),
            ("throw 'a string'", "a string"),
            ("{ f: missing }", "ReferenceError: missing is not defined"),
            (
                "function init() { throw new Error('inside') }",
                "Error: inside",
            ),
            ("{ get f() { throw new Error('getter') } }", "Error: getter"),
            (
                "throw { toString() { throw 1 } }",
                "Error: something was thrown that cannot be read",
            ),
            (
                "throw Object.create(null)",
                "Error: something was thrown that cannot be read",
            ),
            // With a lone surrogate the debugger's message would be invalid.
            ("throw new Error('\\ud800')", "Error: \u{fffd}"),
        ] {
            assert_eq!(refusal(source).await, expected, "{source:?}");
        }
    });
}

#[test]
fn an_executable_that_never_finishes_is_terminated() {
    run(async {
        let mut config = config();
        config.load_limit = std::time::Duration::from_secs(2);
        let engine = execution_worker::chromium::Chromium::start(config)
            .await
            .unwrap();
        for source in ["for (;;) {}", "function init() { for (;;) {} }"] {
            match Contract::try_load(&engine, Limits::default(), source)
                .await
                .map(drop)
            {
                Err(StartError::Invalid(reason)) => {
                    assert_eq!(reason, "The executable ran longer than 2000 ms");
                }
                other => panic!("{other:?}"),
            }
        }
        engine.shutdown().await;
    });
}

#[test]
fn an_executable_that_crashes_its_page_is_refused() {
    run(async {
        let reason = refusal("const a = []; for (;;) a.push(new Array(1000).fill(1.5))").await;
        assert!(
            reason.starts_with("The executable ended its page: its process ended"),
            "{reason}"
        );
    });
}

#[test]
fn a_large_source_is_accepted() {
    run(async {
        let padding = "x".repeat(16 << 20);
        let source = format!("{{ f: () => text.length }}; var text = '{padding}'");
        let mut contract = Contract::load(&source).await;
        assert_eq!(contract.get("f").await.unwrap(), (16 << 20).to_string());
        contract.close().await;
    });
}
