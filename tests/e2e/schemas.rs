//! Contracts whose arguments and results are checked by JSON Schemas.

use serde_json::{Value, json};

use crate::support::client::{Answer, Client};
use crate::support::farm::Farm;

const ADD: &str = "{
    calls: 0,
    add(pair) { this.calls += 1; return pair.text ?? pair.a + pair.b },
    count() { return this.calls },
}";

fn schemas() -> Value {
    json!({
        "add": {
            "argument": {
                "type": "object",
                "properties": { "a": { "$ref": "#/$defs/number" }, "b": { "$ref": "#/$defs/number" } },
                "required": ["a", "b"],
                "$defs": { "number": { "type": "number" } },
            },
            "result": { "type": "number", "maximum": 100 },
        },
    })
}

async fn load(client: &Client, address: &str, executable: &str, schemas: &Value) -> Answer {
    let body = json!({
        "contractAddress": address,
        "executable": executable,
        "schemas": schemas,
    });
    client.post("/loadSmartContract", &body).await
}

/// The paths of the violations in an answer, in their order.
fn paths(error: &Value) -> Vec<&str> {
    let errors = error["errors"].as_array().expect("there are violations");
    let mut paths: Vec<_> = errors
        .iter()
        .filter_map(|each| each["path"].as_str())
        .collect();
    paths.sort_unstable();
    paths
}

#[tokio::test]
async fn arguments_and_results_are_checked() {
    let farm = Farm::start().await;
    let client = farm.client();
    load(client, "abcd", ADD, &schemas()).await.is_no_content();
    let good = json!({ "a": 1, "b": 2 });
    assert_eq!(client.execute("abcd", "add", &good).await.data(), 3);

    let wrong = client
        .execute("abcd", "add", &json!({ "a": "secret" }))
        .await;
    let error = wrong.error(422, "argument_invalid");
    assert_eq!(error["started"], false, "{error}");
    assert_eq!(paths(&error), ["", "/a"], "{error}");
    assert!(!error.to_string().contains("secret"), "{error}");
    let missing = client
        .call("abcd", "add")
        .await
        .error(422, "argument_invalid");
    assert_eq!(paths(&missing), ["", ""], "{missing}");
    // A larger argument is stored beside its call.
    let large = json!({ "a": 1, "b": "x".repeat(100_000) });
    let error = client
        .execute("abcd", "add", &large)
        .await
        .error(422, "argument_invalid");
    assert_eq!(paths(&error), ["/b"], "{error}");
    let large = json!({ "a": 1, "b": 1, "more": "x".repeat(100_000) });
    assert_eq!(client.execute("abcd", "add", &large).await.data(), 2);
    // None of the refused calls was started.
    assert_eq!(client.call("abcd", "count").await.data(), 2);

    let text = json!({ "a": 1, "b": 1, "text": "x" });
    let error = client
        .execute("abcd", "add", &text)
        .await
        .error(500, "result_invalid");
    assert_eq!(paths(&error), [""], "{error}");
    assert_eq!(error.get("started"), None, "{error}");
    let rejected = client.execute("abcd", "add", &text).await;
    assert!(rejected.header("server-timing").is_some(), "{rejected:?}");
    let many = client
        .execute("abcd", "add", &json!({ "a": 99, "b": 2 }))
        .await;
    many.error(500, "result_invalid");
    assert_eq!(client.call("abcd", "count").await.data(), 5);
    farm.stop().await;
}

#[tokio::test]
async fn a_check_changes_no_number() {
    const NUMBERS: &str = "[0.1, 1.0, 1e2, -0.0, 1e-7, 2.0030397744267762e-253, 31.245270191439438, \
        7.101215824554616e260, 12345678901234567890, 1e21, 5e-324, 1.7976931348623157e308]";
    let farm = Farm::start().await;
    let client = farm.client();
    let contract = "{ f: (a) => a }";
    client.must_load("without", contract).await;
    let list = json!({ "items": { "type": "number" } });
    let schemas = json!({ "f": { "argument": list, "result": list } });
    load(client, "with", contract, &schemas)
        .await
        .is_no_content();
    let without = client.post_text("/execute/without/f", NUMBERS).await;
    let with = client.post_text("/execute/with/f", NUMBERS).await;
    assert_eq!((without.status, with.status), (200, 200), "{with:?}");
    assert_eq!(without.body, with.body);
    assert!(with.body.contains("2.0030397744267762e-253"), "{with:?}");
    // The schemas themselves are read by the api, and written again.
    let body = r#"{"contractAddress": "with", "executable": "{ f: (a) => a }",
        "schemas": {"f": {"argument": {"enum": [2.0030397744267762e-253, 31.245270191439438]}}}}"#;
    client
        .post_text("/loadSmartContract", body)
        .await
        .is_no_content();
    let shown = client.get("/contracts/with").await;
    let list = "[2.0030397744267762e-253,31.245270191439438]";
    assert!(shown.body.contains(list), "{shown:?}");
    farm.stop().await;
}

