//! How an image becomes a contract, and what the error says if it cannot.

use serde_json::{Value, json};

use super::docker_farm::{DockerFarm, base64, docker_builder};
use super::test_image::TestImage;
use crate::support::traffic::Traffic;
use crate::support::wait::{self, DEFAULT_LIMIT};

#[tokio::test]
async fn an_image_becomes_a_contract() {
    let mut farm = DockerFarm::start().await;
    let test_image = TestImage::new();
    let image = farm.image(test_image.clone()).await;
    farm.load("a:b", &image).await.is_no_content();
    assert_eq!(farm.call("a:b", "add", json!({"a": 1, "b": 2})).await, 3);
    let shown = farm.client().contract("a:b").await;
    let ran = farm.container("a:b").await.image;
    assert_eq!(shown["image"].as_str(), ran.as_deref(), "{shown}");
    assert_eq!(shown["engine"], "docker");
    assert_eq!(shown["state"], "ready");
    assert_eq!(
        shown["generation"],
        farm.client().call("a:b", "count").await.generation()
    );
    farm.client().unload("a:b").await.is_no_content();
    let answer = farm.client().call("a:b", "count").await;
    answer.error(404, "contract_not_loaded");
    assert_eq!(farm.resources().await, [""; 0]);
    farm.stop().await;
}

#[tokio::test]
async fn state_persists_and_belongs_to_one_contract() {
    let mut farm = DockerFarm::start().await;
    farm.load_all(&["one", "two"]).await;
    for expected in 1..=3 {
        assert_eq!(farm.call("one", "count", Value::Null).await, expected);
    }
    assert_eq!(farm.call("two", "count", Value::Null).await, 1);
    farm.call("one", "note", json!({"secret": 1})).await;
    assert_eq!(farm.call("two", "note", json!("own")).await, json!(["own"]));
    assert_ne!(
        farm.container_name("one").await,
        farm.container_name("two").await
    );
    farm.stop().await;
}

#[tokio::test]
async fn docker_can_be_the_default_engine_and_a_reference_is_not_read_as_base64() {
    let mut farm = DockerFarm::of(docker_builder().env("EXECUTION_ENGINE", "docker")).await;
    // Four letters that are also the base64 of three bytes.
    farm.import(&TestImage::new().tag("abcd:latest").tar())
        .await;
    farm.remove_on_stop("abcd:latest");
    let encoded = base64(b"abcd:latest");
    for (address, executable) in [("one", "abcd"), ("two", "abcd:latest"), ("three", &encoded)] {
        farm.client().must_load(address, executable).await;
        assert_eq!(farm.call(address, "count", Value::Null).await, 1);
    }
    farm.stop().await;
}

/// Loads each of the images. The error must have the words, and nothing may be left.
async fn are_explained(cases: &[(TestImage, &[&str])]) {
    let mut farm = DockerFarm::of(docker_builder().env("CONTAINER_LOAD_TIMEOUT_MS", "2500")).await;
    for (test_image, words) in cases {
        let image = farm.image(test_image.clone()).await;
        let answer = farm.load("a", &image).await;
        let text = answer.error_text(422, "invalid_executable");
        for word in *words {
            assert!(text.contains(word), "{word:?} is not in {text:?}");
        }
        assert_eq!(farm.resources().await, [""; 0], "{text}");
    }
    assert!(farm.client().contracts().await.is_empty());
    farm.stop().await;
}

#[tokio::test]
async fn a_container_that_cannot_serve_is_explained_and_removed() {
    are_explained(&[
        (
            TestImage::command(&["exit", "3"]),
            &["code 3", "about to end, as asked"],
        ),
        (TestImage::command(&["exit", "0"]), &["code 0"]),
        (
            TestImage::command(&["silent"]),
            &["did not listen on port 8080", "printed nothing"],
        ),
        (
            TestImage::new().with("Entrypoint", json!(["/nothing"])),
            &["/nothing"],
        ),
        (
            TestImage::new()
                .with("Entrypoint", Value::Null)
                .with("Cmd", Value::Null),
            &["ommand"],
        ),
        (
            TestImage::new().with("User", json!("nobody-there")),
            &["nobody-there"],
        ),
        (
            TestImage::of_another_processor(),
            &["The image is for a", "docker build --platform linux/"],
        ),
    ])
    .await;
}

#[tokio::test]
async fn a_container_that_cannot_be_reached_is_explained_and_removed() {
    are_explained(&[
        (
            TestImage::command(&["serve", "9999"]),
            &[
                "did not listen on port 8080",
                "listens on port 9999",
                "listening on 9999",
            ],
        ),
        (
            TestImage::command(&["inside"]),
            &["loopback address only", "0.0.0.0:8080"],
        ),
        (
            TestImage::command(&["silent"])
                .with("ExposedPorts", json!({"3000/tcp": {}, "3001/tcp": {}})),
            &["EXPOSEs the ports 3000, 3001"],
        ),
        (
            TestImage::command(&["warming"]),
            &["answered 503", "listening on 8080"],
        ),
    ])
    .await;
}

