//! Recovery after containers, daemons and workers die.

use serde_json::{Value, json};

use super::docker_farm::{DockerFarm, docker_builder};
use super::faults::{kill, wait_for_field};
use super::test_image::TestImage;
use crate::support::wait::{self, DEFAULT_LIMIT};

#[tokio::test]
async fn a_running_call_is_retried_only_if_it_is_idempotent() {
    let mut farm = DockerFarm::start().await;
    let image = farm.image(TestImage::new()).await;
    farm.load("once", &image).await.is_no_content();
    let twice = json!({"idempotent": true});
    farm.load_with("twice", &image, twice).await.is_no_content();
    for (address, crashes) in [("once", true), ("twice", false)] {
        let client = farm.client().clone();
        let slow =
            tokio::spawn(async move { client.execute(address, "sleep", &json!(1000)).await });
        wait_for_field(&farm, address, "queueDepth", json!(1)).await;
        kill(&farm, address).await;
        let answer = slow.await.unwrap();
        if crashes {
            answer.error(500, "contract_crashed");
        } else {
            assert_eq!(answer.data(), "slept");
        }
    }
    farm.stop().await;
}

#[tokio::test]
async fn a_crash_looping_container_is_quarantined() {
    let mut farm = DockerFarm::of(docker_builder().env("CONTAINER_MAX_DEATHS", "3")).await;
    farm.load_all(&["a", "b"]).await;
    let image = farm.image(TestImage::new()).await;
    farm.load("a", &image).await.is_no_content();
    for _ in 0..3 {
        let answer = farm.client().execute("a", "exit", &json!(1)).await;
        let text = answer.error_text(500, "contract_crashed");
        let cause = "it exited with code 1, and it printed last: listening on 8080";
        assert!(text.ends_with(cause), "{text}");
    }
    let answer = farm.client().call("a", "count").await;
    answer.error(503, "contract_quarantined");
    assert_eq!(farm.client().contract("a").await["state"], "quarantined");
    assert!(farm.containers("a").await.is_empty());
    assert_eq!(farm.call("b", "count", Value::Null).await, 1);
    // Loading it again lifts the quarantine.
    farm.load("a", &image).await.is_no_content();
    assert_eq!(farm.call("a", "count", Value::Null).await, 1);
    let letters = farm.client().dead_letters().await;
    assert_eq!(letters[0]["kind"], "quarantine", "{letters:?}");
    farm.inner()
        .redis_command::<()>(&["DEL", "exec:dead-letters"])
        .await;
    farm.stop().await;
}

#[tokio::test]
async fn containers_of_living_workers_are_not_swept() {
    let mut farm = DockerFarm::start().await;
    farm.load_all(&["a"]).await;
    let before = farm.client().generation("a").await;
    farm.inner().add_worker().await;
    // Another farm on the same daemon does not know these two workers.
    let mut other = DockerFarm::start().await;
    other.load_all(&["a"]).await;
    // Both have time for a sweep. A sweep is only visible by what it removes.
    let since = std::time::Instant::now();
    wait::until_true("sweeps", DEFAULT_LIMIT, async || {
        since.elapsed().as_secs() >= 7
    })
    .await;
    assert_eq!(farm.call("a", "count", Value::Null).await, 1);
    assert_eq!(other.call("a", "count", Value::Null).await, 1);
    assert_eq!(farm.client().generation("a").await, before);
    other.stop().await;
    farm.stop().await;
}

#[tokio::test]
async fn a_worker_that_ends_removes_its_containers() {
    let mut farm = DockerFarm::start().await;
    farm.load_all(&["a"]).await;
    let before = farm.client().generation("a").await;
    farm.inner().workers[0].terminate().await;
    assert_eq!(farm.resources().await, [""; 0]);
    farm.inner().add_worker().await;
    assert_eq!(farm.call("a", "count", Value::Null).await, 1);
    assert!(farm.client().generation("a").await > before);
    farm.stop().await;
}

#[tokio::test]
async fn without_a_daemon_docker_is_not_offered() {
    let builder = crate::support::farm::Farm::builder()
        .env("WORKER_ENGINES", "javascript,docker")
        .env("DOCKER_HOST", "unix:///nowhere/docker.sock");
    let farm = builder.start().await;
    let body = json!({"contractAddress": "a", "executable": "b", "engine": "docker"});
    let answer = farm.client().post("/loadSmartContract", &body).await;
    answer.error(503, "no_capacity");
    farm.client().must_load("js", "{ one: () => 1 }").await;
    assert_eq!(farm.client().call("js", "one").await.data(), 1);
    let log = farm.workers[0].log();
    assert_eq!(
        log.matches("Docker contracts are not offered").count(),
        1,
        "{log}"
    );
    farm.stop().await;
}

#[tokio::test]
async fn a_worker_with_only_docker_starts_no_browser() {
    let farm = DockerFarm::start().await;
    let inner = farm.inner.as_ref().unwrap();
    assert!(inner.browsers(0).is_empty());
    let body = json!({"contractAddress": "a", "executable": "{ one: () => 1 }"});
    let answer = farm.client().post("/loadSmartContract", &body).await;
    answer.error(503, "no_capacity");
    farm.stop().await;
}