#[tokio::test]
async fn a_contract_brings_its_own_schemas() {
    let farm = Farm::start().await;
    let client = farm.client();
    let own = "{
        schemas: { twice: { argument: { type: 'number' }, result: { type: 'number' } } },
        twice: (n) => 2 * n,
    }";
    client.must_load("own", own).await;
    assert_eq!(client.execute("own", "twice", &json!(4)).await.data(), 8);
    client
        .execute("own", "twice", &json!("4"))
        .await
        .error(422, "argument_invalid");
    let shown = client.contract("own").await;
    assert_eq!(shown["endpoints"], json!(["twice"]), "{shown}");
    assert_eq!(
        shown["schemas"]["twice"]["argument"]["type"], "number",
        "{shown}"
    );
    // Those of the load come first.
    let of_load = json!({ "twice": { "argument": { "type": "string" } } });
    load(client, "own", own, &of_load).await.is_no_content();
    client
        .execute("own", "twice", &json!(4))
        .await
        .error(422, "argument_invalid");
    assert_eq!(client.contract("own").await["schemas"], of_load);

    for (schemas, reason) in [
        ("{ a: { argument: { type: 'sum' } } }", "a.argument/type"),
        (
            "{ a: { argument: { $ref: 'http://127.0.0.1/' } } }",
            "a.argument/$ref",
        ),
        ("{ a: 1 }", "must be {"),
        ("'x'.repeat(1 << 17).split('')", "at most"),
    ] {
        let refused = client
            .load("bad", &format!("{{ a() {{}}, schemas: {schemas} }}"))
            .await;
        let text = refused.error_text(422, "invalid_executable");
        assert!(text.contains(reason), "{text}");
    }
    assert_eq!(client.contracts().await.len(), 1);
    farm.stop().await;
}

#[tokio::test]
async fn every_api_checks_by_the_schemas_of_the_last_load() {
    let farm = Farm::builder().apis(2).workers(2).start().await;
    let (one, other) = (&farm.clients[0], &farm.clients[1]);
    let number = json!({ "f": { "argument": { "type": "number" } } });
    let text = json!({ "f": { "argument": { "type": "string" } } });
    let contract = "{ f: (a) => a }";
    for round in 0..3 {
        load(one, "abcd", contract, &number).await.is_no_content();
        assert_eq!(
            other.execute("abcd", "f", &json!(round)).await.data(),
            round
        );
        other
            .execute("abcd", "f", &json!("x"))
            .await
            .error(422, "argument_invalid");
        load(one, "abcd", contract, &text).await.is_no_content();
        assert_eq!(other.execute("abcd", "f", &json!("x")).await.data(), "x");
        one.must_load("abcd", contract).await;
        assert_eq!(
            other.execute("abcd", "f", &json!([])).await.data(),
            json!([])
        );
        assert_eq!(other.contract("abcd").await.get("schemas"), None);
    }
    farm.stop().await;
}

#[tokio::test]
async fn schemas_survive_their_worker_and_a_restart_of_the_page() {
    let mut farm = Farm::start().await;
    let client = farm.client().clone();
    let contract = "{ f: (a) => a, spin() { for (;;); } }";
    let schemas = json!({ "f": { "argument": { "type": "number" } } });
    load(&client, "abcd", contract, &schemas)
        .await
        .is_no_content();
    client
        .call("abcd", "spin")
        .await
        .error(504, "execution_timeout");
    client
        .execute("abcd", "f", &json!("x"))
        .await
        .error(422, "argument_invalid");
    assert_eq!(client.execute("abcd", "f", &json!(1)).await.data(), 1);
    farm.add_worker().await;
    farm.workers[0].kill().await;
    assert_eq!(client.execute("abcd", "f", &json!(2)).await.data(), 2);
    client
        .execute("abcd", "f", &json!("x"))
        .await
        .error(422, "argument_invalid");
    farm.stop_ignoring_keys().await;
}

#[tokio::test]
async fn a_contract_is_described_for_generators_of_clients() {
    let farm = Farm::start().await;
    let client = farm.client();
    load(client, "abcd", ADD, &schemas()).await.is_no_content();
    let answer = client.get("/contracts/abcd/openapi.json").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let document = answer.json();
    let add = &document["paths"]["/execute/abcd/add"]["post"];
    assert_eq!(add["operationId"], "add", "{document}");
    assert!(
        document["paths"]["/execute/abcd/count"]["post"].is_object(),
        "{document}"
    );
    let argument = add["requestBody"]["content"]["application/json"]["schema"]["$ref"].as_str();
    let pointer = argument
        .and_then(|reference| reference.strip_prefix('#'))
        .expect("a reference");
    let schema = document.pointer(pointer).expect("it leads somewhere");
    assert_eq!(schema["required"], json!(["a", "b"]));
    let missing = client.get("/contracts/other/openapi.json").await;
    missing.error(404, "contract_not_loaded");
    farm.stop().await;
}

#[tokio::test]
async fn schemas_that_are_refused_are_named() {
    let farm = Farm::start().await;
    let client = farm.client();
    for schemas in [
        json!("x"),
        json!({ "add": 1 }),
        json!({ "add": { "argument": { "type": "sum" } } }),
        json!({ "add": { "argument": { "$ref": "http://127.0.0.1:9/" } } }),
        json!({ "add": { "argument": { "description": "x".repeat(1 << 16) } } }),
    ] {
        let refused = load(client, "abcd", ADD, &schemas).await;
        let error = refused.error(400, "invalid_request");
        assert!(error["fields"]["schemas"].is_string(), "{error}");
    }
    assert!(client.contracts().await.is_empty());
    farm.stop().await;
}
