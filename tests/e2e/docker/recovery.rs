//! Containers, daemons and workers die, and what follows.

use serde_json::{Value, json};

use super::faults::{becomes, kill};
use super::recipe::Recipe;
use super::world::{World, farm};
use crate::support::wait::{self, PATIENCE};

#[tokio::test]
async fn a_call_that_was_running_is_run_again_only_if_it_may_be() {
    let mut world = World::start().await;
    let image = world.image(Recipe::new()).await;
    world.load("once", &image).await.is_done();
    let twice = json!({"idempotent": true});
    world.load_with("twice", &image, twice).await.is_done();
    for (address, crashes) in [("once", true), ("twice", false)] {
        let client = world.client().clone();
        let slow =
            tokio::spawn(async move { client.execute(address, "sleep", &json!(1000)).await });
        becomes(&world, address, "queueDepth", json!(1)).await;
        kill(&world, address).await;
        let answer = slow.await.unwrap();
        if crashes {
            answer.error(500, "contract_crashed");
        } else {
            assert_eq!(answer.data(), "slept");
        }
    }
    world.stop().await;
}

#[tokio::test]
async fn a_container_that_dies_again_and_again_is_quarantined() {
    let mut world = World::of(farm().env("CONTAINER_MAX_DEATHS", "3")).await;
    world.load_servers(&["a", "b"]).await;
    let image = world.image(Recipe::new()).await;
    world.load("a", &image).await.is_done();
    for _ in 0..3 {
        let answer = world.client().execute("a", "exit", &json!(1)).await;
        answer.error(500, "contract_crashed");
    }
    let answer = world.client().call("a", "count").await;
    answer.error(503, "contract_quarantined");
    assert_eq!(world.client().contract("a").await["state"], "quarantined");
    assert!(world.containers("a").await.is_empty());
    assert_eq!(world.call("b", "count", Value::Null).await, 1);
    // Loaded again, it is given another chance.
    world.load("a", &image).await.is_done();
    assert_eq!(world.call("a", "count", Value::Null).await, 1);
    let letters = world.client().dead_letters().await;
    assert_eq!(letters[0]["kind"], "quarantine", "{letters:?}");
    world
        .farm()
        .redis_command::<()>(&["DEL", "exec:dead-letters"])
        .await;
    world.stop().await;
}

#[tokio::test]
async fn a_living_workers_containers_are_no_orphans() {
    let mut world = World::start().await;
    world.load_servers(&["a"]).await;
    world.farm().add_worker().await;
    // Another farm on the same daemon knows none of the two workers.
    let mut other = World::start().await;
    other.load_servers(&["a"]).await;
    // Both have time for a sweep; it leaves no trace but what it removes.
    let since = std::time::Instant::now();
    wait::until_true("sweeps", PATIENCE, async || since.elapsed().as_secs() >= 7).await;
    assert_eq!(world.call("a", "count", Value::Null).await, 1);
    assert_eq!(other.call("a", "count", Value::Null).await, 1);
    assert_eq!(world.client().generation("a").await, 1);
    other.stop().await;
    world.stop().await;
}

#[tokio::test]
async fn a_worker_that_ends_takes_its_containers_along() {
    let mut world = World::start().await;
    world.load_servers(&["a"]).await;
    world.farm().workers[0].terminate().await;
    assert_eq!(world.things().await, [""; 0]);
    world.farm().add_worker().await;
    assert_eq!(world.call("a", "count", Value::Null).await, 1);
    assert_eq!(world.client().generation("a").await, 2);
    world.stop().await;
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
async fn a_worker_for_docker_alone_starts_no_browser() {
    let world = World::start().await;
    let farm = world.farm.as_ref().unwrap();
    assert!(farm.browsers(0).is_empty());
    let body = json!({"contractAddress": "a", "executable": "{ one: () => 1 }"});
    let answer = world.client().post("/loadSmartContract", &body).await;
    answer.error(503, "no_capacity");
    world.stop().await;
}
