//! Where a contract threw: the stacks of errors, in its executable or in the sources of that.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use crate::support::farm::Farm;

#[tokio::test]
async fn an_error_has_the_place_where_it_was_thrown() {
    let farm = Farm::start().await;
    let client = farm.client();
    let executable = "// A contract.
function withdraw(amount) {
  if (amount > 10) throw new Error('no funds');
}
class Account { take(amount) { return withdraw(amount) } }
function init() {
  return {
    take: (amount) => new Account().take(amount),
    later: async (amount) => { await null; withdraw(amount) },
    bare: () => { throw 1 },
  };
}";
    client.must_load("abcd", executable).await;
    let stack = async |method: &str| {
        let answer = client.execute("abcd", method, &json!(11)).await;
        assert_eq!(answer.status, 500, "{answer:?}");
        answer.json()["stack"].clone()
    };
    let expected = json!([
        {"function": "withdraw", "line": 3, "column": 26},
        {"function": "Account.take", "line": 5, "column": 39},
        {"function": "Object.take", "line": 8, "column": 37},
    ]);
    assert_eq!(stack("take").await, expected);
    let later = stack("later").await;
    assert_eq!(
        later[1],
        json!({"function": "Object.later", "line": 9, "column": 44})
    );
    assert_eq!(stack("bare").await, Value::Null);
    // An object literal, whose first line is moved in the page.
    client.must_load("abcd", "{ f(a) { return a.b.c } }").await;
    let answer = client.call("abcd", "f").await;
    let expected = json!([{"function": "Object.f", "line": 1, "column": 21}]);
    assert_eq!(answer.json()["stack"], expected);
    // Errors while loading have their place in the text.
    let loaded = client
        .load("abcd", "let a = 1;\nfunction init() { return b }")
        .await;
    let text = loaded.error_text(422, "invalid_executable");
    assert_eq!(text, "ReferenceError: b is not defined (line 2, column 19)");
    farm.stop().await;
}

/// Two functions in two lines, of which each is one line further down in `src/bank.ts`.
const MAPPED: &str = "var f = () => { throw new Error('x') };\nvar init = () => ({ f });";
const MAP: &str = r#"{"version":3,"sources":["src/bank.ts"],"names":[],"mappings":"AACA;AACA"}"#;

#[tokio::test]
async fn a_source_map_names_the_places_in_the_sources() {
    let farm = Farm::start().await;
    let client = farm.client();
    let inline = BASE64.encode(MAP);
    let inline = format!("{MAPPED}\n//# sourceMappingURL=data:application/json;base64,{inline}\n");
    let map: Value = serde_json::from_str(MAP).unwrap();
    let expected = json!([
        {"function": "Object.f", "line": 2, "column": 1, "source": "src/bank.ts"},
    ]);
    for body in [
        json!({"contractAddress": "inline", "executable": inline}),
        json!({"contractAddress": "beside", "executable": MAPPED, "sourceMap": map}),
        json!({"contractAddress": "text", "executable": MAPPED, "sourceMap": MAP}),
    ] {
        client
            .post("/loadSmartContract", &body)
            .await
            .is_no_content();
        let address = body["contractAddress"].as_str().unwrap();
        for _ in 0..2 {
            let answer = client.call(address, "f").await;
            assert_eq!(answer.error_text(500, "execution_failed"), "Error: x");
            assert_eq!(answer.json()["stack"], expected, "{address}");
        }
    }
    // A map that is none changes nothing.
    let body =
        json!({"contractAddress": "broken", "executable": MAPPED, "sourceMap": {"version": 3}});
    client
        .post("/loadSmartContract", &body)
        .await
        .is_no_content();
    let stack = client.call("broken", "f").await.json()["stack"].clone();
    assert_eq!(
        stack,
        json!([{"function": "Object.f", "line": 1, "column": 23}])
    );
    for wrong in [json!(1), json!("x"), json!([])] {
        let body = json!({"contractAddress": "wrong", "executable": MAPPED, "sourceMap": wrong});
        let answer = client.post("/loadSmartContract", &body).await;
        answer.error(400, "invalid_request");
    }
    farm.stop().await;
}

/// Maps that are large, or that take far more memory than their texts, or that are none. The error
/// is answered all the same, and the api goes on.
#[tokio::test]
async fn a_hostile_source_map_harms_nothing() {
    let farm = Farm::start().await;
    let client = farm.client();
    let map = |mappings: &str| {
        format!(r#"{{"version":3,"sources":["a"],"names":[],"mappings":"{mappings}"}}"#)
    };
    let large = map(&"A,".repeat(3_900_000));
    let lines = map(&";".repeat(8_000_000));
    let deep = format!(r#"{{"version":3,"sections":{}"#, "[".repeat(1_000_000));
    let numbers = map(&"gggggggggggggggggggggB".repeat(1000));
    for (name, map) in [
        ("large", large),
        ("lines", lines),
        ("deep", deep),
        ("numbers", numbers),
    ] {
        let map = BASE64.encode(map);
        let executable =
            format!("{MAPPED}\n//# sourceMappingURL=data:application/json;base64,{map}\n");
        client.must_load(name, &executable).await;
        for _ in 0..2 {
            let answer = client.call(name, "f").await;
            assert_eq!(
                answer.error_text(500, "execution_failed"),
                "Error: x",
                "{name}"
            );
            assert_eq!(answer.json()["stack"][0]["line"], 1, "{name}");
        }
    }
    let over = json!({"version": 3, "mappings": ";".repeat(9 << 20)});
    let body = json!({"contractAddress": "over", "executable": MAPPED, "sourceMap": over});
    let answer = client.post("/loadSmartContract", &body).await;
    answer.error(400, "invalid_request");
    client.must_load("fine", "{ f: () => 1 }").await;
    assert_eq!(client.call("fine", "f").await.data(), 1);
    farm.stop().await;
}

#[tokio::test]
async fn the_status_of_a_contract_has_its_memory_and_its_last_error() {
    let farm = Farm::start().await;
    let client = farm.client();
    let body = json!({
        "contractAddress": "abcd",
        "executable": MAPPED,
        "sourceMap": serde_json::from_str::<Value>(MAP).unwrap(),
    });
    client
        .post("/loadSmartContract", &body)
        .await
        .is_no_content();
    let before = client.contract("abcd").await;
    assert_eq!(before.get("lastError"), None, "{before}");
    let bytes = before["memoryBytes"].as_u64().expect("it has a page");
    assert!((1 << 20..1 << 30).contains(&bytes), "{before}");
    assert!(before["limits"]["timeoutMs"].is_number(), "{before}");
    client
        .call("abcd", "f")
        .await
        .error(500, "execution_failed");
    client
        .call("abcd", "none")
        .await
        .error(404, "endpoint_not_found");
    let error = client.contract("abcd").await["lastError"].clone();
    assert_eq!(error["method"], "f", "{error}");
    assert_eq!(
        (&error["code"], &error["error"]),
        (&json!("execution_failed"), &json!("Error: x"))
    );
    assert_eq!(error["stack"][0]["source"], "src/bank.ts", "{error}");
    assert!(
        error["at"]
            .as_u64()
            .is_some_and(|at| at > 1_700_000_000_000),
        "{error}"
    );
    assert_eq!(error.get("sourceMap"), None, "{error}");
    let listed = client.contracts().await;
    assert_eq!(listed[0].get("lastError"), None, "{listed:?}");
    farm.stop().await;
}
