//! What hostile schemas cost.

use super::*;

/// Schemas and values whose check would look at the value for hours.
fn costly_looks() -> Vec<(Value, Value)> {
    let both = json!({ "properties": { "a": { "$ref": "#" } } });
    let any = json!({ "not": { "anyOf": [{ "const": 1 }, { "$ref": "#/properties/a" }] } });
    let strings: Vec<_> = (0..4000).map(|index| format!("v{index}")).collect();
    let lists: Vec<_> = (0..900).map(|index| json!([index])).collect();
    let list: Vec<_> = (0..5000).collect();
    let equal = vec![json!({ "$ref": "#/$defs/a" }); 400];
    vec![
        (
            json!({ "allOf": [both.clone(), both], "type": "object" }),
            nested(60, json!(1)),
        ),
        (
            json!({ "properties": { "a": { "properties": { "a": any } } } }),
            nested(100, json!(2)),
        ),
        (
            json!({ "items": { "enum": strings } }),
            json!(vec!["v3999"; 100_000]),
        ),
        (
            json!({ "items": { "enum": lists } }),
            json!(vec![[899]; 100_000]),
        ),
        (
            json!({ "items": { "anyOf": vec![json!({ "const": 1 }); 900] } }),
            json!(vec![2; 500_000]),
        ),
        (
            json!({ "uniqueItems": true }),
            json!(vec![json!({ "x": [1] }); 60_000]),
        ),
        // Each comparison goes through the whole list.
        (
            json!({ "items": { "allOf": equal }, "$defs": { "a": { "const": [list] } } }),
            json!(vec![[list]; 100]),
        ),
        // Each violation names all elements.
        (
            json!({ "allOf": vec![json!({ "unevaluatedItems": false }); 400] }),
            json!(vec!["x".repeat(1000); 5000]),
        ),
    ]
}

/// Schemas and values whose regular expressions would take minutes.
fn costly_texts() -> Vec<(Value, Value)> {
    let names = (0..100_000).map(|index| (format!("{index}{}", "x".repeat(99)), json!(1)));
    let text = json!("x".repeat(1 << 20));
    vec![
        (json!({ "pattern": "(x+x+)+y" }), text.clone()),
        (json!({ "pattern": "(a|b|x)*f.{60}g" }), text.clone()),
        (json!({ "pattern": "[ax].{60}[bx].{60}[cx]y" }), text),
        (
            json!({ "pattern": "^(([a-z])+.)+[A-Z]([a-z])+$" }),
            json!("a".repeat(1 << 20)),
        ),
        (
            json!({ "items": { "pattern": "(x{1,30}){1,20}y" } }),
            json!(vec!["x".repeat(1000); 1000]),
        ),
        (
            json!({ "patternProperties": { "(x{1,30}){1,20}y": false } }),
            Value::Object(names.collect()),
        ),
    ]
}

/// Such as are small enough to be checked between other calls.
fn costly_at_once() -> Vec<(Value, Value)> {
    let list: Vec<u32> = (0..3000).collect();
    let equal = vec![json!({ "$ref": "#/$defs/a" }); 800];
    vec![
        (
            json!({ "pattern": "(x{1,30}){1,20}y" }),
            json!("x".repeat(16_000)),
        ),
        (
            json!({ "items": { "pattern": "(x{1,30}){1,20}y" } }),
            json!(vec!["x".repeat(100); 150]),
        ),
        (
            json!({ "allOf": equal, "$defs": { "a": { "const": list } } }),
            json!(list),
        ),
        (
            json!({ "items": { "anyOf": vec![json!({ "const": 1 }); 800] } }),
            json!(vec![2; 7000]),
        ),
    ]
}

fn ends_within(limit: Duration, cases: Vec<(Value, Value)>, check: Checking) {
    for (schema, value) in cases {
        let schemas = compiled(&schema).unwrap_or_else(|error| panic!("{schema:.100}: {error}"));
        let value = value.to_string();
        let (ended, took) = timed(|| check(schemas.argument("a").unwrap(), &value));
        let shown = format!("{took:?}: {schema:.100} {ended:.100?}");
        assert!(took < limit, "{shown}");
        eprintln!("{shown}");
    }
}

type Checking = fn(&Check, &str) -> Result<(), Rejection>;

#[test]
fn checks_that_look_too_often_are_given_up() {
    ends_within(Duration::from_secs(2), costly_looks(), Check::check);
}

#[test]
fn checks_with_costly_regular_expressions_are_given_up() {
    ends_within(Duration::from_secs(2), costly_texts(), Check::check);
}

#[test]
fn quick_checks_are_given_up_at_once() {
    let limit = Duration::from_millis(50);
    ends_within(limit, costly_at_once(), Check::check_quickly);
}
