//! What a container answers, and what its caller receives.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::docker_farm::{DockerFarm, docker_builder};
use crate::support::wait::{self, DEFAULT_LIMIT};

#[tokio::test]
async fn results_are_returned_unchanged() {
    let mut farm = DockerFarm::start().await;
    farm.load_all(&["a"]).await;
    let long = "ü".repeat(200_000);
    for value in [
        json!(null),
        json!(1.5),
        json!([1, {"b": "\u{0}\u{2028}"}]),
        json!(long),
    ] {
        assert_eq!(farm.call("a", "echo", value.clone()).await, value);
        assert_eq!(farm.call("a", "wrapped", value.clone()).await, value);
    }
    let client = farm.client();
    assert_eq!(client.call("a", "echo").await.data(), json!({}));
    assert_eq!(
        client.call("a", "schema").await.data(),
        json!({"schema": "by GET"})
    );
    assert_eq!(
        client.call("a", "percent%2Fencoded%20one").await.data(),
        "one segment"
    );
    farm.stop().await;
}

#[tokio::test]
async fn each_invalid_answer_has_its_own_error() {
    let mut farm = DockerFarm::start().await;
    farm.load_all(&["a"]).await;
    let client = farm.client();
    let before = client.generation("a").await;
    let answer = client.call("a", "nothing").await;
    let text = answer.error_text(404, "endpoint_not_found");
    assert!(text.contains("nothing"), "{text}");
    // The container itself answered, so the call may have had an effect before.
    assert!(answer.json()["started"].is_null(), "{answer:?}");
    for (kind, status, code, said) in [
        ("html", 500, "result_not_json", "JSON"),
        ("not-utf8", 500, "result_not_json", "JSON"),
        ("gzip", 500, "result_not_json", "JSON"),
        ("error", 500, "execution_failed", "418"),
        ("redirect", 500, "execution_failed", "302"),
        ("no-http", 500, "execution_failed", "broke off"),
        ("close", 500, "execution_failed", "broke off"),
        ("cut", 500, "execution_failed", "broke off"),
        ("headers", 500, "execution_failed", "broke off"),
        ("ten-gigabytes", 500, "result_too_large", "1048576"),
        ("endless", 500, "result_too_large", "1048576"),
    ] {
        let answer = client.execute("a", "ill", &json!(kind)).await;
        let text = answer.error_text(status, code);
        assert!(text.contains(said) && text.len() < 3000, "{kind}: {text}");
    }
    assert_eq!(
        client.execute("a", "ill", &json!("empty")).await.data(),
        Value::Null
    );
    // None of these answers ended the container.
    assert_eq!(client.generation("a").await, before);
    farm.stop().await;
}

#[tokio::test]
async fn a_result_may_have_as_many_bytes_as_its_limit() {
    let mut farm = DockerFarm::start().await;
    let image = farm.image(super::test_image::TestImage::new()).await;
    let limits = json!({"limits": {"resultBytes": 100}});
    farm.load_with("a", &image, limits).await.is_no_content();
    let fits = json!("x".repeat(98));
    assert_eq!(farm.call("a", "echo", fits.clone()).await, fits);
    let answer = farm
        .client()
        .execute("a", "echo", &json!("x".repeat(99)))
        .await;
    answer.error(500, "result_too_large");
    farm.stop().await;
}

#[tokio::test]
async fn an_overrun_call_does_not_end_a_responsive_container() {
    let mut farm = DockerFarm::of(docker_builder().env("EXECUTE_TIMEOUT_MS", "300")).await;
    farm.load_all(&["a"]).await;
    assert_eq!(farm.call("a", "count", Value::Null).await, 1);
    let before = farm.client().generation("a").await;
    for (method, argument) in [("sleep", json!(2000)), ("ill", json!("trickle"))] {
        let start = Instant::now();
        let answer = farm.client().execute("a", method, &argument).await;
        answer.error(504, "execution_timeout");
        assert!(
            start.elapsed() < Duration::from_millis(1300),
            "{:?}",
            start.elapsed()
        );
    }
    assert_eq!(farm.call("a", "count", Value::Null).await, 2);
    assert_eq!(farm.client().generation("a").await, before);
    farm.stop().await;
}

#[tokio::test]
async fn a_container_that_hangs_is_recreated() {
    let builder = docker_builder()
        .env("EXECUTE_TIMEOUT_MS", "300")
        .env("CONTAINER_PROBE_TIMEOUT_MS", "300");
    let mut farm = DockerFarm::of(builder).await;
    farm.load_all(&["a", "b"]).await;
    assert_eq!(farm.call("a", "count", Value::Null).await, 1);
    let before = farm.container_name("a").await;
    let [generation, beside] = [
        farm.client().generation("a").await,
        farm.client().generation("b").await,
    ];
    farm.client()
        .call("a", "hang")
        .await
        .error(504, "execution_timeout");
    // A call that arrives now waits for the new container.
    let answer = farm.client().call("a", "count").await;
    assert_eq!(answer.data(), 1);
    assert!(answer.generation() > generation);
    assert_ne!(farm.container_name("a").await, before);
    assert_eq!(farm.client().generation("b").await, beside);
    farm.stop().await;
}

#[tokio::test]
async fn calls_run_concurrently_up_to_the_limit() {
    let mut farm = DockerFarm::start().await;
    let image = farm.image(super::test_image::TestImage::new()).await;
    let limits = json!({"limits": {"concurrency": 3}});
    farm.load_with("few", &image, limits).await.is_no_content();
    farm.load("many", &image).await.is_no_content();
    for (address, most) in [("few", 3), ("many", 16)] {
        let client = farm.client();
        let (long, some) = (json!(200), [(); 24]);
        let calls = some.map(|()| client.execute(address, "sleep", &long));
        for answer in futures::future::join_all(calls).await {
            assert_eq!(answer.data(), "slept");
        }
        assert_eq!(farm.call(address, "most-asleep", Value::Null).await, most);
    }
    farm.stop().await;
}

#[tokio::test]
async fn an_unload_finishes_running_calls() {
    let mut farm = DockerFarm::start().await;
    farm.load_all(&["a"]).await;
    let client = farm.client().clone();
    let slow = tokio::spawn(async move { client.execute("a", "sleep", &json!(800)).await });
    wait::until_true("the call to run", DEFAULT_LIMIT, async || {
        farm.client().contract("a").await["queueDepth"] == 1
    })
    .await;
    farm.client().unload("a").await.is_no_content();
    assert_eq!(slow.await.unwrap().data(), "slept");
    farm.stop().await;
}
