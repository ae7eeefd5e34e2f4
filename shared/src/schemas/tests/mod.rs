mod costs;

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use serde_json::{Map, Value, json};

use super::*;

fn compiled(schema: &Value) -> Result<Schemas, InvalidSchemas> {
    Schemas::compile(&json!({ "a": { "argument": schema } }).to_string())
}

fn check(schema: &Value, value: &Value) -> Result<(), Rejection> {
    let schemas = compiled(schema).unwrap_or_else(|error| panic!("{schema:.200}: {error}"));
    schemas.argument("a").unwrap().check(&value.to_string())
}

fn violations(schema: &Value, value: &Value) -> Vec<(String, String)> {
    match check(schema, value) {
        Err(Rejection::Violations(found)) => found
            .into_iter()
            .map(|each| (each.path, each.message))
            .collect(),
        other => panic!("{other:?}"),
    }
}

/// What something returns, and the processor time that it takes: other processes do not count.
fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let used = || Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap();
    let (begun, done) = (used(), work());
    (done, used().saturating_sub(begun))
}

/// Schemas `a0` to `aN`, each made of the next one, and `last`.
fn chain(length: usize, link: impl Fn(Value) -> Value, last: Value) -> Value {
    let reference = |index: usize| json!({ "$ref": format!("#/$defs/a{index}") });
    let mut defs: Map<String, Value> = (0..length)
        .map(|index| (format!("a{index}"), link(reference(index + 1))))
        .collect();
    defs.insert(format!("a{length}"), last);
    json!({ "$ref": "#/$defs/a0", "$defs": defs })
}

fn nested(depth: usize, innermost: Value) -> Value {
    (0..depth).fold(innermost, |inner, _| json!({ "a": inner }))
}

#[test]
fn every_violation_is_named_with_its_place() {
    let schema = json!({
        "type": "object",
        "properties": { "number1": { "type": "number" }, "list": { "items": { "minimum": 3 } } },
        "required": ["number1", "number2"],
    });
    assert_eq!(
        check(&schema, &json!({ "number1": 1, "number2": "any" })),
        Ok(())
    );
    let found = violations(&schema, &json!({ "number1": "secret", "list": [5, 2] }));
    let mut places: Vec<_> = found.iter().map(|(path, _)| path.as_str()).collect();
    places.sort_unstable();
    assert_eq!(places, ["", "/list/1", "/number1"]);
    let texts = format!("{found:?}");
    assert!(
        texts.contains("\\\"number2\\\" is a required property"),
        "{texts}"
    );
    assert!(texts.contains("is not of type \\\"number\\\""), "{texts}");
    assert!(
        !texts.contains("secret"),
        "values are not repeated: {texts}"
    );
}

#[test]
fn violations_are_bounded_in_number_and_bytes() {
    let schema = json!({ "additionalProperties": { "enum": ["x".repeat(5000)] } });
    let value: Map<String, Value> = (0..1000)
        .map(|index| (format!("{index}{}", "y".repeat(1000)), json!(1)))
        .collect();
    let found = violations(&schema, &value.into());
    assert_eq!(found.len(), 10);
    let bytes: usize = found
        .iter()
        .map(|(path, message)| path.len() + message.len())
        .sum();
    assert!(bytes < 5000, "{bytes}");
}

#[test]
fn methods_have_schemas_of_their_own() {
    let text = r#"{"a": {"argument": {"type": "number"}, "result": false}, "b": {"result": {}}}"#;
    let schemas = Schemas::compile(text).unwrap();
    assert!(schemas.argument("a").unwrap().check("1").is_ok());
    assert!(schemas.argument("a").unwrap().check_quickly("{}").is_err());
    assert!(schemas.result("a").unwrap().check("1").is_err());
    assert!(schemas.argument("b").is_none() && schemas.result("b").is_some());
    assert!(schemas.argument("c").is_none());
}

