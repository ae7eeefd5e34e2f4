//! Faults of containers and of who runs them; `faults` has those of everything else.

use std::path::Path;
use std::process::Command;

use bollard::query_parameters::KillContainerOptionsBuilder;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinSet;

use super::recipe::Recipe;
use super::world::{World, base64, farm};
use crate::support::chaos::freeze;
use crate::support::process::Process;
use crate::support::wait::{self, PATIENCE};

/// Calls that run when the worker dies, and calls that it has not been given yet.
const RUNNING: usize = 2;
const QUEUED: usize = 10;

#[tokio::test]
async fn fault_03_kill_a_worker_under_load() {
    let builder = farm()
        .env("REAP_GRACE_MS", "0")
        .env("EXECUTE_TIMEOUT_MS", "30000")
        .env("EXECUTE_DEADLINE_MS", "40000");
    let mut world = World::of(builder).await;
    let image = world.image(Recipe::new()).await;
    let limits = json!({"limits": {"concurrency": RUNNING}});
    world.load_with("a", &image, limits).await.is_done();
    // The dead worker's container is left alone: it is asked what it was told.
    let old = world.ip("a").await;
    let leaves_orphans = [("CONTAINER_SWEEP_MS", "600000")];
    world.farm().join_with(&leaves_orphans).await;

    let mut running = JoinSet::new();
    for _ in 0..RUNNING {
        let client = world.client().clone();
        running.spawn(async move { client.execute("a", "sleep", &json!(20_000)).await });
    }
    becomes(&world, "a", "queueDepth", json!(RUNNING)).await;
    // It does not even read any more, so there is no doubt about what comes now.
    freeze(&mut world.farm().workers[0]);
    let (client, before) = (world.client().clone(), world.farm().backlog().await);
    // This one is what its last read waited for, so it may have been started.
    let given = async move { client.execute("a", "note", &json!("given")).await };
    let given = tokio::spawn(given);
    more_are_in_the_inbox(&mut world, before).await;
    let before = world.farm().backlog().await;
    let mut queued = JoinSet::new();
    for number in 0..QUEUED {
        let client = world.client().clone();
        queued.spawn(async move { client.execute("a", "note", &json!(number)).await });
    }
    more_are_in_the_inbox(&mut world, before).await;
    world.farm().workers[0].kill().await;

    for answer in running.join_all().await {
        answer.error(502, "outcome_unknown");
        assert!(answer.json()["started"].is_null(), "{answer:?}");
    }
    for answer in queued.join_all().await {
        answer.data();
    }
    assert!([200, 502].contains(&given.await.expect("it is answered").status));
    let told = world.call("a", "note", json!("last")).await;
    let mut notes = told.as_array().expect("a list").clone();
    assert_eq!(notes.pop(), Some(json!("last")));
    notes.retain(|note| note != "given");
    notes.sort_unstable_by_key(Value::as_u64);
    assert_eq!(notes, (0..QUEUED).map(|n| json!(n)).collect::<Vec<_>>());
    let asked = reqwest::Client::new().post(format!("http://{old}:8080/note"));
    let told = asked.body("0").send().await.expect("it still runs");
    assert_eq!(told.text().await.expect("it answers"), "[0]");

    // A worker that sweeps.
    world.farm().join_with(&[]).await;
    wait::until_true("the orphan to go", PATIENCE, async || {
        world.containers("a").await.len() == 1
    })
    .await;
    world.stop().await;
}

#[tokio::test]
async fn fault_32_kill_a_container() {
    let mut world = World::start().await;
    world.load_servers(&["a", "b"]).await;
    let image = world.client().contract("a").await["image"].clone();
    for generation in 2..4 {
        assert_eq!(world.call("a", "count", Value::Null).await, 1);
        kill(&world, "a").await;
        becomes(&world, "a", "generation", json!(generation)).await;
    }
    assert_eq!(world.call("a", "count", Value::Null).await, 1);
    assert_eq!(world.client().contract("a").await["image"], image);
    assert_eq!(world.client().generation("b").await, 1);
    assert_eq!(world.containers("a").await.len(), 1);
    world.stop().await;
}

#[tokio::test]
async fn fault_32_an_orphan_of_a_dead_worker() {
    // Its contracts are not hosted again meanwhile: what is there is what was left.
    let mut world = World::of(farm().env("REAP_GRACE_MS", "600000")).await;
    world.load_servers(&["a", "b"]).await;
    let recipe = Recipe::new();
    world.load("tar", &base64(&recipe.tar())).await.is_done();
    assert_eq!(world.things().await.len(), 6);
    world.farm().workers[0].kill().await;
    world.farm().add_worker().await;
    wait::until_true("the orphans to go", PATIENCE, async || {
        world.things().await.is_empty()
    })
    .await;
    wait::until_true("the image to go", PATIENCE, async || {
        !world.has_image(&recipe.id()).await
    })
    .await;
    world.stop_whatever_is_in_redis().await;
}

