//! A call that overruns its limit is ended, and the other calls are not affected.

use serde_json::json;
use tokio::task::JoinSet;

use crate::support::client::Client;
use crate::support::farm::Farm;
use crate::support::wait::DEFAULT_LIMIT;

const CONTRACT: &str = "
let calls = 0;
const spin = () => Promise.resolve().then(spin);
const init = () => ({
    echo: (a) => { calls += 1; return a },
    later: async (a) => { await null; return a },
    calls: () => calls,
    loop: () => { for (;;); },
    loop_later: async () => { await null; for (;;); },
    microtasks: () => spin(),
    never: () => new Promise(() => {}),
});";

/// Calls the faulty method among many healthy calls, of its own contract and of another one.
/// Returns the text of its error.
async fn call_among_healthy_calls(client: &Client, faulty: &str) -> String {
    let mut healthy = JoinSet::new();
    let mut call = |address: &'static str, method: &'static str, number: usize| {
        let client = client.clone();
        healthy.spawn(async move {
            let answer = client.execute(address, method, &json!(number)).await;
            assert_eq!(answer.data(), number, "{address} {method}");
        });
    };
    for number in 0..50 {
        call("abcd", "echo", number);
        call("abcd", "later", number);
        call("other", "echo", number);
    }
    let ended = tokio::spawn({
        let (client, faulty) = (client.clone(), faulty.to_owned());
        async move { client.call("abcd", &faulty).await }
    });
    for number in 50..100 {
        call("abcd", "echo", number);
        call("abcd", "later", number);
        call("other", "echo", number);
    }
    healthy.join_all().await;
    let ended = ended.await.expect("the caller does not panic");
    ended.error_text(504, "execution_timeout")
}

#[tokio::test]
async fn an_endless_loop_fails_alone() {
    let farm = Farm::start().await;
    let client = farm.client();
    client.must_load("abcd", CONTRACT).await;
    client.must_load("other", CONTRACT).await;
    let [before, beside] = [
        client.generation("abcd").await,
        client.generation("other").await,
    ];
    let text = call_among_healthy_calls(client, "loop").await;
    assert!(text.contains("2000 ms"), "{text}");
    // The contract has a new page with new state. The other contract keeps its own.
    let answer = client.call("abcd", "calls").await;
    assert!(answer.generation() > before);
    assert!(
        answer.data().as_u64().is_some_and(|calls| calls <= 100),
        "{answer:?}"
    );
    let answer = client.call("other", "calls").await;
    assert_eq!(answer.generation(), beside);
    assert_eq!(answer.data(), 100);
    farm.stop().await;
}

#[tokio::test]
async fn a_call_that_never_ends_in_any_other_way_fails_alone() {
    let farm = Farm::builder()
        .env("EXECUTE_TIMEOUT_MS", "1000")
        .start()
        .await;
    let client = farm.client();
    client.must_load("abcd", CONTRACT).await;
    client.must_load("other", CONTRACT).await;
    let beside = client.generation("other").await;
    for faulty in ["never", "loop_later", "microtasks"] {
        let before = client.generation("abcd").await;
        let text = call_among_healthy_calls(client, faulty).await;
        assert!(text.contains("1000 ms"), "{faulty}: {text}");
        let answer = client.execute("abcd", "echo", &json!(1)).await;
        assert_eq!(answer.data(), 1);
        assert!(answer.generation() > before, "{faulty}");
    }
    let answer = client.call("other", "calls").await;
    assert_eq!(answer.generation(), beside);
    assert_eq!(answer.data(), 300);
    farm.stop().await;
}

#[tokio::test]
async fn several_endless_loops_at_once_fail_and_nothing_else() {
    let farm = Farm::builder()
        .env("EXECUTE_TIMEOUT_MS", "300")
        .start()
        .await;
    let client = farm.client();
    client.must_load("abcd", CONTRACT).await;
    let mut calls = JoinSet::new();
    for number in 0..60 {
        let client = client.clone();
        calls.spawn(async move {
            if number % 20 == 10 {
                client
                    .call("abcd", "loop")
                    .await
                    .error(504, "execution_timeout");
            } else {
                let answer = client.execute("abcd", "echo", &json!(number)).await;
                assert_eq!(answer.data(), number);
            }
        });
    }
    calls.join_all().await;
    farm.stop().await;
}

#[tokio::test]
async fn no_caller_waits_longer_than_the_deadline() {
    // The contract's limit is longer than the caller's deadline.
    let farm = Farm::builder()
        .env("EXECUTE_TIMEOUT_MS", "8000")
        .env("EXECUTE_DEADLINE_MS", "500")
        .start()
        .await;
    let client = farm.client();
    client.must_load("abcd", CONTRACT).await;
    let answer = tokio::time::timeout(DEFAULT_LIMIT, client.call("abcd", "never")).await;
    answer
        .expect("an answer long before the contract's own limit")
        .error(504, "execution_timeout");
    assert_eq!(client.execute("abcd", "echo", &json!(1)).await.data(), 1);
    farm.stop().await;
}

#[tokio::test]
async fn a_call_may_take_longer_than_half_a_minute() {
    // Libraries on the way wait for half a minute by default.
    let farm = Farm::builder()
        .env("EXECUTE_TIMEOUT_MS", "50000")
        .env("EXECUTE_DEADLINE_MS", "50000")
        .start()
        .await;
    let client = farm.client();
    let source = "{ slow: () => new Promise((r) => setTimeout(r, 32000, 'late')) }";
    client.must_load("abcd", source).await;
    let before = client.generation("abcd").await;
    let answer = client.call("abcd", "slow").await;
    assert_eq!(
        (answer.data(), answer.generation()),
        (json!("late"), before)
    );
    farm.stop().await;
}

#[tokio::test]
async fn a_contract_can_lower_its_limit_but_not_raise_it() {
    let farm = Farm::builder()
        .env("EXECUTE_TIMEOUT_MS", "1000")
        .start()
        .await;
    let client = farm.client();
    let load = |limit: u32| {
        json!({
            "contractAddress": "abcd", "executable": CONTRACT, "limits": { "timeoutMs": limit },
        })
    };
    let refused = client.post("/loadSmartContract", &load(60_000)).await;
    refused.error(400, "invalid_request");
    client
        .post("/loadSmartContract", &load(200))
        .await
        .is_no_content();
    for faulty in ["loop", "never"] {
        let answer = client.call("abcd", faulty).await;
        let text = answer.error_text(504, "execution_timeout");
        assert!(text.contains("200 ms"), "{faulty}: {text}");
    }
    assert_eq!(client.execute("abcd", "echo", &json!(1)).await.data(), 1);
    farm.stop().await;
}