#[test]
fn what_is_no_schema_is_refused_with_its_place() {
    for (text, reason) in [
        ("[]", "must be {"),
        (r#"{"a": 1}"#, "must be {"),
        (r#"{"a": {"arguments": {}}}"#, "unknown field `arguments`"),
        (r#"{"a": {"argument": 1}}"#, "a.argument must be a schema"),
        (
            r#"{"a": {"argument": {"type": "sum"}}}"#,
            "a.argument/type: ",
        ),
        (
            r#"{"a": {"result": {"items": {"minimum": "x"}}}}"#,
            "a.result/items/minimum: ",
        ),
        (r#"{"a": {"argument": {"pattern": "("}}}"#, "a.argument"),
    ] {
        let error = Schemas::compile(text).unwrap_err().to_string();
        assert!(error.contains(reason), "{text}: {error}");
    }
}

#[test]
fn a_schema_refers_to_nothing_outside_itself() {
    for schema in [
        json!({ "$ref": "http://127.0.0.1:9/x.json" }),
        json!({ "$ref": "file:///etc/passwd" }),
        json!({ "$ref": "other.json#/a" }),
        json!({ "$ref": "#/enum/0", "enum": [{ "pattern": "(a+)+" }] }),
        json!({ "$ref": "#name" }),
        json!({ "$id": "http://127.0.0.1:9/", "$ref": "x" }),
        json!({ "items": { "$dynamicRef": "#a" } }),
        json!({ "$schema": "http://127.0.0.1:9/meta" }),
        json!({ "dependencies": { "a": { "$ref": "#" } } }),
        json!({ "dependencies": { "a": { "pattern": "a" } } }),
        json!({ "additionalItems": { "pattern": "a" }, "items": [] }),
    ] {
        assert!(compiled(&schema).is_err(), "{schema}");
    }
    let own = json!({ "$ref": "#/$defs/a~1b", "$defs": { "a/b": { "type": "number" } } });
    assert!(check(&own, &json!(1)).is_ok() && check(&own, &json!("1")).is_err());
    let version = json!({ "$schema": "https://json-schema.org/draft/2020-12/schema" });
    assert!(compiled(&version).is_ok());
}

#[test]
fn schemas_are_bounded_in_bytes_depth_and_number() {
    let deep = (0..40).fold(json!({}), |inner, _| json!({ "items": inner }));
    assert!(compiled(&deep).is_err());
    let wide = json!({ "allOf": vec![json!({}); 1000] });
    assert!(compiled(&wide).is_err());
    let long = json!({ "description": "x".repeat(TEXT_LIMIT) });
    assert!(compiled(&long).is_err());
    let patterns: Map<String, Value> = (0..101)
        .map(|index| (format!("a{index}"), json!({})))
        .collect();
    assert!(compiled(&json!({ "patternProperties": patterns })).is_err());
}

#[test]
fn schemas_that_explode_or_refer_to_themselves_are_refused() {
    // Without the rules this would not end.
    let twice = |next: Value| json!({ "allOf": [next.clone(), next] });
    for schema in [
        chain(60, twice, json!({})),
        chain(60, twice, json!({ "type": "number" })),
        chain(900, |next| next, json!({})),
        json!({ "$ref": "#" }),
        json!({ "not": { "$ref": "#" } }),
        json!({ "allOf": [{ "$ref": "#/$defs/a" }], "$defs": { "a": { "anyOf": [{ "$ref": "#" }] } } }),
    ] {
        let refused = compiled(&schema).unwrap_err().to_string();
        assert!(
            refused.contains("apply to one") || refused.contains("itself"),
            "{refused}"
        );
    }
    let through = |next: Value| json!({ "properties": { "a": next.clone(), "b": next } });
    assert!(compiled(&chain(190, through, json!({}))).is_ok());
    let tree = json!({ "type": "object", "additionalProperties": { "$ref": "#" } });
    assert!(check(&tree, &nested(60, json!({}))).is_ok());
    assert!(check(&tree, &nested(60, json!(1))).is_err());
}

#[test]
fn ordinary_schemas_of_large_arguments_are_checked() {
    let uuid = "^[0-9a-f]{8}-[0-9a-f]{4}-[1-5][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$";
    let schema = json!({
        "type": "array",
        "items": {
            "type": "object",
            "properties": {
                "id": { "type": "string", "pattern": uuid },
                "name": { "type": "string", "maxLength": 50 },
                "price": { "type": "number", "minimum": 0 },
                "tags": { "items": { "enum": ["a", "b", "c"] } },
            },
            "required": ["id", "price"],
            "additionalProperties": false,
        },
    });
    let item = json!({
        "id": "0b8ef3a2-a0e8-4ee4-9e50-a2a4c8ff25cf",
        "name": "an item",
        "price": 12.5,
        "tags": ["a", "c"],
    });
    let mut value = vec![item; 10_000];
    let (checked, took) = timed(|| check(&schema, &value.clone().into()));
    assert_eq!(checked, Ok(()));
    eprintln!("10,000 items: {took:?}");
    value[9_999]["price"] = json!(-1);
    assert_eq!(violations(&schema, &value.into())[0].0, "/9999/price");
}

#[test]
fn a_value_of_any_depth_does_not_overflow_the_stack() {
    let inside = |next: Value| json!({ "allOf": [next] });
    let deep = chain(
        30,
        inside,
        json!({ "properties": { "a": { "$ref": "#" } } }),
    );
    let schemas = compiled(&deep).unwrap();
    let value = nested(120, json!({})).to_string();
    // The stack of a thread that serves calls.
    let small = std::thread::Builder::new().stack_size(2 << 20);
    let ended = small
        .spawn(move || schemas.argument("a").unwrap().check(&value))
        .unwrap();
    assert!(matches!(
        ended.join().unwrap(),
        Ok(()) | Err(Rejection::TooCostly)
    ));
    assert!(matches!(
        check(&json!({}), &nested(200, json!(1))),
        Err(Rejection::Unreadable(_))
    ));
}

#[test]
fn regular_expressions_are_linear_and_small() {
    for pattern in ["((a{100}){100}){100}", "(?=a)b", "(a)\\1"] {
        let refused = compiled(&json!({ "pattern": pattern }));
        assert!(refused.is_err(), "{pattern}");
    }
    let long = json!({ "pattern": "a".repeat(501) });
    assert!(compiled(&long).is_err());
    let email = json!({ "pattern": "^[\\w.+-]+@[\\w-]+\\.[\\w.-]+$" });
    assert!(check(&email, &json!("a.b@c.example")).is_ok());
    assert!(check(&email, &json!("a.b")).is_err());
}

#[test]
fn a_check_between_calls_is_given_up_early() {
    let schemas = compiled(&json!({ "pattern": "a.*b" })).unwrap();
    let long = Value::from("a".repeat(1 << 20)).to_string();
    let ended = schemas.argument("a").unwrap().check_quickly(&long);
    assert_eq!(ended, Err(Rejection::TooCostly));
}
