//! V: values, exceptions and arguments of every kind, and their results. `docs/values.md` has the
//! table for readers.

use crate::attack::Expect::{Any, Fails, Says, SaysNot};
use crate::attack::{Expect, shown};
use crate::attack_farm::{AttackFarm, Browser};

const THROWS: Expect = Fails(500, "execution_failed");
const NOT_JSON: Expect = Fails(500, "result_not_json");
const TIMEOUT: Expect = Fails(504, "execution_timeout");

/// Row, returned expression (or statements that end in a `throw` or `return`), and expected answer.
const RESULTS: &[(&str, &str, Expect)] = &[
    ("V1", "undefined", Says("null")),
    ("V1", "null", Says("null")),
    ("V1", "NaN", Says("null")),
    ("V1", "-0", Says("0")),
    ("V1", "Infinity", Says("null")),
    ("V1", "1n", Says("\"1\"")),
    ("V1", "Symbol('x')", NOT_JSON),
    ("V1", "() => 1", NOT_JSON),
    ("V1", "class {}", NOT_JSON),
    ("V1", "new Date(0)", Says("\"1970-01-01T00:00:00.000Z\"")),
    ("V1", "new Date(NaN)", Says("null")),
    ("V1", "new Map([[1, 2]])", Says("[[1,2]]")),
    ("V1", "new Set([1])", Says("[1]")),
    ("V1", "new Uint8Array([1, 2])", Says("[1,2]")),
    ("V1", "new ArrayBuffer(2)", Says("[0,0]")),
    (
        "V1",
        "new Uint8Array(1 << 26)",
        Fails(500, "result_too_large"),
    ),
    (
        "V1",
        "new Error('x')",
        Says(r#"{"name":"Error","message":"x"}"#),
    ),
    ("V1", "[1, 2].values()", Says("[1,2]")),
    ("V1", "(function* () { yield 1 })()", Says("[1]")),
    ("V1", "(async function* () { yield 1 })()", Says("[1]")),
    (
        "V1",
        "(function* () { for (;;) yield 1 })()",
        Fails(500, "result_too_large"),
    ),
    (
        "V1",
        "(async function* () { for (;;) yield 1 })()",
        Any(&[TIMEOUT, Fails(500, "result_too_large")]),
    ),
    (
        "V1",
        "({ __proto__: Iterator.prototype, next() { throw 1 } })",
        NOT_JSON,
    ),
    (
        "V1",
        "({ __proto__: Iterator.prototype, next: () => ({ value: 'x'.repeat(1e4) }) })",
        Fails(500, "result_too_large"),
    ),
    (
        "V1",
        "({ __proto__: Map.prototype, [Symbol.toStringTag]: 'Map' })",
        Says("{}"),
    ),
    (
        "V1",
        "({ get [Symbol.toStringTag]() { throw 1 }, __proto__: {} })",
        NOT_JSON,
    ),
    ("V1", "/x/", Says("{}")),
    ("V1", "{ const x = {}; x.x = x; return x }", NOT_JSON),
    ("V1", "new Proxy({ a: 1 }, {})", Says(r#"{"a":1}"#)),
    ("V1", "new Proxy({}, { ownKeys() { throw 1 } })", NOT_JSON),
    ("V1", "({ get a() { throw new Error('x') } })", NOT_JSON),
    ("V1", "({ toJSON() { throw new Error('x') } })", NOT_JSON),
    ("V1", "({ toJSON() { return 7 } })", Says("7")),
    ("V1", "({ toJSON() {} })", Says("null")),
    (
        "V1",
        "[undefined, () => 1, Symbol()]",
        Says("[null,null,null]"),
    ),
    ("V1", "({ a: undefined, b: () => 1 })", Says("{}")),
    ("V1", "[1n]", Says("[\"1\"]")),
    ("V1", "[,1]", Says("[null,1]")),
    ("V1", "document", SaysNot("0")),
    (
        "V1",
        "window",
        Any(&[NOT_JSON, Fails(500, "result_too_large")]),
    ),
    ("V1", "new Number(3)", Says("3")),
    ("V1", "Object.create(null)", Says("{}")),
    (
        "V2",
        "'\\u2028\\u0000\\ufeff'",
        Says("\"\\u2028\\u0000\\ufeff\""),
    ),
    ("V2", "{ throw new Error('\\ud800 x') }", THROWS),
    ("V3", "{ throw null }", THROWS),
    ("V3", "{ throw undefined }", THROWS),
    ("V3", "{ throw Symbol('x') }", THROWS),
    (
        "V3",
        "{ throw new Proxy({}, { get() { throw 1 }, getPrototypeOf() { throw 1 } }) }",
        THROWS,
    ),
    ("V3", "{ throw { toString() { throw 1 } } }", THROWS),
    ("V3", "{ throw { get message() { throw 1 } } }", THROWS),
    ("V3", "{ throw new Error('x'.repeat(1e8)) }", THROWS),
    ("V3", "{ throw Object.create(null) }", THROWS),
    ("V3", "{ throw 1n }", THROWS),
    ("V3", "{ const x = {}; x.x = x; throw x }", THROWS),
    (
        "V3",
        "{ let a = []; for (let i = 0; i < 50; i++) a = [a, a]; throw a }",
        THROWS,
    ),
    (
        "V3",
        "{ let a = new Error('x'.repeat(1e7)); for (let i = 0; i < 1e4; i++) a = new Error('x'.repeat(1e7), { cause: a }); throw a }",
        THROWS,
    ),
    (
        "V3",
        "{ throw new Proxy(new Error('x'), { get: (_, k) => k === 'message' ? 'm' : new Proxy({}, { get() { throw 1 } }) }) }",
        THROWS,
    ),
    (
        "V3",
        "{ throw { message: 'm', errors: new Proxy([], { get() { throw 1 } }) } }",
        THROWS,
    ),
    ("V4", "({ then() { throw new Error('x') } })", THROWS),
    ("V4", "({ then(yes) { yes(1); yes(2) } })", Says("1")),
    ("V4", "({ then(yes, no) { no(1); yes(2) } })", THROWS),
    ("V4", "({ then() {} })", TIMEOUT),
    (
        "V4",
        "{ const x = { then(yes) { yes(x) } }; return x }",
        Any(&[TIMEOUT, THROWS]),
    ),
    (
        "V4",
        "{ let yes; const x = new Promise((r) => { yes = r }); yes(x); return x }",
        THROWS,
    ),
    ("V4", "({ then: 7 })", Says(r#"{"then":7}"#)),
    ("V4", "({ get then() { throw new Error('x') } })", THROWS),
];

/// Results whose text `serde_json` cannot represent.
const RAW: &[(&str, &str, &str)] = &[
    ("V2", "'\\ud800'", r#"{"data":"\ud800"}"#),
    ("V2", "({ '\\udfff': 1 })", r#"{"data":{"\udfff":1}}"#),
];

/// Names that are not endpoints.
const METHODS: [&str; 9] = [
    "__proto__",
    "constructor",
    "then",
    "toString",
    "__defineGetter__",
    "hasOwnProperty",
    "%00",
    "%F0%9F%92%A9",
    "x%2F..%2F..",
];

/// Arguments as they are sent, and what the contract receives.
const ARGUMENTS: &[(&str, &str, &str)] = &[
    (
        r#"{"__proto__":{"x":1}}"#,
        "[Object.keys(a), a.x === undefined, ({}).x === undefined]",
        r#"[["__proto__"],true,true]"#,
    ),
    (
        r#"{"constructor":1,"toString":2,"then":3}"#,
        "[a.constructor, a.toString, a.then]",
        "[1,2,3]",
    ),
    (r#"{"a":1,"a":2}"#, "a", r#"{"a":2}"#),
    ("1e999", "String(a)", "\"Infinity\""),
    ("-1e999", "String(a)", "\"-Infinity\""),
    ("9007199254740993", "String(a)", "\"9007199254740992\""),
    (
        "18446744073709551616",
        "String(a)",
        "\"18446744073709552000\"",
    ),
    (
        r#""\u0000\u2028\ufeff""#,
        "[a.length, a.charCodeAt(0), a.charCodeAt(1), a.charCodeAt(2)]",
        "[3,0,8232,65279]",
    ),
    ("\"\u{2028}\u{2029}\"", "a.length", "2"),
    (r#""\ud800""#, "a.charCodeAt(0)", "55296"),
    (
        r#"{"\ud800":1}"#,
        "Object.keys(a)[0].charCodeAt(0)",
        "55296",
    ),
    ("-0", "Object.is(a, -0)", "true"),
    (" \n[ 1 , 2 ] ", "a", "[1,2]"),
];

/// Runs the group.
pub(crate) async fn run(target: &mut AttackFarm) {
    results(target).await;
    names(target).await;
    methods(target).await;
    arguments(target).await;
}

fn endpoint(index: usize, body: &str) -> String {
    let body = if body.starts_with('{') {
        body.to_owned()
    } else {
        format!("{{ return ({body}) }}")
    };
    format!("e{index}() {body}")
}

/// One contract returns every result of a row. It must survive unless it hangs.
async fn results(target: &mut AttackFarm) {
    for row in ["V1", "V2", "V3", "V4"] {
        let of_row: Vec<_> = RESULTS.iter().filter(|result| result.0 == row).collect();
        let endpoints = of_row
            .iter()
            .enumerate()
            .map(|(n, result)| endpoint(n, result.1));
        let source = format!("{{ {} }}", endpoints.collect::<Vec<_>>().join(", "));
        for (index, (_, value, expect)) in of_row.iter().enumerate() {
            target
                .case(row, value, Browser::Stays, async |farm| {
                    let client = farm.client();
                    // Loading the same contract again is a no-op: it stays loaded.
                    client.must_load(row, &source).await;
                    let answer = client.call(row, &format!("e{index}")).await;
                    expect.mismatch(&answer).map_or(Ok(shown(&answer)), Err)
                })
                .await;
        }
        target.client().unload(row).await.is_no_content();
    }
    for (row, value, expected) in RAW {
        target
            .case(row, value, Browser::Stays, async |farm| {
                let client = farm.client();
                client
                    .must_load("raw", &format!("{{ f: () => {value} }}"))
                    .await;
                let answer = client.call("raw", "f").await;
                client.unload("raw").await.is_no_content();
                (answer.status == 200 && answer.body == *expected)
                    .then(|| shown(&answer))
                    .ok_or_else(|| format!("expected {expected}, got {}", shown(&answer)))
            })
            .await;
    }
}

/// V2: a name that cannot be called is not an endpoint. The rest of the contract works.
async fn names(target: &mut AttackFarm) {
    const SOURCE: &str =
        "{ ['\\ud800']: () => 1, ['x\\udfff']: () => 2, ['\\u{1f4a9}']: () => 3, f: () => 4 }";
    target
        .case(
            "V2",
            "endpoints with lone surrogates",
            Browser::Stays,
            async |farm| {
                let client = farm.client();
                client.must_load("names", SOURCE).await;
                let endpoints = client.contract("names").await["endpoints"].clone();
                let answer = client.call("names", "f").await;
                // Percent-encoded surrogates, which UTF-8 does not allow.
                let lone = client.call("names", "%ED%A0%80").await;
                let pair = client.call("names", "%F0%9F%92%A9").await;
                client.unload("names").await.is_no_content();
                let fine = (answer.status, lone.status, pair.status) == (200, 400, 200)
                    && endpoints == serde_json::json!(["\u{1f4a9}", "f"]);
                let seen = format!("{endpoints}; {}, {}", shown(&lone), shown(&pair));
                if fine { Ok(seen) } else { Err(seen) }
            },
        )
        .await;
}

async fn methods(target: &mut AttackFarm) {
    let client = target.client().clone();
    client.must_load("plain", "{ f: () => 1 }").await;
    let long = "x".repeat(4000);
    for method in METHODS.into_iter().chain([long.as_str()]) {
        let name = format!("method {}", &method[..method.len().min(20)]);
        target
            .case("V5", &name, Browser::Stays, async |farm| {
                let answer = farm.client().call("plain", method).await;
                let refused = [
                    Fails(404, "endpoint_not_found"),
                    Fails(400, "invalid_request"),
                    Fails(404, "route_not_found"),
                ];
                let fine = refused
                    .iter()
                    .any(|expect| expect.mismatch(&answer).is_none());
                fine.then(|| shown(&answer)).ok_or_else(|| shown(&answer))
            })
            .await;
    }
    target
        .case("V5", "no method", Browser::Stays, async |farm| {
            let answer = farm.client().post_text("/execute/plain/", "").await;
            (answer.status == 404)
                .then(|| shown(&answer))
                .ok_or_else(|| shown(&answer))
        })
        .await;
    client.unload("plain").await.is_no_content();
}

async fn arguments(target: &mut AttackFarm) {
    for (argument, look, expected) in ARGUMENTS {
        target
            .case("V6", argument.trim(), Browser::Stays, async |farm| {
                let client = farm.client();
                client
                    .must_load("sees", &format!("{{ f: (a) => ({look}) }}"))
                    .await;
                let answer = client.post_text("/execute/sees/f", *argument).await;
                client.unload("sees").await.is_no_content();
                Says(expected)
                    .mismatch(&answer)
                    .map_or(Ok(shown(&answer)), Err)
            })
            .await;
    }
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    for (name, text, fine) in [
        ("depth 10,000", deep.as_str(), [200, 200, 200]),
        ("a byte order mark", "\u{feff}1", [400, 400, 400]),
        ("not UTF-8 escapes", "\"\\x41\"", [400, 400, 400]),
        ("two values", "1 2", [400, 400, 400]),
        ("NaN", "NaN", [400, 400, 400]),
        ("a comment", "1 // x", [400, 400, 400]),
    ] {
        target
            .case("V6", name, Browser::Stays, async |farm| {
                let client = farm.client();
                client.must_load("sees", "{ f: (a) => typeof a }").await;
                let answer = client.post_text("/execute/sees/f", text).await;
                client.unload("sees").await.is_no_content();
                fine.contains(&answer.status)
                    .then(|| shown(&answer))
                    .ok_or_else(|| shown(&answer))
            })
            .await;
    }
}
