//! Loading, calling and unloading contracts: forms, arguments, results, state, listing.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use crate::support::client::Client;
use crate::support::farm::Farm;
use crate::support::wait::{self, DEFAULT_LIMIT};

const ECHO: &str = "{ echo: (a) => a, kind: (a) => typeof a, given: (...all) => all.length }";

const COUNTER: &str = "
let total = 0;
function add(number) { total += number; return total }
function value() { return total }
function init() { return { add, value } }
";

#[tokio::test]
async fn a_contract_is_loaded_called_and_unloaded() {
    let farm = Farm::start().await;
    let client = farm.client();
    client
        .call("abcd", "echo")
        .await
        .error(404, "contract_not_loaded");
    client.must_load("abcd", ECHO).await;
    assert_eq!(
        client
            .execute("abcd", "echo", &json!({"a": [1]}))
            .await
            .data(),
        json!({"a": [1]})
    );
    client.unload("abcd").await.is_no_content();
    client
        .call("abcd", "echo")
        .await
        .error(404, "contract_not_loaded");
    // The contract is already unloaded. A second unload is a no-op and succeeds.
    client.unload("abcd").await.is_no_content();
    client.must_load("abcd", ECHO).await;
    assert_eq!(
        client.execute("abcd", "echo", &json!(2)).await.data(),
        json!(2)
    );
    farm.stop().await;
}

#[tokio::test]
async fn every_form_of_executable_is_accepted() {
    let farm = Farm::start().await;
    let forms = [
        "{ foo: (a) => a + 1 }",
        "  { foo: (a) => a + 1 } ;\n",
        "// An object, after a comment.\n{ foo(a) { return a + 1 } } // and before one",
        "function foo(a) { return a + 1 }\nfunction init() { return { foo } }",
        "const one = 1; const init = () => ({ foo: (a) => a + one });",
        "'use strict'; const foo = async (a) => a + 1; function init() { return { foo, b: 3 } }",
    ];
    for (number, form) in forms.into_iter().enumerate() {
        for (coding, executable) in [("plain", form.to_owned()), ("base64", BASE64.encode(form))] {
            let address = format!("{coding}-{number}");
            let loaded = farm.client().load(&address, &executable).await;
            assert_eq!(loaded.status, 204, "{form}: {loaded:?}");
            let data = farm
                .client()
                .execute(&address, "foo", &json!(41))
                .await
                .data();
            assert_eq!(data, 42, "{form}");
            assert_eq!(
                farm.client().contract(&address).await["endpoints"],
                json!(["foo"])
            );
        }
    }
    farm.stop().await;
}

/// Sends JSON text and checks that exactly the same text is returned.
async fn echoes(client: &Client, text: &str) {
    let answer = client.post_text("/execute/echo/echo", text).await;
    assert_eq!(answer.status, 200, "{text:.200}: {answer:?}");
    assert_eq!(answer.body, format!("{{\"data\":{text}}}"));
}

#[tokio::test]
async fn any_json_value_is_an_argument() {
    let farm = Farm::start().await;
    let client = farm.client();
    client.must_load("echo", ECHO).await;
    let nested = "[".repeat(1000) + &"]".repeat(1000);
    // Too large for a queue frame, but within the limits of a body and a result.
    let large = format!("\"{}\"", "ä".repeat(300_000));
    let texts = [
        "null",
        "true",
        "0",
        "-1.5",
        "1e+300",
        "\"\"",
        "[]",
        "{}",
        r#""\"\\\u0001\n""#,
        "\"ä € 😀 \u{2028} </script> ${x} `\"",
        r#""\ud800""#,
        r#"{"__proto__":{"a":1},"constructor":2,"toString":3}"#,
        r#"{"then":1,"data":null,"error":"no"}"#,
        &nested,
        &large,
    ];
    for text in texts {
        echoes(client, text).await;
    }
    farm.stop().await;
}

#[tokio::test]
async fn a_call_without_a_body_receives_an_empty_object() {
    let farm = Farm::start().await;
    let client = farm.client();
    client.must_load("echo", ECHO).await;
    assert_eq!(client.call("echo", "echo").await.data(), json!({}));
    assert_eq!(client.call("echo", "given").await.data(), 1);
    assert_eq!(
        client.execute("echo", "kind", &Value::Null).await.data(),
        "object"
    );
    assert_eq!(
        client.execute("echo", "given", &Value::Null).await.data(),
        1
    );
    let empty = client.post_text("/execute/echo/echo", "").await;
    assert_eq!(empty.data(), json!({}));
    client
        .must_load("apart", "{ greet: ({ name = 'you' }) => `hello ${name}` }")
        .await;
    assert_eq!(client.call("apart", "greet").await.data(), "hello you");
    farm.stop().await;
}

#[tokio::test]
async fn a_result_is_converted_to_json() {
    let farm = Farm::start().await;
    let client = farm.client();
    let executable = "{
        nothing: () => {},
        infinite: () => [NaN, Infinity, -0],
        date: () => new Date(0),
        sparse: () => ({ a: undefined, b: () => 1, c: [undefined] }),
        own: () => ({ toJSON: () => 'mine' }),
        big: async () => ({ a: [2n ** 64n] }),
        map: () => new Map([['a', new Set([1])]]),
        bytes: () => new Uint8Array([1, 2]),
        generated: function* () { yield 1; yield 2 },
        streamed: async function* () { yield 1; yield 2 },
    }";
    client.must_load("results", executable).await;
    let expected = [
        ("nothing", json!(null)),
        ("infinite", json!([null, null, 0])),
        ("date", json!("1970-01-01T00:00:00.000Z")),
        ("sparse", json!({"c": [null]})),
        ("own", json!("mine")),
        ("big", json!({"a": ["18446744073709551616"]})),
        ("map", json!([["a", [1]]])),
        ("bytes", json!([1, 2])),
        ("generated", json!([1, 2])),
        ("streamed", json!([1, 2])),
    ];
    for (method, data) in expected {
        assert_eq!(
            client.call("results", method).await.data(),
            data,
            "{method}"
        );
    }
    farm.stop().await;
}

