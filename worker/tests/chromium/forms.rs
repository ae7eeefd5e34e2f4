//! Which executables are contracts, and the errors for those that are not.

use execution_worker::sandbox::StartError;
use shared::protocol::job::Limits;
use shared::service::lifecycle::Lifecycle;

use crate::driver::{Contract, config, run, shared};

/// Why a source is refused.
async fn refusal(source: &str) -> String {
    match Contract::try_load(shared(), Limits::default(), source).await {
        Err(StartError::Invalid(reason)) => reason,
        Err(error) => panic!("not refused: {error}"),
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
        "\u{feff}#!/usr/bin/env node\n{ f: (a) => a + 1 }",
        "#!/usr/bin/env node\nfunction init() { return { f: (a) => a + 1 } }",
        "<!-- as in a page\n{ f: (a) => a + 1 }",
        "\"use strict\";\n({\n    f: (a) => a + 1,\n});\n",
        "'use strict'\n{ f: (a) => a + 1 }",
        "{ f: (a) => a + one }; var one = 1;",
        "{ f: add }\nfunction add(a) { return a + 1 } // after the literal",
        "{ one: 1 }\nfunction init() { return { f: (a) => a + 1 } }",
        "async function init() { await null; return { f: (a) => a + 1 } }",
        "const init = () => new Promise((done) => setTimeout(done, 10, { f: (a) => a + 1 }))",
        "(async () => { await null; return { f: (a) => a + 1 } })()",
        // What bundlers write: assignments to the global object, in one expression or several.
        "(() => { globalThis.init = () => ({ f: (a) => a + 1 }) })();\n",
        "(() => { globalThis.one = 1 })();\n(() => { globalThis.init = () => ({ f: (a) => a + one }) })();",
        "(async () => { await null; globalThis.init = async () => ({ f: (a) => a + 1 }) })()",
        "(function (scope) { scope.init = function () { return { f: (a) => a + 1 } } })(this);",
        "!function (e, t) { typeof exports === 'object' && typeof module < 'u' ? t(exports)
            : t((e = typeof globalThis < 'u' ? globalThis : e || self).lib = {}) }(this, function (e) { e.one = 1 });
            var init = () => ({ f: (a) => a + lib.one })",
        "var lib = (() => { var one = 1; return { one } })();\nvar init = () => ({ f: (a) => a + lib.one })",
        "\"use strict\"; var init; (() => { init = () => ({ f: (a) => a + 1 }) })();",
        "var __assign = (this && this.__assign) || Object.assign; function init() { return { f: (a) => a + __assign({}, { one: 1 }).one } }",
        "var module = { exports: {} }, exports = module.exports; exports.f = (a) => a + 1; var init = () => module.exports;",
        "var window = globalThis, global = this, self = this; global.one = 1; function init() { return { f: (a) => a + window.one } }",
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
        let source = "{ b() {}, a() {}, data: 1, nested: { c() {} }, ['x y']() {}, '\\u2028'() {},
            ''() {} }";
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
            ("// a\n{ f: ) }", "(line 2, column 6)"),
            ("'use strict'; ({ f: ) })", "(line 1, column 21)"),
            ("\u{feff}#!x\nlet a = ;", "(line 2, column 9)"),
            ("'use strict'; var a = 010;", "(line 1, column 23)"),
            ("(() => {})();\nlet a = ;", "(line 2, column 9)"),
            // Not the body of the function that runs it.
            ("}) ; (function () {", "(line 1, column 1)"),
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
            "{ ''() {} }",
            "async function init() { return 1 }",
            "(async () => {})()",
            "(() => {})();",
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
            ("throw Object.create(null)", "{}"),
            (
                "throw { code: 7, reason: 'funds' }",
                r#"{"code":7,"reason":"funds"}"#,
            ),
            (
                "async function init() { throw new TypeError('later') }",
                "TypeError: later",
            ),
            // With a lone surrogate the debugger's message would be invalid.
            ("throw new Error('\\ud800')", "Error: \u{fffd}"),
        ] {
            let reason = refusal(source).await;
            let place = reason.strip_prefix(expected).unwrap_or(&reason);
            let has_place = place.is_empty() || place.starts_with(" (line 1, column ");
            assert!(has_place, "{source:?}: {reason}");
        }
    });
}

#[test]
fn an_executable_runs_once() {
    run(async {
        for source in [
            "(() => { globalThis.total = (globalThis.total || 0) + 100;
                globalThis.init = () => ({ total: () => total }) })();",
            "({ total: ((globalThis.total = (globalThis.total || 0) + 100), () => total) })",
            "{ globalThis.total = (globalThis.total || 0) + 100 } var init = () => ({ total: () => total })",
        ] {
            let mut contract = Contract::load(source).await;
            assert_eq!(
                contract.get("total").await.as_deref(),
                Ok("100"),
                "{source}"
            );
            contract.close().await;
        }
    });
}

#[test]
fn a_module_is_refused_with_what_to_do() {
    run(async {
        for source in [
            "export const init = () => ({})",
            "import a from 'b'; const init = a",
        ] {
            let reason = refusal(source).await;
            assert!(reason.contains("(line 1, column 1). "), "{reason}");
            assert!(reason.contains("--format=iife"), "{reason}");
        }
    });
}

#[test]
fn an_executable_whose_promise_stays_pending_is_refused() {
    run(async {
        let mut config = config();
        config.load_limit = std::time::Duration::from_secs(2);
        let engine = execution_worker::chromium::Chromium::start(config, Lifecycle::new())
            .await
            .unwrap();
        let source = "function init() { return new Promise(() => {}) }";
        let loaded = Contract::try_load(&engine, Limits::default(), source).await;
        match loaded.map(drop) {
            Err(StartError::Invalid(reason)) => assert_eq!(
                reason,
                "The promise that the executable returned was not settled within 2000 ms"
            ),
            // The machine was too busy for the page to reply.
            Err(StartError::Unavailable(reason)) => {
                let begin = "The executable was not evaluated within 2000 ms";
                assert!(reason.starts_with(begin), "{reason}");
            }
            other => panic!("{other:?}"),
        }
        engine.shutdown().await;
    });
}

#[test]
fn an_executable_that_never_finishes_is_terminated() {
    run(async {
        let mut config = config();
        config.load_limit = std::time::Duration::from_secs(2);
        let engine = execution_worker::chromium::Chromium::start(config, Lifecycle::new())
            .await
            .unwrap();
        for source in [
            "for (;;) {}",
            "function init() { for (;;) {} }",
            "async function init() { for (;;) await null }",
        ] {
            let loaded = Contract::try_load(&engine, Limits::default(), source).await;
            match loaded.map(drop) {
                Err(StartError::Invalid(reason)) => {
                    assert_eq!(reason, "The executable ran longer than 2000 ms");
                }
                // The machine was too busy for the executable to compute for half of the time.
                Err(StartError::Unavailable(reason)) => {
                    let begin = "The executable was not evaluated within 2000 ms";
                    assert!(reason.starts_with(begin), "{reason}");
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
