//! The limits of a container take effect and do not affect its neighbour.

use std::time::Instant;

use serde_json::{Value, json};

use super::docker_farm::{DockerFarm, docker_builder};
use crate::support::wait::{self, DEFAULT_LIMIT};

/// A farm with two contracts, one that misbehaves and its neighbour, and their generations.
async fn two_contracts() -> (DockerFarm, [u64; 2]) {
    let mut farm = DockerFarm::of(docker_builder().env("EXECUTE_TIMEOUT_MS", "10000")).await;
    farm.load_all(&["bad", "good"]).await;
    assert_eq!(farm.call("good", "count", Value::Null).await, 1);
    let client = farm.client();
    let before = [
        client.generation("bad").await,
        client.generation("good").await,
    ];
    (farm, before)
}

/// Checks that the neighbour kept its state and that the worker can load another contract.
async fn neighbour_is_unaffected(mut farm: DockerFarm, before: u64) {
    assert_eq!(farm.call("good", "count", Value::Null).await, 2);
    assert_eq!(farm.client().generation("good").await, before);
    farm.load_all(&["new"]).await;
    assert_eq!(farm.call("new", "count", Value::Null).await, 1);
    farm.stop().await;
}

#[tokio::test]
async fn memory_is_limited() {
    let (farm, [bad, good]) = two_contracts().await;
    assert_eq!(farm.call("bad", "eat", json!(100)).await, 100);
    let answer = farm.client().execute("bad", "eat", &json!(400)).await;
    answer.error(500, "contract_crashed");
    // The container was recreated, without the memory that it used.
    assert_eq!(farm.call("bad", "eat", json!(100)).await, 100);
    assert!(farm.client().generation("bad").await > bad);
    neighbour_is_unaffected(farm, good).await;
}

#[tokio::test]
async fn processes_are_limited() {
    let (farm, [_, good]) = two_contracts().await;
    let forked = farm.call("bad", "fork", json!(1000)).await;
    assert!((50..128).contains(&forked.as_u64().unwrap()), "{forked}");
    neighbour_is_unaffected(farm, good).await;
}

#[tokio::test]
async fn cpu_is_limited() {
    let (farm, [_, good]) = two_contracts().await;
    // The neighbour's calls before and while the other contract uses all its CPU time.
    let burnt = |address: &'static str| {
        let call = farm.call(address, "burn", json!(1000));
        async move { call.await.as_u64().unwrap() }
    };
    let start = Instant::now();
    let rounds = burnt("bad").await;
    let wall = start.elapsed().as_secs_f64();
    let stats = cpu_seconds(&farm).await;
    // Half a core, although four threads want more.
    assert!(
        rounds > 0 && stats < 0.75 * wall + 0.25,
        "{stats} s of CPU in {wall} s"
    );
    neighbour_is_unaffected(farm, good).await;
}

/// CPU time that the misbehaving container has used so far.
async fn cpu_seconds(farm: &DockerFarm) -> f64 {
    use bollard::query_parameters::StatsOptionsBuilder;
    use futures::StreamExt;
    let name = farm.container_name("bad").await;
    let options = StatsOptionsBuilder::new()
        .stream(false)
        .one_shot(true)
        .build();
    let mut stats = Box::pin(farm.docker.stats(&name, Some(options)));
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
    let (farm, [_, good]) = two_contracts().await;
    let opened = farm.call("bad", "files", json!(2000)).await;
    assert!((900..1024).contains(&opened.as_u64().unwrap()), "{opened}");
    assert_eq!(farm.call("bad", "write", json!("/tmp/file 100")).await, 32);
    assert_eq!(
        farm.call("bad", "write", json!("/dev/shm/file 100")).await,
        16
    );
    for path in [
        "/file",
        "/etc/file",
        "/proc/sys/kernel/hostname",
        "/sys/file",
    ] {
        let said = farm.call("bad", "write", json!(path)).await;
        assert!(said.is_string(), "{path}: {said}");
    }
    neighbour_is_unaffected(farm, good).await;
}

#[tokio::test]
async fn output_is_limited() {
    let (farm, [_, good]) = two_contracts().await;
    farm.call("bad", "chatter", json!(20)).await;
    let name = farm.container_name("bad").await;
    wait::until_true(
        "the daemon to keep little of it",
        DEFAULT_LIMIT,
        async || {
            let kept = log_bytes(&farm, &name).await;
            (1..3 << 20).contains(&kept)
        },
    )
    .await;
    neighbour_is_unaffected(farm, good).await;
}

async fn log_bytes(farm: &DockerFarm, name: &str) -> usize {
    use bollard::query_parameters::LogsOptionsBuilder;
    use futures::StreamExt;
    let options = LogsOptionsBuilder::new().stdout(true).build();
    let lines = farm.docker.logs(name, Some(options));
    lines
        .filter_map(async |line| line.ok())
        .fold(0, async |bytes, line| bytes + line.into_bytes().len())
        .await
}
