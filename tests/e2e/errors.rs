//! Every error that a caller can receive, with its status and its code.

use reqwest::Method;
use reqwest::header::CONTENT_TYPE;
use serde_json::{Value, json};

use crate::support::client::{Client, send};
use crate::support::farm::Farm;

const CONTRACT: &str = "{ echo: (a) => a, other: () => 1 }";

/// Sends a body that must be refused because of `field`.
async fn refused(client: &Client, path: &str, body: Value, field: &str) {
    let answer = client.post(path, &body).await;
    let error = answer.error(400, "invalid_request");
    let reason = &error["fields"][field];
    assert!(
        reason.as_str().is_some_and(|text| !text.is_empty()),
        "{body}: {answer:?}"
    );
}

#[tokio::test]
async fn a_wrong_field_is_named() {
    let farm = Farm::start().await;
    let client = farm.client();
    let load = |address: Value, executable: Value| json!({ "contractAddress": address, "executable": executable });
    let path = "/loadSmartContract";
    refused(
        client,
        path,
        json!({ "executable": CONTRACT }),
        "contractAddress",
    )
    .await;
    refused(
        client,
        path,
        json!({ "contractAddress": "abcd" }),
        "executable",
    )
    .await;
    refused(
        client,
        path,
        load(json!(7), json!(CONTRACT)),
        "contractAddress",
    )
    .await;
    refused(client, path, load(json!("abcd"), json!({})), "executable").await;
    refused(client, path, load(json!("abcd"), json!("")), "executable").await;
    for address in [
        "",
        "a b",
        "a/b",
        "a*",
        "{a}",
        "ä",
        "a\u{0}",
        &"a".repeat(129),
    ] {
        refused(
            client,
            path,
            load(json!(address), json!(CONTRACT)),
            "contractAddress",
        )
        .await;
        let unload = json!({ "contractAddress": address });
        refused(client, "/unloadSmartContract", unload, "contractAddress").await;
    }
    refused(client, "/unloadSmartContract", json!({}), "contractAddress").await;
    assert_eq!(client.contracts().await, Vec::<Value>::new());
    farm.stop().await;
}

#[tokio::test]
async fn a_wrong_option_is_named() {
    let farm = Farm::start().await;
    let client = farm.client();
    for (field, value) in [
        ("engine", json!("perl")),
        ("engine", json!(1)),
        ("limits", json!("none")),
        ("limits", json!({ "timeoutMs": -1 })),
        ("limits", json!({ "timeoutMs": "2s" })),
        ("limits", json!({ "noSuchLimit": 1 })),
    ] {
        let mut body = json!({ "contractAddress": "abcd", "executable": CONTRACT });
        body[field] = value;
        refused(client, "/loadSmartContract", body, field).await;
    }
    assert_eq!(client.contracts().await, Vec::<Value>::new());
    farm.stop().await;
}

#[tokio::test]
async fn a_wrong_address_in_the_path_is_named() {
    let farm = Farm::start().await;
    let client = farm.client();
    let too_long = "a".repeat(129);
    for address in [
        "a%20b", "a%2Fb", "a*", "%7Ba%7D", "%C3%A4", "%FF", &too_long,
    ] {
        let answer = client.call(address, "echo").await;
        let error = answer.error(400, "invalid_request");
        assert!(
            error["fields"]["contractAddress"].is_string(),
            "{address}: {answer:?}"
        );
        let answer = client.get(&format!("/contracts/{address}")).await;
        let error = answer.error(400, "invalid_request");
        assert!(
            error["fields"]["contractAddress"].is_string(),
            "{address}: {answer:?}"
        );
    }
    farm.stop().await;
}

#[tokio::test]
async fn a_body_that_is_not_json_is_refused() {
    let farm = Farm::start().await;
    let client = farm.client();
    client.must_load("abcd", CONTRACT).await;
    for path in [
        "/loadSmartContract",
        "/unloadSmartContract",
        "/execute/abcd/echo",
    ] {
        for body in ["{", "{\"a\":}", "nul", "1 2", "'a'", "[1,]", "\"\n\""] {
            client
                .post_text(path, body)
                .await
                .error(400, "invalid_request");
        }
        let request = client
            .request(Method::POST, path)
            .header(CONTENT_TYPE, "application/json");
        send(request.body(vec![b'"', 0xff, b'"']))
            .await
            .error(400, "invalid_request");
    }
    for path in ["/loadSmartContract", "/unloadSmartContract"] {
        for body in ["", "[]", "\"text\"", "null"] {
            client
                .post_text(path, body)
                .await
                .error(400, "invalid_request");
        }
    }
    farm.stop().await;
}

#[tokio::test]
async fn missing_contracts_methods_and_paths_are_not_found() {
    let farm = Farm::start().await;
    let client = farm.client();
    let text = client
        .call("abcd", "echo")
        .await
        .error_text(404, "contract_not_loaded");
    assert_eq!(
        text,
        "Contract not loaded. Call /loadSmartContract and then try again"
    );
    client
        .get("/contracts/abcd")
        .await
        .error(404, "contract_not_loaded");

    client.must_load("abcd", CONTRACT).await;
    for method in [
        "missing",
        "constructor",
        "__proto__",
        "toString",
        "Echo",
        "%F0%9F%98%80",
    ] {
        let text = client
            .call("abcd", method)
            .await
            .error_text(404, "endpoint_not_found");
        assert!(text.contains("echo") && text.contains("other"), "{text}");
    }

    for path in [
        "/execute",
        "/execute/abcd",
        "/execute/abcd/echo/more",
        "/nothing",
    ] {
        client
            .post(path, &json!(1))
            .await
            .error(404, "route_not_found");
    }
    farm.stop().await;
}

