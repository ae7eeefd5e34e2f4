//! Loading again: the same contract is a no-op, and another executable takes over without a failed
//! call.

use serde_json::json;

use crate::support::farm::Farm;
use crate::support::traffic::Traffic;

/// A contract that returns its version and the number of its calls.
fn version(number: u32) -> String {
    format!(
        "let calls = 0;
         function version() {{ return {number} }}
         function count() {{ calls += 1; return calls }}
         function init() {{ return {{ version, count }} }}"
    )
}

#[tokio::test]
async fn reloading_an_identical_contract_is_a_no_op() {
    let farm = Farm::builder().apis(2).workers(2).start().await;
    let [one, two] = &farm.clients[..] else {
        unreachable!("two apis were asked for")
    };
    one.must_load("abcd", &version(1)).await;
    assert_eq!(one.call("abcd", "count").await.data(), 1);
    let before = one.contract("abcd").await;
    one.must_load("abcd", &version(1)).await;
    two.must_load("ABCD", &version(1)).await;
    let answer = two.call("abcd", "count").await;
    assert_eq!(answer.data(), 2);
    assert_eq!(before["generation"], answer.generation());
    assert_eq!(before["host"], one.contract("abcd").await["host"]);
    farm.stop().await;
}

#[tokio::test]
async fn reloading_with_other_limits_replaces_the_contract() {
    let farm = Farm::start().await;
    let client = farm.client();
    client.must_load("abcd", &version(1)).await;
    let before = client.call("abcd", "count").await;
    let load = json!({
        "contractAddress": "abcd", "executable": version(1), "limits": { "timeoutMs": 500 },
    });
    client
        .post("/loadSmartContract", &load)
        .await
        .is_no_content();
    let after = client.call("abcd", "count").await;
    assert_eq!(after.data(), 1);
    assert!(after.generation() > before.generation());
    farm.stop().await;
}

#[tokio::test]
async fn another_executable_takes_over_under_load_without_a_failed_call() {
    let farm = Farm::builder().apis(2).workers(2).start().await;
    let client = farm.client();
    client.must_load("abcd", &version(1)).await;
    for new in 2..=5 {
        let old = new - 1;
        let before = client.generation("abcd").await;
        let traffic = Traffic::start(&farm.clients, "abcd", "version");
        traffic.flows().await;
        client.must_load("abcd", &version(new)).await;
        // From here on every call through any api reaches the new executable.
        for client in &farm.clients {
            let answer = client.call("abcd", "version").await;
            assert_eq!(answer.data(), new);
            assert!(answer.generation() > before);
        }
        traffic.flows().await;
        let answers = traffic.end().await;
        for answer in &answers {
            let data = answer.data();
            assert!(data == old || data == new, "{answer:?}");
            assert_eq!(data == new, answer.generation() > before, "{answer:?}");
        }
        assert!(answers.iter().any(|answer| answer.data() == old));
        assert!(answers.iter().any(|answer| answer.data() == new));
    }
    farm.stop().await;
}

#[tokio::test]
async fn an_invalid_contract_does_not_take_over() {
    let farm = Farm::start().await;
    let client = farm.client();
    client.must_load("abcd", &version(1)).await;
    let before = client.call("abcd", "count").await;
    client
        .load("abcd", "{ version: () => ")
        .await
        .error(422, "invalid_executable");
    client
        .load("abcd", "{}")
        .await
        .error(422, "invalid_executable");
    let after = client.call("abcd", "count").await;
    assert_eq!(after.data(), 2);
    assert_eq!(after.generation(), before.generation());
    assert_eq!(client.call("abcd", "version").await.data(), 1);
    farm.stop().await;
}

#[tokio::test]
async fn a_full_worker_accepts_another_executable_for_its_own_contract() {
    let farm = Farm::builder().env("WORKER_CAPACITY", "1").start().await;
    let client = farm.client();
    client.must_load("abcd", &version(1)).await;
    client.must_load("abcd", &version(2)).await;
    assert_eq!(client.call("abcd", "version").await.data(), 2);
    client
        .load("other", &version(1))
        .await
        .error(503, "no_capacity");
    farm.stop().await;
}
