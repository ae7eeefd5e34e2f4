//! Arguments, results and errors: how values are passed into and out of a page.

use shared::protocol::job::Limits;
use shared::protocol::reply::FailureCode;

use crate::driver::{Contract, run};

#[test]
fn a_result_is_its_json_form() {
    let table = [
        ("undefined", "null"),
        ("null", "null"),
        ("true", "true"),
        ("0", "0"),
        ("-0", "0"),
        ("1.5e300", "1.5e+300"),
        ("NaN", "null"),
        ("Infinity", "null"),
        ("'text'", r#""text""#),
        ("''", r#""""#),
        (r"'\n\t\u2028\0\''", "\"\\n\\t\u{2028}\\u0000'\""),
        (r"'\ud83d\ude00'", "\"\u{1f600}\""),
        (r"'\ud800'", r#""\ud800""#),
        (r"({ '\udc00': '\ud800x' })", r#"{"\udc00":"\ud800x"}"#),
        ("[]", "[]"),
        ("[1,,3]", "[1,null,3]"),
        ("[undefined, () => 1, Symbol()]", "[null,null,null]"),
        ("({ a: undefined, b: () => 1, c: 2 })", r#"{"c":2}"#),
        ("({ a: { b: [{}] } })", r#"{"a":{"b":[{}]}}"#),
        ("new Date(0)", r#""1970-01-01T00:00:00.000Z""#),
        ("({ toJSON: () => 7 })", "7"),
        ("({ toJSON: () => undefined })", "null"),
        ("new Map([[1, 2]])", "{}"),
        ("new String('boxed')", r#""boxed""#),
        ("Object.assign(Object.create(null), { a: 1 })", r#"{"a":1}"#),
        ("JSON.parse('{\"__proto__\":1}')", r#"{"__proto__":1}"#),
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

#[test]
fn a_result_without_a_json_form_is_refused() {
    let table = [
        ("1n", "TypeError: Do not know how to serialize a BigInt"),
        (
            "({ a: [1n] })",
            "TypeError: Do not know how to serialize a BigInt",
        ),
        ("() => 1", "a function has no JSON form"),
        ("Symbol('s')", "a symbol has no JSON form"),
        (
            "{ const a = {}; a.a = a; a }",
            "TypeError: Converting circular structure to JSON",
        ),
        (
            "({ toJSON() { throw new RangeError('no') } })",
            "RangeError: no",
        ),
        ("({ get a() { throw 'bare' } })", "bare"),
    ];
    run(async {
        let mut contract = Contract::load("{ eval: (source) => (0, eval)(source) }").await;
        for (source, expected) in table {
            let argument = serde_json::to_string(source).unwrap();
            let failure = contract.call("eval", &argument).await.unwrap_err();
            assert_eq!(
                failure.code,
                FailureCode::ResultNotJson,
                "{source}: {failure}"
            );
            assert!(failure.message.starts_with(expected), "{source}: {failure}");
            assert!(failure.started);
        }
        contract.close().await;
    });
}

#[test]
fn a_thrown_value_becomes_an_error_text() {
    let long = format!("Error: {}", "x".repeat(2000 - "Error: ".len()));
    let table = [
        ("throw new Error('a b')", "Error: a b"),
        ("throw new TypeError('a\\nb')", "TypeError: a\nb"),
        (
            "null.x",
            "TypeError: Cannot read properties of null (reading 'x')",
        ),
        ("throw new Error('')", "Error"),
        ("throw 'text'", "text"),
        ("throw 7", "7"),
        ("throw undefined", "undefined"),
        ("throw Symbol('s')", "Symbol(s)"),
        ("throw { name: 'N', message: 'm' }", "N: m"),
        ("throw { message: 'm', get name() { throw 1 } }", "Error: m"),
        ("throw { get message() { throw 1 } }", "[object Object]"),
        (
            "throw new Proxy({}, { get() { throw 1 } })",
            "Error: something was thrown that cannot be read",
        ),
        ("throw new Error('x'.repeat(1e7))", &long),
        ("throw new Error('\\ud800')", "Error: \u{fffd}"),
        (
            "(function f() { f() })()",
            "RangeError: Maximum call stack size exceeded",
        ),
    ];
    run(async {
        let mut contract = Contract::load("{ eval: (source) => (0, eval)(source) }").await;
        for (source, expected) in table {
            let argument = serde_json::to_string(source).unwrap();
            let failure = contract.call("eval", &argument).await.unwrap_err();
            assert_eq!(
                failure.code,
                FailureCode::ExecutionFailed,
                "{source}: {failure}"
            );
            assert_eq!(failure.message, expected, "{source}");
        }
        contract.close().await;
    });
}

#[test]
fn an_argument_arrives_unchanged() {
    run(async {
        let source = "{
            echo: (a) => a,
            count: (...a) => a.length,
            own: (a) => [Object.hasOwn(a, '__proto__'), a.polluted === undefined],
            depth: (a) => { let n = 0; for (; Array.isArray(a); a = a[0]) n += 1; return n },
            type: (a) => [typeof a, a === Infinity],
        }";
        let mut contract = Contract::load(source).await;
        for json in [
            r#"{"a":[1,null,"x"]}"#,
            "null",
            "\"\u{2028}\u{1f600}\"",
            r#""\ud800""#,
            "[]",
        ] {
            assert_eq!(contract.call("echo", json).await.as_deref(), Ok(json));
        }
        assert_eq!(contract.get("count").await.unwrap(), "0");
        assert_eq!(contract.call("count", "null").await.unwrap(), "1");
        let hostile = r#"{"__proto__":{"polluted":1}}"#;
        assert_eq!(contract.call("own", hostile).await.unwrap(), "[true,true]");
        let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
        assert_eq!(contract.call("depth", &deep).await.unwrap(), "10000");
        assert_eq!(
            contract.call("type", "1e999").await.unwrap(),
            r#"["number",true]"#
        );
        contract.close().await;
    });
}

#[test]
fn a_deep_result_is_returned_or_refused() {
    run(async {
        let source =
            "{ nest: (n) => { let a = 1; for (let i = 0; i < n; i++) a = [a]; return a } }";
        let mut contract = Contract::load(source).await;
        let shallow = contract.call("nest", "1000").await.unwrap();
        assert_eq!(
            shallow,
            format!("{}1{}", "[".repeat(1000), "]".repeat(1000))
        );
        let failure = contract.call("nest", "200000").await.unwrap_err();
        assert_eq!(failure.code, FailureCode::ResultNotJson);
        // The page still works.
        assert_eq!(contract.call("nest", "1").await.unwrap(), "[1]");
        contract.close().await;
    });
}

#[test]
fn a_result_over_the_limit_is_refused() {
    run(async {
        let limits = Limits {
            result_bytes: Some(1000),
            ..Limits::default()
        };
        let source = "{
            text: (n) => 'x'.repeat(n),
            wide: (n) => 'ä'.repeat(n),
            list: (n) => new Array(n).fill(0),
            escaped: (n) => '\\0'.repeat(n),
            keys: (n) => ({ ['k'.repeat(n)]: 1 }),
            dag: (n) => { let a = []; for (let i = 0; i < n; i++) a = [a, a]; return a },
            long: () => { const key = 'k'.repeat(900); let a = 1;
                for (let i = 0; i < 40; i++) a = { [key + '0']: a, [key + '1']: a }; return a },
            huge: () => 'x'.repeat(5e8),
        }";
        let mut contract = Contract::load_with(limits, source).await;
        for (method, argument) in [
            ("text", "998"),
            ("wide", "499"),
            ("list", "499"),
            ("escaped", "166"),
            ("keys", "994"),
            ("dag", "4"),
        ] {
            contract.call(method, argument).await.unwrap();
        }
        for (method, argument) in [
            ("text", "999"),
            ("wide", "500"),
            ("list", "500"),
            ("escaped", "167"),
            ("keys", "995"),
            ("dag", "10"),
            ("dag", "50"),
            ("long", "1"),
            ("huge", "1"),
        ] {
            let failure = contract.call(method, argument).await.unwrap_err();
            assert_eq!(
                failure.code,
                FailureCode::ResultTooLarge,
                "{method}({argument}): {failure}"
            );
            assert_eq!(failure.message, "The result is over 1000 bytes");
        }
        contract.close().await;
    });
}

#[test]
fn only_endpoints_can_be_called() {
    run(async {
        let mut contract = Contract::load("{ f: () => 1, data: 1 }").await;
        for method in [
            "constructor",
            "__proto__",
            "toString",
            "hasOwnProperty",
            "__defineGetter__",
            "data",
            "missing",
            "",
            "\u{0}",
        ] {
            let failure = contract.call(method, "{}").await.unwrap_err();
            assert_eq!(failure.code, FailureCode::EndpointNotFound, "{method}");
            assert!(!failure.started);
        }
        contract.close().await;
    });
}

#[test]
fn an_endpoint_may_have_any_name() {
    run(async {
        let source = "{ ['__proto__']: () => 1, constructor: () => 2, 'a \"b\"\\n': () => 3 }";
        let mut contract = Contract::load(source).await;
        assert_eq!(
            contract.endpoints(),
            ["__proto__", "constructor", "a \"b\"\n"]
        );
        for (method, expected) in [("__proto__", "1"), ("constructor", "2"), ("a \"b\"\n", "3")] {
            assert_eq!(contract.get(method).await.unwrap(), expected);
        }
        contract.close().await;
    });
}

#[test]
fn a_full_batch_of_calls_gets_the_right_results() {
    run(async {
        let mut contract = Contract::load("{ f: (a) => a * 2 }").await;
        let arguments: Vec<String> = (0..128).map(|n| n.to_string()).collect();
        let calls: Vec<_> = arguments.iter().map(|a| ("f", Some(a.as_str()))).collect();
        // The page may hand calls back when the machine is busy.
        let mut outcomes = contract.run(&calls).await;
        for (n, outcome) in outcomes.iter_mut().enumerate() {
            if matches!(outcome, crate::driver::Outcome::NotStarted) {
                *outcome = contract.run(&calls[n..=n]).await.remove(0);
            }
            assert_eq!(outcome.result(), Some((n * 2).to_string().as_str()));
        }
        contract.close().await;
    });
}