#[tokio::test]
async fn a_promise_is_awaited_without_blocking_other_calls() {
    let farm = Farm::start().await;
    let client = farm.client();
    let executable = "
        let release;
        const gate = new Promise((resolve) => { release = resolve });
        let waiting = 0;
        const init = () => ({
            hold: (a) => { waiting += 1; return gate.then((word) => [a, word]) },
            waiting: () => waiting,
            release: (word) => { release(word) },
            thenable: () => ({ then: (resolve) => resolve(Promise.resolve(7)) }),
        });";
    client.must_load("gate", executable).await;
    let held = tokio::spawn({
        let client = client.clone();
        async move { client.execute("gate", "hold", &json!("me")).await }
    });
    wait::until_true("the call to wait for the gate", DEFAULT_LIMIT, async || {
        client.call("gate", "waiting").await.data() == 1
    })
    .await;
    assert_eq!(
        client
            .execute("gate", "release", &json!("open"))
            .await
            .data(),
        json!(null)
    );
    assert_eq!(held.await.unwrap().data(), json!(["me", "open"]));
    assert_eq!(client.call("gate", "thenable").await.data(), 7);
    farm.stop().await;
}

#[tokio::test]
async fn state_lasts_between_calls_and_is_private_to_its_contract() {
    let farm = Farm::start().await;
    let client = farm.client();
    client.must_load("one", COUNTER).await;
    client.must_load("two", COUNTER).await;
    for total in [5, 10, 15] {
        assert_eq!(client.execute("one", "add", &json!(5)).await.data(), total);
    }
    assert_eq!(client.call("two", "value").await.data(), 0);

    let global = "{ set: (a) => { globalThis.mark = a }, get: () => typeof globalThis.mark }";
    client.must_load("three", global).await;
    client.must_load("four", global).await;
    client.execute("three", "set", &json!("seen")).await.data();
    assert_eq!(client.call("three", "get").await.data(), "string");
    assert_eq!(client.call("four", "get").await.data(), "undefined");

    // Unloading ends the state.
    client.unload("one").await.is_no_content();
    client.must_load("one", COUNTER).await;
    assert_eq!(client.call("one", "value").await.data(), 0);
    farm.stop().await;
}

#[tokio::test]
async fn an_address_is_the_same_in_upper_and_lower_case() {
    let farm = Farm::start().await;
    let client = farm.client();
    let longest = "a".repeat(128);
    for address in ["AbC.1_2:3-4", &longest] {
        client.must_load(address, ECHO).await;
        let (upper, lower) = (address.to_ascii_uppercase(), address.to_ascii_lowercase());
        assert_eq!(client.execute(&upper, "echo", &json!(1)).await.data(), 1);
        assert_eq!(client.execute(&lower, "echo", &json!(1)).await.data(), 1);
        assert_eq!(
            client.contract(&upper).await["contractAddress"],
            lower.as_str()
        );
        client.unload(&upper).await.is_no_content();
        client
            .call(&lower, "echo")
            .await
            .error(404, "contract_not_loaded");
    }
    farm.stop().await;
}

#[tokio::test]
async fn loaded_contracts_are_listed() {
    let farm = Farm::start().await;
    let client = farm.client();
    assert_eq!(client.contracts().await, Vec::<Value>::new());
    client
        .get("/contracts/abcd")
        .await
        .error(404, "contract_not_loaded");
    client
        .must_load(
            "abcd",
            "{ works: () => 1, fails: () => { throw new Error() } }",
        )
        .await;
    client.must_load("other", ECHO).await;
    for _ in 0..3 {
        client.call("abcd", "works").await.data();
    }
    client
        .call("abcd", "fails")
        .await
        .error(500, "execution_failed");
    // The counters are updated shortly after the answers.
    let contract = wait::until("the calls to be counted", DEFAULT_LIMIT, async || {
        Some(client.contract("abcd").await).filter(|contract| contract["calls"] == 4)
    })
    .await;
    assert_eq!(contract["contractAddress"], "abcd");
    assert_eq!(contract["engine"], "javascript");
    assert_eq!(contract["state"], "ready");
    assert_eq!(contract["endpoints"], json!(["works", "fails"]));
    assert_eq!(contract["queueDepth"], 0);
    assert_eq!(contract["errors"], 1);
    assert!(
        contract["generation"]
            .as_u64()
            .is_some_and(|generation| generation > 0)
    );
    assert!(
        contract["host"]
            .as_str()
            .is_some_and(|host| !host.is_empty())
    );
    assert_eq!(contract["digest"].as_str().map(str::len), Some(64));

    let mut listed: Vec<String> = client
        .contracts()
        .await
        .iter()
        .map(|contract| contract["contractAddress"].as_str().unwrap().to_owned())
        .collect();
    listed.sort();
    assert_eq!(listed, ["abcd", "other"]);
    farm.stop().await;
}

#[tokio::test]
async fn the_examples_load_as_contracts() {
    let farm = Farm::start().await;
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "js") {
            let executable = std::fs::read_to_string(&path).unwrap();
            let address = path.file_stem().unwrap().to_str().unwrap();
            let loaded = farm.client().load(address, &executable).await;
            assert_eq!(loaded.status, 204, "{address}: {loaded:?}");
            count += 1;
        }
    }
    assert!(count >= 3, "only {count} examples");
    farm.stop().await;
}
