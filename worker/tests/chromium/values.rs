//! Arguments, results and errors: how values are passed into and out of a page.

use shared::protocol::job::Limits;
use shared::protocol::reply::FailureCode;

use crate::driver::{Contract, run};

/// Expressions, and the JSON text of their values.
const RESULTS: &[(&str, &str)] = &[
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
    ("1n", r#""1""#),
    (
        "({ a: [2n ** 70n] })",
        r#"{"a":["1180591620717411303424"]}"#,
    ),
    (
        "new Map([[1, { a: 2 }], ['x', new Set([1, 'b'])]])",
        r#"[[1,{"a":2}],["x",[1,"b"]]]"#,
    ),
    ("({ a: new Map(), b: new Set() })", r#"{"a":[],"b":[]}"#),
    (
        "new (class extends Map { toJSON() { return 'own' } })()",
        r#""own""#,
    ),
    ("new (class extends Map {})([[1, 2]])", "[[1,2]]"),
    ("new WeakMap()", "{}"),
    ("new Uint8Array([1, 2])", "[1,2]"),
    ("new Float64Array([1.5, NaN])", "[1.5,null]"),
    ("new BigInt64Array([-1n])", r#"["-1"]"#),
    ("new ArrayBuffer(3)", "[0,0,0]"),
    (
        "new DataView(new Uint8Array([1, 2, 3]).buffer, 1, 2)",
        "[2,3]",
    ),
    ("(function* () { yield 1; yield [2n] })()", r#"[1,["2"]]"#),
    (
        "(async function* () { yield 1; yield new Set([2]) })()",
        "[1,[2]]",
    ),
    ("[7, 8].entries()", "[[0,7],[1,8]]"),
    ("[1, 2].values().map((n) => 2 * n)", "[2,4]"),
    ("new Error('x')", r#"{"name":"Error","message":"x"}"#),
    (
        "Object.assign(new TypeError('x', { cause: new Error('y') }), { code: 7 })",
        r#"{"name":"TypeError","message":"x","cause":{"name":"Error","message":"y"},"code":7}"#,
    ),
    (
        "new AggregateError([new Error('a')], 'm')",
        r#"{"name":"AggregateError","message":"m","errors":[{"name":"Error","message":"a"}]}"#,
    ),
    (
        "class A { constructor() { this.x = 1 } #y = 2; get z() { return 3 } } new A()",
        r#"{"x":1}"#,
    ),
    ("/x/g", "{}"),
    ("({ a: Promise.resolve(1) })", r#"{"a":{}}"#),
    // What an object calls itself does not make it one.
    ("({ [Symbol.toStringTag]: 'Map', a: 1 })", r#"{"a":1}"#),
    ("new Proxy(new Map([[1, 2]]), {})", "{}"),
    ("new String('boxed')", r#""boxed""#),
    ("Object.assign(Object.create(null), { a: 1 })", r#"{"a":1}"#),
    ("JSON.parse('{\"__proto__\":1}')", r#"{"__proto__":1}"#),
];

#[test]
fn a_result_is_its_json_form() {
    run(async {
        let mut contract = Contract::load("{ eval: (source) => (0, eval)(source) }").await;
        for (source, expected) in RESULTS {
            let argument = serde_json::to_string(source).unwrap();
            let result = contract.call("eval", &argument).await;
            assert_eq!(result.as_deref(), Ok(*expected), "{source}");
        }
        contract.close().await;
    });
}

#[test]
fn a_result_without_a_json_form_is_refused() {
    let table = [
        (
            "({ next() { throw new Error('no') }, __proto__: Iterator.prototype })",
            "Error: no",
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

/// Code that throws, and the texts of the errors.
const THROWN: &[(&str, &str)] = &[
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
    (
        "throw { code: 7, reason: 'funds' }",
        r#"{"code":7,"reason":"funds"}"#,
    ),
    ("throw [1, { a: 2n }]", r#"[1,{"a":"2"}]"#),
    (
        "throw { a: 'x'.repeat(3000) }",
        "Error: an object of more than 2000 characters",
    ),
    ("throw { toString: () => 'own text', a: 1 }", "own text"),
    (
        "throw new Error('a', { cause: new TypeError('b', { cause: { c: 1 } }) })",
        r#"Error: a; cause: TypeError: b; cause: {"c":1}"#,
    ),
    (
        "throw new AggregateError([1, new Error('z')], 'm')",
        "AggregateError: m [1; Error: z]",
    ),
    ("const e = new Error('a'); e.cause = e; throw e", "Error: a"),
    (
        "const e = new Error('a', { cause: { message: 'b' } }); e.cause.cause = e; throw e",
        "Error: a; cause: Error: b",
    ),
    (
        "const e = new Error('a'); Object.defineProperty(e, 'cause', { get() { throw 1 } }); throw e",
        "Error: a",
    ),
    ("throw { message: 'm', get name() { throw 1 } }", "Error: m"),
    ("throw { get message() { throw 1 } }", "[object Object]"),
    (
        "throw new Proxy({}, { get() { throw 1 } })",
        "Error: something was thrown that cannot be read",
    ),
    ("throw new Error('\\ud800')", "Error: \u{fffd}"),
    (
        "(function f() { f() })()",
        "RangeError: Maximum call stack size exceeded",
    ),
];

#[test]
fn a_thrown_value_becomes_an_error_text() {
    let long = format!("Error: {}", "x".repeat(2000 - "Error: ".len()));
    let cut = ("throw new Error('x'.repeat(1e7))", long.as_str());
    run(async {
        let mut contract = Contract::load("{ eval: (source) => (0, eval)(source) }").await;
        for (source, expected) in THROWN.iter().chain([&cut]) {
            let argument = serde_json::to_string(source).unwrap();
            let failure = contract.call("eval", &argument).await.unwrap_err();
            assert_eq!(
                failure.code,
                FailureCode::ExecutionFailed,
                "{source}: {failure}"
            );
            assert_eq!(failure.message, *expected, "{source}");
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
            bytes: (n) => new Uint8Array(n),
            endless: function* () { for (;;) yield 1 },
            later: async function* () { for (;;) yield 1 },
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
            ("bytes", "1000"),
            ("endless", "1"),
            ("later", "1"),
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