#[tokio::test]
async fn a_wrong_method_or_media_type_is_refused() {
    let farm = Farm::start().await;
    let client = farm.client();
    for (method, path, allowed) in [
        (Method::GET, "/execute/abcd/echo", "POST"),
        (Method::GET, "/loadSmartContract", "POST"),
        (Method::PUT, "/unloadSmartContract", "POST"),
        (Method::DELETE, "/contracts/abcd", "GET"),
        (Method::POST, "/contracts", "GET"),
        (Method::POST, "/", "GET"),
    ] {
        let answer = send(client.request(method, path)).await;
        answer.error(405, "method_not_allowed");
        assert!(
            answer
                .header("allow")
                .is_some_and(|text| text.contains(allowed)),
            "{answer:?}"
        );
    }
    for path in [
        "/loadSmartContract",
        "/unloadSmartContract",
        "/execute/abcd/echo",
    ] {
        let request = client
            .request(Method::POST, path)
            .header(CONTENT_TYPE, "text/plain");
        send(request.body("{}"))
            .await
            .error(415, "unsupported_media_type");
    }
    farm.stop().await;
}

#[tokio::test]
async fn an_invalid_contract_is_not_loaded() {
    let farm = Farm::builder().env("LOAD_TIMEOUT_MS", "3000").start().await;
    let client = farm.client();
    for (executable, named) in [
        // A syntax error, with its line.
        ("{ one: () => 1,\n  two: () => ) }", "2"),
        (
            "function one() { return 1 }\n\nfunction init() { return { one ] }",
            "3",
        ),
        // Contracts without a method to call.
        ("{}", ""),
        ("{ one: 1 }", ""),
        ("42", ""),
        ("function one() {}", ""),
        ("function init() { return null }", ""),
        // Contracts whose own code fails.
        (
            "throw new RangeError('at the top')",
            "RangeError: at the top",
        ),
        (
            "function init() { throw new Error('in init') }",
            "Error: in init",
        ),
        ("for (;;);", ""),
    ] {
        let loaded = client.judge("abcd", executable).await;
        let text = loaded.error_text(422, "invalid_executable");
        assert!(text.contains(named), "{executable}: {text}");
        client
            .call("abcd", "one")
            .await
            .error(404, "contract_not_loaded");
    }
    assert_eq!(client.contracts().await, Vec::<Value>::new());
    client.must_load("abcd", CONTRACT).await;
    farm.stop().await;
}

#[tokio::test]
async fn the_message_of_a_thrown_error_is_returned() {
    let farm = Farm::start().await;
    let client = farm.client();
    let executable = "{
        wrong: () => { throw new Error('wrong guess') },
        range: () => { throw new RangeError('too far') },
        missing: () => noSuchName,
        text: () => { throw 'only text' },
        nothing: () => { throw undefined },
        rejects: () => Promise.reject(new TypeError('later')),
        evil: () => { throw { get message() { throw 1 }, toString() { throw 2 } } },
        long: () => { throw new Error('x'.repeat(1e6)) },
        works: () => 1,
    }";
    client.must_load("abcd", executable).await;
    for (method, expected) in [
        ("wrong", "Error: wrong guess"),
        ("range", "RangeError: too far"),
        ("missing", "ReferenceError: noSuchName is not defined"),
        ("rejects", "TypeError: later"),
    ] {
        let answer = client.call("abcd", method).await;
        assert_eq!(answer.error_text(500, "execution_failed"), expected);
    }
    let text = client
        .call("abcd", "text")
        .await
        .error_text(500, "execution_failed");
    assert!(text.contains("only text"), "{text}");
    for method in ["nothing", "evil"] {
        client
            .call("abcd", method)
            .await
            .error(500, "execution_failed");
    }
    let text = client
        .call("abcd", "long")
        .await
        .error_text(500, "execution_failed");
    assert!(text.len() <= 2_100, "{} bytes", text.len());
    assert_eq!(client.call("abcd", "works").await.data(), 1);
    farm.stop().await;
}

#[tokio::test]
async fn a_result_without_a_json_form_is_an_error() {
    let farm = Farm::start().await;
    let client = farm.client();
    let executable = "{
        big: () => 1n,
        cyclic: () => { const a = {}; a.a = a; return a },
        callable: () => () => 1,
        symbol: () => Symbol('a'),
        getter: () => ({ get a() { throw new Error('no') } }),
        later: async () => ({ a: [1n] }),
    }";
    client.must_load("abcd", executable).await;
    for method in ["big", "cyclic", "callable", "symbol", "getter", "later"] {
        client
            .call("abcd", method)
            .await
            .error(500, "result_not_json");
    }
    farm.stop().await;
}

#[tokio::test]
async fn a_contract_that_crashes_its_page_is_reported_and_restarted() {
    let farm = Farm::builder()
        .env("CHROMIUM_HEAP_MB", "32")
        .env("EXECUTE_TIMEOUT_MS", "8000")
        .start()
        .await;
    let client = farm.client();
    let executable = "
        function eat() { const all = []; for (;;) all.push(new Array(1000).fill(all.length)) }
        function works() { return 1 }
        function init() { return { eat, works } }";
    client.must_load("abcd", executable).await;
    client.must_load("other", CONTRACT).await;
    let [before, beside] = [
        client.generation("abcd").await,
        client.generation("other").await,
    ];
    client
        .call("abcd", "eat")
        .await
        .error(500, "contract_crashed");
    let answer = client.call("abcd", "works").await;
    assert_eq!(answer.data(), 1);
    assert!(answer.generation() > before);
    assert_eq!(client.call("other", "other").await.generation(), beside);
    farm.stop().await;
}