#[tokio::test]
async fn a_contract_that_warms_up_is_waited_for() {
    let mut farm = DockerFarm::start().await;
    let image = farm.image(TestImage::command(&["warming", "4"])).await;
    farm.load("a", &image).await.is_no_content();
    assert_eq!(farm.call("a", "count", Value::Null).await, 1);
    farm.stop().await;
}

#[tokio::test]
async fn an_invalid_executable_is_refused() {
    let farm = DockerFarm::start().await;
    for text in ["Not A Reference", "{ add: 1 }", "a:b:c/d e"] {
        let answer = farm.load("a", text).await;
        answer.error(422, "invalid_executable");
    }
    let answer = farm
        .load_with("a", "b", json!({"limits": {"concurrency": 0}}))
        .await;
    answer.error(400, "invalid_request");
    farm.stop().await;
}

#[tokio::test]
async fn a_single_exposed_port_is_used() {
    let mut farm = DockerFarm::start().await;
    let one = json!({"3000/tcp": {}, "53/udp": {}});
    let test_image = TestImage::command(&["serve", "3000"]).with("ExposedPorts", one);
    let image = farm.image(test_image).await;
    farm.load("one", &image).await.is_no_content();
    assert_eq!(farm.call("one", "count", Value::Null).await, 1);
    let two = json!({"3000/tcp": {}, "3001/tcp": {}});
    let image = farm.image(TestImage::new().with("ExposedPorts", two)).await;
    farm.load("two", &image).await.is_no_content();
    assert_eq!(farm.call("two", "count", Value::Null).await, 1);
    farm.stop().await;
}

#[tokio::test]
async fn an_image_cannot_raise_its_privileges_or_limits() {
    let mut farm = DockerFarm::start().await;
    let check = json!({"Test": ["CMD", "/contract-server", "sleep"], "Interval": 1_000_000_000});
    let test_image = TestImage::new()
        .with("Volumes", json!({"/data": {}, "/tmp/deep": {}}))
        .with("Healthcheck", check)
        .with("User", json!("0"))
        .with("Env", json!([format!("HUGE={}", "x".repeat(100_000))]))
        .label("execution.worker", "00000000000000000000000000000000")
        .label("execution.address", "another");
    let image = farm.image(test_image).await;
    farm.load("a", &image).await.is_no_content();
    let container = farm.container("a").await;
    for mount in container.mounts.unwrap_or_default() {
        assert_ne!(mount.typ, Some("volume".to_owned()), "{mount:?}");
    }
    assert!(container.state.is_some_and(|state| {
        state
            .health
            .is_none_or(|health| health.log.is_none_or(|log| log.is_empty()))
    }));
    // Volumes are held in memory, with a limited size.
    assert_eq!(farm.call("a", "write", json!("/data/file 100")).await, 32);
    assert_eq!(
        farm.call("a", "whoami", Value::Null).await["CapBnd"],
        "0000000000000000"
    );
    // Labels of the image neither hide the container from its owner nor assign it to another.
    assert!(farm.containers("another").await.is_empty());
    farm.client().unload("a").await.is_no_content();
    assert_eq!(farm.resources().await, [""; 0]);
    farm.stop().await;
}

#[tokio::test]
async fn another_image_takes_over_without_a_failed_call() {
    let mut farm = DockerFarm::start().await;
    let first = farm.image(TestImage::new()).await;
    let second = farm.image(TestImage::new()).await;
    farm.load("a", &first).await.is_no_content();
    let before = farm.container_name("a").await;
    let generation = farm.client().generation("a").await;
    let traffic = Traffic::start(std::slice::from_ref(farm.client()), "a", "echo");
    traffic.flows().await;
    farm.load("a", &second).await.is_no_content();
    traffic.flows().await;
    for answer in traffic.end().await {
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    let after = farm.client().generation("a").await;
    assert!(after > generation);
    wait::until_true("the old one to go", DEFAULT_LIMIT, async || {
        farm.containers("a").await.len() == 1
    })
    .await;
    assert_ne!(farm.container_name("a").await, before);
    // Loading the same image again is a no-op.
    farm.load("a", &second).await.is_no_content();
    assert_eq!(farm.client().generation("a").await, after);
    farm.stop().await;
}

#[tokio::test]
async fn thirty_two_contracts_at_once() {
    let mut farm = DockerFarm::start().await;
    let image = farm.image(TestImage::new()).await;
    let addresses: Vec<String> = (0..32).map(|n| format!("c{n}")).collect();
    let loads = addresses.iter().map(|address| farm.load(address, &image));
    for answer in futures::future::join_all(loads).await {
        answer.is_no_content();
    }
    let calls = addresses
        .iter()
        .map(|address| farm.call(address, "note", json!(address)));
    for (address, notes) in addresses.iter().zip(futures::future::join_all(calls).await) {
        assert_eq!(notes, json!([address]));
    }
    farm.stop().await;
}
