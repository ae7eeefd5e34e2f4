//! Results that are small in memory and large as JSON, or that have no valid JSON text.

use shared::protocol::reply::FailureCode;

use crate::driver::{Contract, Outcome, run};

/// A tree of 2^40 texts.
const TREE: &str = "let a = ['xxxxxxxx']; for (let i = 0; i < 40; i++) a = [a, a]; return a";

/// Runs a method body beside other calls of the same message; returns its code.
async fn code_of(contract: &mut Contract, body: &str) -> Option<FailureCode> {
    let body = serde_json::to_string(body).unwrap();
    let calls = [
        ("count", None),
        ("make", Some(body.as_str())),
        ("count", None),
    ];
    // A page on a busy machine may hand back the calls that it has not started.
    let is_handed_back = |outcome: &Outcome| matches!(outcome, Outcome::NotStarted);
    loop {
        let outcomes = contract.run(&calls).await;
        assert!(outcomes[0].result().is_some(), "{body}: {outcomes:?}");
        let is_well = outcomes[2].result().is_some() || is_handed_back(&outcomes[2]);
        assert!(is_well, "{body}: {outcomes:?}");
        if !is_handed_back(&outcomes[1]) {
            return outcomes[1].code();
        }
    }
}

#[test]
fn a_result_that_explodes_on_paper_fails_only_its_call() {
    let growing = format!("const f = () => 1; f.toJSON = () => {{ {TREE} }}; return f");
    let growing_number = format!("BigInt.prototype.toJSON = () => {{ {TREE} }}; return 1n");
    let too_large = [
        TREE,
        &growing,
        &growing_number,
        "return new Array(2000).fill(new String('x'.repeat(5e5)))",
        "const s = new String('a'); s.toString = () => 'x'.repeat(5e8); return [s]",
        "const s = new String('x'.repeat(5e5)); Object.setPrototypeOf(s, null);
         s.toString = () => 'x'.repeat(5e5); return new Array(2000).fill(s)",
        "return new Array(2000).fill(JSON.rawJSON(JSON.stringify('x'.repeat(5e5))))",
        "return new Array(1e8)",
        "return new Array(2 ** 32 - 1)",
        "return new Array(1e6).fill(() => 1)",
        "return new Array(1e6).fill(undefined)",
        "return new Proxy([], { get: (_, key) => key === 'length' ? 1e15 : undefined })",
        "const a = []; a.length = 1e9; return { a, toJSON: () => a }",
        "BigInt.prototype.toJSON = () => 'x'.repeat(5e5); return new Array(2000).fill(1n)",
        "return 'x'.repeat(5e8)",
        "return { toJSON: () => 'x'.repeat(5e8) }",
        "return () => 1, Object.assign(() => 1, { toJSON: () => 'x'.repeat(5e8) })",
    ];
    run(async {
        let source = "let n = 0; const init = () => ({ count: () => ++n, make: (body) => Function(body)() })";
        let mut contract = Contract::load(source).await;
        for (index, body) in too_large.into_iter().enumerate() {
            let code = code_of(&mut contract, body).await;
            assert_eq!(code, Some(FailureCode::ResultTooLarge), "{body}");
            let count: usize = contract.get("count").await.unwrap().parse().unwrap();
            assert!(count > 2 * index, "the page was lost by {body}");
        }
        contract.close().await;
    });
}

#[test]
fn a_result_without_valid_text_fails_only_its_call() {
    let not_json = [
        "return JSON.rawJSON('\"\\ud800\"')",
        "return [JSON.rawJSON('\"a\\udc00\\ud800\"')]",
        "const f = () => 1; f.toJSON = function () { const g = () => 1; g.toJSON = f.toJSON; return [g] }; return f",
        "const grow = { toJSON() { return { grow } } }; return grow",
        "const a = []; a.push(new Proxy(a, {})); return a",
        "const { proxy, revoke } = Proxy.revocable({}, {}); revoke(); return [proxy]",
        "const s = new String('a'); s.toString = () => { throw 1 }; return s",
        "const s = new String('a'); s.toString = () => Symbol('s'); return s",
    ];
    run(async {
        let source = "let n = 0; const init = () => ({ count: () => ++n, make: (body) => Function(body)() })";
        let mut contract = Contract::load(source).await;
        for body in not_json {
            let code = code_of(&mut contract, body).await;
            assert_eq!(code, Some(FailureCode::ResultNotJson), "{body}");
        }
        let count: usize = contract.get("count").await.unwrap().parse().unwrap();
        assert!(count > not_json.len(), "the page was lost");
        contract.close().await;
    });
}

#[test]
fn counting_a_result_changes_nothing_in_it() {
    let table = [
        ("new String('boxed')", r#""boxed""#),
        (
            "Object.assign(new String('boxed'), { toString: () => 'other' })",
            r#""other""#,
        ),
        (
            "[new Number(3), new Boolean(false), Object('x')]",
            r#"[3,false,"x"]"#,
        ),
        ("JSON.rawJSON('1e999')", "1e999"),
        (
            "[JSON.rawJSON('12345678901234567890')]",
            "[12345678901234567890]",
        ),
        ("({ length: 3, name: 'x' })", r#"{"length":3,"name":"x"}"#),
        (
            "(function () { return arguments })(1, 2)",
            r#"{"0":1,"1":2}"#,
        ),
        ("Object.freeze({ length: 7 })", r#"{"length":7}"#),
        ("[,undefined,() => 1,Symbol()]", "[null,null,null,null]"),
        ("({ a: undefined, b: () => 1, c: Symbol() })", "{}"),
        ("Object.assign(() => 1, { toJSON: () => [7] })", "[7]"),
        (
            "(BigInt.prototype.toJSON = () => 8, { a: 1n })",
            r#"{"a":8}"#,
        ),
        ("(BigInt.prototype.toJSON = () => 8, 1n)", "8"),
        (
            "[1.5, -1e-7, 1e21, -0, NaN, 4294967296]",
            "[1.5,-1e-7,1e+21,0,null,4294967296]",
        ),
        ("new Proxy([1, 2], {})", "[1,2]"),
    ];
    run(async {
        let mut contract = Contract::load("{ eval: (source) => (0, eval)(source) }").await;
        for (source, expected) in table {
            let argument = serde_json::to_string(source).unwrap();
            let result = contract.call("eval", &argument).await;
            assert_eq!(result.as_deref(), Ok(expected), "{source}");
        }
        contract.close().await;
    });
}
