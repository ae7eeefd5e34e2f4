//! Contracts that change the built-in objects, look for the harness, or leave their document.

use shared::protocol::reply::FailureCode;

use crate::driver::{Contract, run};

/// Changes to built-in objects that could affect the harness.
const TAMPER: &[&str] = &[
    "JSON.stringify = () => '\"forged\"'; JSON.parse = () => [[0, 'forged']]",
    "Object.defineProperty(Object.prototype, 'toJSON', { get() { throw 1 } })",
    "Promise.prototype.then = () => { throw 1 }; Promise.prototype.catch = undefined",
    "Object.defineProperty(Promise.prototype, 'constructor', { get() { throw 1 } })",
    "Object.defineProperty(Promise, Symbol.species, { get() { throw 1 } })",
    "Promise.resolve = Promise.all = () => { throw 1 }; Promise = undefined",
    "for (const k of Object.getOwnPropertyNames(Array.prototype))
        if (typeof [][k] === 'function') Array.prototype[k] = () => { throw 1 }",
    "Array.prototype[Symbol.iterator] = () => { throw 1 }; Array.isArray = () => { throw 1 }",
    "for (const i of [0, 1, 2]) Object.defineProperty(Array.prototype, i, { set() { throw 1 }, get() { return 'x' } })",
    "for (const k of ['get', 'set', 'value', 'length', 'id', 'enumerable'])
        Object.defineProperty(Object.prototype, k,
            { __proto__: null, get() { throw 1 }, set() { throw 1 } })",
    "Function.prototype.call = Function.prototype.apply = Function.prototype.bind = () => { throw 1 }",
    "Reflect.apply = Reflect.ownKeys = () => { throw 1 }; Reflect = undefined",
    "for (const k of Object.getOwnPropertyNames(String.prototype))
        if (k !== 'length' && k !== 'constructor') String.prototype[k] = () => { throw 1 }",
    "String.prototype.toString = Number.prototype.toString = () => { throw 1 }; String = Number = undefined",
    "Object.prototype[Symbol.toPrimitive] = () => { throw 1 }",
    "performance.now = () => { throw 1 }; Performance.prototype.now = () => 0; Date.now = () => 0",
    "Object.create = Object.freeze = Object.defineProperty = () => { throw 1 }; Object = undefined",
    "Error.prepareStackTrace = () => { throw 1 }; Error.stackTraceLimit = 0; Error = undefined",
    "eval = () => { throw 1 }; globalThis.undefined_ = 1",
    "Object.setPrototypeOf(Array.prototype, new Proxy({}, { get() { throw 1 }, has() { throw 1 } }))",
    "Object.setPrototypeOf(globalThis.Promise.prototype, null)",
    "Map.prototype.forEach = Set.prototype.forEach = () => { throw 1 };
        Object.defineProperty(Map.prototype, 'size', { get() { throw 1 } })",
    "for (const k of ['length', 'buffer', 'byteLength', 'byteOffset'])
        Object.defineProperty(Object.getPrototypeOf(Uint8Array.prototype), k, { get() { throw 1 } });
        Uint8Array = ArrayBuffer = Map = undefined",
];

