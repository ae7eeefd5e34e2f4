//! What a contract answers, and what its caller gets.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::world::{World, farm};
use crate::support::wait::{self, PATIENCE};

#[tokio::test]
async fn results_are_passed_on() {
    let mut world = World::start().await;
    world.load_servers(&["a"]).await;
    let long = "ü".repeat(200_000);
    for value in [
        json!(null),
        json!(1.5),
        json!([1, {"b": "\u{0}\u{2028}"}]),
        json!(long),
    ] {
        assert_eq!(world.call("a", "echo", value.clone()).await, value);
        assert_eq!(world.call("a", "wrapped", value.clone()).await, value);
    }
    let client = world.client();
    assert_eq!(client.call("a", "echo").await.data(), Value::Null);
    assert_eq!(
        client.call("a", "schema").await.data(),
        json!({"schema": "by GET"})
    );
    assert_eq!(
        client.call("a", "percent%2Fencoded%20one").await.data(),
        "one segment"
    );
    world.stop().await;
}

#[tokio::test]
async fn answers_that_are_no_results_have_their_errors() {
    let mut world = World::start().await;
    world.load_servers(&["a"]).await;
    let client = world.client();
    let answer = client.call("a", "nothing").await;
    let text = answer.error_text(404, "endpoint_not_found");
    assert!(text.contains("nothing"), "{text}");
    // It is the container that says so: whatever it did before, it was asked.
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
    // None of that was the container's end.
    assert_eq!(client.generation("a").await, 1);
    world.stop().await;
}

#[tokio::test]
async fn a_result_may_have_as_many_bytes_as_its_limit() {
    let mut world = World::start().await;
    let image = world.image(super::recipe::Recipe::new()).await;
    let limits = json!({"limits": {"resultBytes": 100}});
    world.load_with("a", &image, limits).await.is_done();
    let fits = json!("x".repeat(98));
    assert_eq!(world.call("a", "echo", fits.clone()).await, fits);
    let answer = world
        .client()
        .execute("a", "echo", &json!("x".repeat(99)))
        .await;
    answer.error(500, "result_too_large");
    world.stop().await;
}

#[tokio::test]
async fn an_overdue_call_does_not_end_a_container_that_answers() {
    let mut world = World::of(farm().env("EXECUTE_TIMEOUT_MS", "300")).await;
    world.load_servers(&["a"]).await;
    assert_eq!(world.call("a", "count", Value::Null).await, 1);
    for (method, argument) in [("sleep", json!(2000)), ("ill", json!("trickle"))] {
        let start = Instant::now();
        let answer = world.client().execute("a", method, &argument).await;
        answer.error(504, "execution_timeout");
        assert!(
            start.elapsed() < Duration::from_millis(1300),
            "{:?}",
            start.elapsed()
        );
    }
    assert_eq!(world.call("a", "count", Value::Null).await, 2);
    assert_eq!(world.client().generation("a").await, 1);
    world.stop().await;
}

#[tokio::test]
async fn a_container_that_hangs_is_made_anew() {
    let builder = farm()
        .env("EXECUTE_TIMEOUT_MS", "300")
        .env("CONTAINER_PROBE_TIMEOUT_MS", "300");
    let mut world = World::of(builder).await;
    world.load_servers(&["a", "b"]).await;
    assert_eq!(world.call("a", "count", Value::Null).await, 1);
    let before = world.container_name("a").await;
    world
        .client()
        .call("a", "hang")
        .await
        .error(504, "execution_timeout");
    // A call that comes now waits for the new one.
    let answer = world.client().call("a", "count").await;
    assert_eq!((answer.data(), answer.generation()), (json!(1), 2));
    assert_ne!(world.container_name("a").await, before);
    assert_eq!(world.client().generation("b").await, 1);
    world.stop().await;
}

#[tokio::test]
async fn calls_run_concurrently_up_to_the_limit() {
    let mut world = World::start().await;
    let image = world.image(super::recipe::Recipe::new()).await;
    let limits = json!({"limits": {"concurrency": 3}});
    world.load_with("few", &image, limits).await.is_done();
    world.load("many", &image).await.is_done();
    for (address, most) in [("few", 3), ("many", 16)] {
        let client = world.client();
        let (long, some) = (json!(200), [(); 24]);
        let calls = some.map(|()| client.execute(address, "sleep", &long));
        for answer in futures::future::join_all(calls).await {
            assert_eq!(answer.data(), "slept");
        }
        assert_eq!(world.call(address, "most-asleep", Value::Null).await, most);
    }
    world.stop().await;
}

#[tokio::test]
async fn an_unload_finishes_what_runs() {
    let mut world = World::start().await;
    world.load_servers(&["a"]).await;
    let client = world.client().clone();
    let slow = tokio::spawn(async move { client.execute("a", "sleep", &json!(800)).await });
    wait::until_true("the call to run", PATIENCE, async || {
        world.client().contract("a").await["queueDepth"] == 1
    })
    .await;
    world.client().unload("a").await.is_done();
    assert_eq!(slow.await.unwrap().data(), "slept");
    world.stop().await;
}
