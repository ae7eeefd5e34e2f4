//! The limits of a container bite, and its neighbour does not notice.

use std::time::Instant;

use serde_json::{Value, json};

use super::world::{World, farm};
use crate::support::wait::{self, PATIENCE};

/// A world with a contract to misbehave and one to suffer from it.
async fn pair() -> World {
    let mut world = World::of(farm().env("EXECUTE_TIMEOUT_MS", "10000")).await;
    world.load_servers(&["bad", "good"]).await;
    assert_eq!(world.call("good", "count", Value::Null).await, 1);
    world
}

/// The neighbour is the same as before, and the worker can do all its work.
async fn is_unharmed(mut world: World) {
    assert_eq!(world.call("good", "count", Value::Null).await, 2);
    assert_eq!(world.client().generation("good").await, 1);
    world.load_servers(&["new"]).await;
    assert_eq!(world.call("new", "count", Value::Null).await, 1);
    world.stop().await;
}

#[tokio::test]
async fn memory_is_limited() {
    let world = pair().await;
    assert_eq!(world.call("bad", "eat", json!(100)).await, 100);
    let answer = world.client().execute("bad", "eat", &json!(400)).await;
    answer.error(500, "contract_crashed");
    // It is back, without what it ate.
    assert_eq!(world.call("bad", "eat", json!(100)).await, 100);
    assert_eq!(world.client().generation("bad").await, 2);
    is_unharmed(world).await;
}

#[tokio::test]
async fn processes_are_limited() {
    let world = pair().await;
    let forked = world.call("bad", "fork", json!(1000)).await;
    assert!((50..128).contains(&forked.as_u64().unwrap()), "{forked}");
    is_unharmed(world).await;
}

#[tokio::test]
async fn cpu_is_limited() {
    let world = pair().await;
    // Before and while the other one burns.
    let burnt = |address: &'static str| {
        let call = world.call(address, "burn", json!(1000));
        async move { call.await.as_u64().unwrap() }
    };
    let start = Instant::now();
    let rounds = burnt("bad").await;
    let wall = start.elapsed().as_secs_f64();
    let stats = cpu_seconds(&world).await;
    // Half a core, of four threads that want more.
    assert!(
        rounds > 0 && stats < 0.75 * wall + 0.25,
        "{stats} s of CPU in {wall} s"
    );
    is_unharmed(world).await;
}

/// CPU time that the misbehaving container has used so far.
async fn cpu_seconds(world: &World) -> f64 {
    use bollard::query_parameters::StatsOptionsBuilder;
    use futures::StreamExt;
    let name = world.container_name("bad").await;
    let options = StatsOptionsBuilder::new()
        .stream(false)
        .one_shot(true)
        .build();
    let mut stats = Box::pin(world.docker.stats(&name, Some(options)));
    let stats = stats
        .next()
        .await
        .expect("the container runs")
        .expect("the container runs");
    let usage = stats
        .cpu_stats
        .and_then(|cpu| cpu.cpu_usage?.total_usage)
        .expect("the container runs");
    std::time::Duration::from_nanos(usage).as_secs_f64()
}

#[tokio::test]
async fn files_and_space_are_limited() {
    let world = pair().await;
    let opened = world.call("bad", "files", json!(2000)).await;
    assert!((900..1024).contains(&opened.as_u64().unwrap()), "{opened}");
    assert_eq!(world.call("bad", "write", json!("/tmp/file 100")).await, 32);
    assert_eq!(
        world.call("bad", "write", json!("/dev/shm/file 100")).await,
        16
    );
    for path in [
        "/file",
        "/etc/file",
        "/proc/sys/kernel/hostname",
        "/sys/file",
    ] {
        let said = world.call("bad", "write", json!(path)).await;
        assert!(said.is_string(), "{path}: {said}");
    }
    is_unharmed(world).await;
}

#[tokio::test]
async fn output_is_limited() {
    let world = pair().await;
    world.call("bad", "chatter", json!(20)).await;
    let name = world.container_name("bad").await;
    wait::until_true("the daemon to keep little of it", PATIENCE, async || {
        let kept = log_bytes(&world, &name).await;
        (1..3 << 20).contains(&kept)
    })
    .await;
    is_unharmed(world).await;
}

async fn log_bytes(world: &World, name: &str) -> usize {
    use bollard::query_parameters::LogsOptionsBuilder;
    use futures::StreamExt;
    let options = LogsOptionsBuilder::new().stdout(true).build();
    let lines = world.docker.logs(name, Some(options));
    lines
        .filter_map(async |line| line.ok())
        .fold(0, async |bytes, line| bytes + line.into_bytes().len())
        .await
}