#[test]
fn results_are_correct_whatever_a_contract_changes() {
    run(async {
        for change in TAMPER {
            // The contract makes the change in one of its calls, after it was loaded.
            let source = format!(
                "const map = new Map([[1, 2]]), bytes = new Uint8Array(2);
                const init = () => ({{ tamper: () => {{ {change}; return 1 }}, object: (a) => ({{ a }}), text: () => 'x',
                    promise: async (a) => a, fail: () => null.x, list: () => [1, 2], map: () => map, bytes: () => bytes }})"
            );
            let mut contract = Contract::load(&source).await;
            let tampered = contract.get("tamper").await;
            // `JSON.stringify` looks up `toJSON` in a result, so these changes affect the
            // contract's own results.
            if change.contains("toJSON") || change.contains("Proxy") {
                assert_eq!(tampered.as_deref(), Ok("1"));
                let failure = contract.call("object", "[1]").await.unwrap_err();
                assert_eq!(failure.code, FailureCode::ResultNotJson);
            } else {
                assert_eq!(tampered.as_deref(), Ok("1"), "{change}");
                assert_eq!(
                    contract.call("object", "[1]").await.as_deref(),
                    Ok("{\"a\":[1]}"),
                    "{change}"
                );
                for (method, expected) in
                    [("list", "[1,2]"), ("map", "[[1,2]]"), ("bytes", "[0,0]")]
                {
                    let found = contract.get(method).await;
                    assert_eq!(found.as_deref(), Ok(expected), "{change}");
                }
            }
            assert_eq!(
                contract.get("text").await.as_deref(),
                Ok("\"x\""),
                "{change}"
            );
            let failure = contract.get("fail").await.unwrap_err();
            let expected = "TypeError: Cannot read properties of null (reading 'x')";
            assert_eq!(failure.message, expected, "{change}");
            let promised = contract.call("promise", "7").await;
            if change.contains("'constructor', { get() { throw 1 }") {
                // `await` itself looks up `constructor`, so this change affects the contract's own
                // promises.
                assert_eq!(promised.unwrap_err().code, FailureCode::ExecutionFailed);
            } else {
                assert_eq!(promised.as_deref(), Ok("7"), "{change}");
            }
            contract.close().await;
        }
    });
}

#[test]
fn the_harness_cannot_be_reached() {
    run(async {
        let source = r"{
            names: () => Object.getOwnPropertyNames(globalThis).filter((n) => /^(harness|contract|endpoints|run|collect|adopt)$/i.test(n)),
            caller: function () { try { return String(arguments.callee.caller) } catch (e) { return e.name } },
            frames: () => {
                const found = [];
                Error.prepareStackTrace = (_, frames) => {
                    for (const f of frames) found.push([typeof f.getFunction(), typeof f.getThis()]);
                };
                new Error().stack;
                return found.slice(1).every(([f, t]) => f === 'undefined' && t === 'undefined');
            },
            toJson: () => ({ toJSON: function () { try { return String(arguments.callee.caller) } catch (e) { return e.name } } }),
            holder: () => { let seen; const a = { toJSON() { seen = this === a; return seen } }; return a },
        }";
        let mut contract = Contract::load(source).await;
        assert_eq!(contract.get("names").await.unwrap(), "[]");
        assert_eq!(contract.get("caller").await.unwrap(), "\"null\"");
        assert_eq!(contract.get("frames").await.unwrap(), "true");
        assert_eq!(contract.get("toJson").await.unwrap(), "\"null\"");
        assert_eq!(contract.get("holder").await.unwrap(), "true");
        contract.close().await;
    });
}

#[test]
fn a_contract_that_replaces_its_document_is_lost() {
    run(async {
        for go in [
            "location = 'about:blank'",
            "location = URL.createObjectURL(new Blob(['x'], { type: 'text/html' }))",
        ] {
            let mut contract = Contract::load(&format!("{{ go: () => {{ {go} }} }}")).await;
            contract.submit(&[("go", None)]);
            contract.lost().await;
            contract.close().await;
        }
    });
}

#[test]
fn a_contract_that_tries_to_navigate_away_stays() {
    run(async {
        for go in [
            "location = 'https://example.com/?secret'",
            "location.reload()",
            "history.back()",
            "location.hash = 'x'",
            "document.title = 'x'",
            "window.open('https://example.com/')",
            "alert(1); confirm(2); prompt(3); print()",
            "const a = document.createElement('a'); a.href = 'https://example.com/'; a.click()",
        ] {
            let source = format!(
                "{{ go: () => {{ {go} }}, f: () => new Promise((r) => setTimeout(r, 100, 1)) }}"
            );
            let mut contract = Contract::load(&source).await;
            contract.get("go").await.unwrap();
            assert_eq!(contract.get("f").await.as_deref(), Ok("1"), "{go}");
            assert_eq!(contract.get("f").await.as_deref(), Ok("1"), "{go}");
            contract.close().await;
        }
    });
}
