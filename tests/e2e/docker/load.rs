//! What a load makes of an image, and what it says when there is nothing to be made of it.

use serde_json::{Value, json};

use super::recipe::Recipe;
use super::world::{World, base64, farm};
use crate::support::traffic::Traffic;
use crate::support::wait::{self, PATIENCE};

#[tokio::test]
async fn an_image_becomes_a_contract() {
    let mut world = World::start().await;
    let recipe = Recipe::new();
    let image = world.image(recipe.clone()).await;
    world.load("a:b", &image).await.is_done();
    assert_eq!(world.call("a:b", "add", json!({"a": 1, "b": 2})).await, 3);
    let shown = world.client().contract("a:b").await;
    let ran = world.container("a:b").await.image;
    assert_eq!(shown["image"].as_str(), ran.as_deref(), "{shown}");
    assert_eq!(shown["engine"], "docker");
    assert_eq!(shown["state"], "ready");
    assert_eq!(shown["generation"], 1);
    world.client().unload("a:b").await.is_done();
    let answer = world.client().call("a:b", "count").await;
    answer.error(404, "contract_not_loaded");
    assert_eq!(world.things().await, [""; 0]);
    world.stop().await;
}

#[tokio::test]
async fn state_persists_and_belongs_to_one_contract() {
    let mut world = World::start().await;
    world.load_servers(&["one", "two"]).await;
    for expected in 1..=3 {
        assert_eq!(world.call("one", "count", Value::Null).await, expected);
    }
    assert_eq!(world.call("two", "count", Value::Null).await, 1);
    world.call("one", "note", json!({"secret": 1})).await;
    assert_eq!(
        world.call("two", "note", json!("own")).await,
        json!(["own"])
    );
    assert_ne!(
        world.container_name("one").await,
        world.container_name("two").await
    );
    world.stop().await;
}

#[tokio::test]
async fn docker_can_be_the_default_and_a_reference_is_not_taken_for_base64() {
    let mut world = World::of(farm().env("EXECUTION_ENGINE", "docker")).await;
    // Four letters: also the base64 of three bytes.
    world.import(&Recipe::new().tag("abcd:latest").tar()).await;
    world.forget_later("abcd:latest");
    let encoded = base64(b"abcd:latest");
    for (address, executable) in [("one", "abcd"), ("two", "abcd:latest"), ("three", &encoded)] {
        world.client().must_load(address, executable).await;
        assert_eq!(world.call(address, "count", Value::Null).await, 1);
    }
    world.stop().await;
}

#[tokio::test]
async fn a_container_that_cannot_serve_says_why_and_leaves_nothing() {
    let mut world = World::of(farm().env("CONTAINER_LOAD_TIMEOUT_MS", "2500")).await;
    let cases = [
        (
            Recipe::command(&["exit", "3"]),
            &["code 3", "about to end, as asked"][..],
        ),
        (Recipe::command(&["exit", "0"]), &["code 0"]),
        (
            Recipe::command(&["silent"]),
            &["did not listen on port 8080", "printed nothing"],
        ),
        (
            Recipe::command(&["serve", "9999"]),
            &["did not listen on port 8080", "listening on 9999"],
        ),
        (
            Recipe::new().with("Entrypoint", json!(["/nothing"])),
            &["/nothing"],
        ),
        (
            Recipe::new()
                .with("Entrypoint", Value::Null)
                .with("Cmd", Value::Null),
            &["ommand"],
        ),
        (
            Recipe::new().with("User", json!("nobody-there")),
            &["nobody-there"],
        ),
    ];
    for (recipe, words) in cases {
        let image = world.image(recipe).await;
        let answer = world.load("a", &image).await;
        let text = answer.error_text(422, "invalid_executable");
        for word in words {
            assert!(text.contains(word), "{word:?} is not in {text:?}");
        }
        assert_eq!(world.things().await, [""; 0], "{text}");
    }
    assert!(world.client().contracts().await.is_empty());
    world.stop().await;
}