/// A bridge for the test's own daemon: without one (`--bridge none`) it would remove docker0, which
/// is the machine's daemon's.
struct Bridge(String);

impl Bridge {
    fn make() -> Self {
        let bridge = Self(format!("exd-{}", std::process::id()));
        assert!(bridge.ip_link("add", &["type", "bridge"]));
        bridge
    }

    /// Whether `ip` has done that.
    fn ip_link(&self, command: &str, rest: &[&str]) -> bool {
        let mut ip = Command::new("ip");
        ip.args(["link", command, &self.0]).args(rest);
        ip.status().is_ok_and(|status| status.success())
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        if !self.ip_link("delete", &[]) {
            eprintln!("the bridge {} stays", self.0);
        }
    }
}

/// A daemon of the test's own, which it can end: without rules in the host's firewall, so that it
/// does not disturb the machine's daemon.
fn start_daemon(folder: &Path, bridge: &Bridge) -> Process {
    let mut command = Command::new("dockerd");
    command
        .arg("--host")
        .arg(format!("unix://{}", folder.join("docker.sock").display()))
        .arg("--data-root")
        .arg(folder.join("data"))
        .arg("--exec-root")
        .arg(folder.join("exec"))
        .arg("--pidfile")
        .arg(folder.join("docker.pid"))
        .args(["--bridge", &bridge.0, "--iptables=false", "--ip-masq=false"]);
    Process::start("dockerd", command, folder)
}

#[tokio::test]
async fn fault_32_the_daemon_is_restarted() {
    let folder = TempDir::with_prefix("execution-docker-").unwrap();
    let host = format!("unix://{}", folder.path().join("docker.sock").display());
    let bridge = Bridge::make();
    let mut daemon = start_daemon(folder.path(), &bridge);
    reached(&host).await;
    let builder = farm().env("CONTAINER_SUBNETS", "10.215.0.0/16");
    let mut world = World::on(&host, builder).await;
    world.load_servers(&["a"]).await;
    assert_eq!(world.call("a", "count", Value::Null).await, 1);

    daemon.terminate().await;
    wait::until_true("calls to be refused", PATIENCE, async || {
        world.client().call("a", "count").await.status == 503
    })
    .await;
    world
        .client()
        .call("a", "count")
        .await
        .error(503, "no_capacity");
    let answer = world.load("b", "execution-test/any").await;
    answer.error(503, "no_capacity");

    let mut daemon = start_daemon(folder.path(), &bridge);
    reached(&host).await;
    wait::until_true("the contract to serve", PATIENCE, async || {
        world.client().call("a", "echo").await.status == 200
    })
    .await;
    assert_eq!(world.call("a", "count", Value::Null).await, 1);
    assert!(world.client().generation("a").await >= 2);
    // What the daemon could not remove when it was gone goes with the next sweep of orphans.
    wait::until_true("one container to be left", PATIENCE, async || {
        world.containers("a").await.len() == 1
    })
    .await;
    world.stop().await;
    daemon.terminate().await;
}

async fn reached(host: &str) {
    wait::until_true("the daemon to answer", PATIENCE, async || {
        let docker = bollard::Docker::connect_with_host(host);
        let Ok(docker) = docker else { return false };
        docker.ping().await.is_ok()
    })
    .await;
}

/// Waits for frames that are not there yet; those stay whose calls run.
async fn more_are_in_the_inbox(world: &mut World, before: usize) {
    wait::until_true("calls to wait in the inbox", PATIENCE, async || {
        world.farm().backlog().await > before
    })
    .await;
}

/// Ends a contract's container, as the kernel would.
pub(super) async fn kill(world: &World, address: &str) {
    let name = world.container_name(address).await;
    let options = KillContainerOptionsBuilder::new().signal("KILL").build();
    world
        .docker
        .kill_container(&name, Some(options))
        .await
        .expect("the daemon answers");
}

/// Waits for a field of a contract's status.
pub(super) async fn becomes(world: &World, address: &str, field: &str, value: Value) {
    wait::until_true(&format!("{field} = {value}"), PATIENCE, async || {
        world.client().contract(address).await[field] == value
    })
    .await;
}