#[tokio::test]
async fn what_is_no_executable_is_refused() {
    let world = World::start().await;
    for text in ["Not A Reference", "{ add: 1 }", "a:b:c/d e"] {
        let answer = world.load("a", text).await;
        answer.error(422, "invalid_executable");
    }
    let answer = world
        .load_with("a", "b", json!({"limits": {"concurrency": 0}}))
        .await;
    answer.error(400, "invalid_request");
    world.stop().await;
}

#[tokio::test]
async fn a_single_exposed_port_is_used() {
    let mut world = World::start().await;
    let one = json!({"3000/tcp": {}, "53/udp": {}});
    let recipe = Recipe::command(&["serve", "3000"]).with("ExposedPorts", one);
    let image = world.image(recipe).await;
    world.load("one", &image).await.is_done();
    assert_eq!(world.call("one", "count", Value::Null).await, 1);
    let two = json!({"3000/tcp": {}, "3001/tcp": {}});
    let image = world.image(Recipe::new().with("ExposedPorts", two)).await;
    world.load("two", &image).await.is_done();
    assert_eq!(world.call("two", "count", Value::Null).await, 1);
    world.stop().await;
}

#[tokio::test]
async fn an_image_cannot_ask_for_more_than_it_gets() {
    let mut world = World::start().await;
    let check = json!({"Test": ["CMD", "/contract-server", "sleep"], "Interval": 1_000_000_000});
    let recipe = Recipe::new()
        .with("Volumes", json!({"/data": {}, "/tmp/deep": {}}))
        .with("Healthcheck", check)
        .with("User", json!("0"))
        .with("Env", json!([format!("HUGE={}", "x".repeat(100_000))]))
        .label("execution.worker", "00000000000000000000000000000000")
        .label("execution.address", "another");
    let image = world.image(recipe).await;
    world.load("a", &image).await.is_done();
    let container = world.container("a").await;
    for mount in container.mounts.unwrap_or_default() {
        assert_ne!(mount.typ, Some("volume".to_owned()), "{mount:?}");
    }
    assert!(container.state.is_some_and(|state| {
        state
            .health
            .is_none_or(|health| health.log.is_none_or(|log| log.is_empty()))
    }));
    // Volumes are memory, of a bounded size.
    assert_eq!(world.call("a", "write", json!("/data/file 100")).await, 32);
    assert_eq!(
        world.call("a", "whoami", Value::Null).await["CapBnd"],
        "0000000000000000"
    );
    // The labels of the image do not hide the container from its owner, nor give it to another.
    assert!(world.containers("another").await.is_empty());
    world.client().unload("a").await.is_done();
    assert_eq!(world.things().await, [""; 0]);
    world.stop().await;
}

#[tokio::test]
async fn another_image_takes_over_without_a_failed_call() {
    let mut world = World::start().await;
    let first = world.image(Recipe::new()).await;
    let second = world.image(Recipe::new()).await;
    world.load("a", &first).await.is_done();
    let before = world.container_name("a").await;
    let traffic = Traffic::start(std::slice::from_ref(world.client()), "a", "echo");
    traffic.flows().await;
    world.load("a", &second).await.is_done();
    traffic.flows().await;
    for answer in traffic.end().await {
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    let shown = world.client().contract("a").await;
    assert_eq!(shown["generation"], 2);
    wait::until_true("the old one to go", PATIENCE, async || {
        world.containers("a").await.len() == 1
    })
    .await;
    assert_ne!(world.container_name("a").await, before);
    // Once more the same: nothing happens.
    world.load("a", &second).await.is_done();
    assert_eq!(world.client().generation("a").await, 2);
    world.stop().await;
}

#[tokio::test]
async fn thirty_two_contracts_at_once() {
    let mut world = World::start().await;
    let image = world.image(Recipe::new()).await;
    let addresses: Vec<String> = (0..32).map(|n| format!("c{n}")).collect();
    let loads = addresses.iter().map(|address| world.load(address, &image));
    for answer in futures::future::join_all(loads).await {
        answer.is_done();
    }
    let calls = addresses
        .iter()
        .map(|address| world.call(address, "note", json!(address)));
    for (address, notes) in addresses.iter().zip(futures::future::join_all(calls).await) {
        assert_eq!(notes, json!([address]));
    }
    world.stop().await;
}
