//! Faults of containers, their daemon and their workers. All other faults are in `faults`.

use std::path::Path;
use std::process::Command;

use bollard::query_parameters::KillContainerOptionsBuilder;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinSet;

use super::docker_farm::{DockerFarm, base64, docker_builder};
use super::test_image::TestImage;
use crate::support::chaos::freeze;
use crate::support::process::Process;
use crate::support::wait::{self, DEFAULT_LIMIT};

/// Calls that run when the worker dies, and calls that it has not yet read.
const RUNNING: usize = 2;
const QUEUED: usize = 10;

#[tokio::test]
async fn fault_03_kill_a_worker_under_load() {
    let builder = docker_builder()
        .env("REAP_GRACE_MS", "0")
        .env("EXECUTE_TIMEOUT_MS", "30000")
        .env("EXECUTE_DEADLINE_MS", "40000");
    let mut farm = DockerFarm::of(builder).await;
    let image = farm.image(TestImage::new()).await;
    let limits = json!({"limits": {"concurrency": RUNNING}});
    farm.load_with("a", &image, limits).await.is_no_content();
    // The dead worker's container is not swept here: the test asks it which calls it received.
    let old = farm.ip("a").await;
    let leaves_orphans = [("CONTAINER_SWEEP_MS", "600000")];
    farm.inner().join_with(&leaves_orphans).await;

    let mut running = JoinSet::new();
    for _ in 0..RUNNING {
        let client = farm.client().clone();
        running.spawn(async move { client.execute("a", "sleep", &json!(20_000)).await });
    }
    wait_for_field(&farm, "a", "queueDepth", json!(RUNNING)).await;
    // The frozen worker reads no more, so the calls from here on are certainly not started.
    freeze(&mut farm.inner().workers[0]);
    let (client, before) = (farm.client().clone(), farm.inner().backlog().await);
    // The worker's last read was waiting for this call, so it may have been started.
    let given = async move { client.execute("a", "note", &json!("given")).await };
    let given = tokio::spawn(given);
    more_are_in_the_inbox(&mut farm, before).await;
    let before = farm.inner().backlog().await;
    let mut queued = JoinSet::new();
    for number in 0..QUEUED {
        let client = farm.client().clone();
        queued.spawn(async move { client.execute("a", "note", &json!(number)).await });
    }
    more_are_in_the_inbox(&mut farm, before).await;
    farm.inner().workers[0].kill().await;

    for answer in running.join_all().await {
        answer.error(502, "outcome_unknown");
        assert!(answer.json()["started"].is_null(), "{answer:?}");
    }
    for answer in queued.join_all().await {
        answer.data();
    }
    assert!([200, 502].contains(&given.await.expect("it is answered").status));
    let received = farm.call("a", "note", json!("last")).await;
    let mut notes = received.as_array().expect("a list").clone();
    assert_eq!(notes.pop(), Some(json!("last")));
    notes.retain(|note| note != "given");
    notes.sort_unstable_by_key(Value::as_u64);
    assert_eq!(notes, (0..QUEUED).map(|n| json!(n)).collect::<Vec<_>>());
    let request = reqwest::Client::new().post(format!("http://{old}:8080/note"));
    let answer = request
        .body("0")
        .send()
        .await
        .expect("the orphan still runs");
    assert_eq!(answer.text().await.expect("it answers"), "[0]");

    // This worker removes orphaned containers.
    farm.inner().join_with(&[]).await;
    wait::until_true("the orphan to go", DEFAULT_LIMIT, async || {
        farm.containers("a").await.len() == 1
    })
    .await;
    farm.stop().await;
}

#[tokio::test]
async fn fault_32_kill_a_container() {
    let mut farm = DockerFarm::start().await;
    farm.load_all(&["a", "b"]).await;
    let image = farm.client().contract("a").await["image"].clone();
    let beside = farm.client().generation("b").await;
    for _ in 0..2 {
        assert_eq!(farm.call("a", "count", Value::Null).await, 1);
        let before = farm.client().generation("a").await;
        kill(&farm, "a").await;
        wait::until_true("a new container", DEFAULT_LIMIT, async || {
            farm.client().generation("a").await > before
        })
        .await;
    }
    assert_eq!(farm.call("a", "count", Value::Null).await, 1);
    assert_eq!(farm.client().contract("a").await["image"], image);
    assert_eq!(farm.client().generation("b").await, beside);
    assert_eq!(farm.containers("a").await.len(), 1);
    farm.stop().await;
}

#[tokio::test]
async fn fault_32_an_orphan_of_a_dead_worker() {
    // No other worker takes over the contracts meanwhile, so only the orphans are present.
    let mut farm = DockerFarm::of(docker_builder().env("REAP_GRACE_MS", "600000")).await;
    farm.load_all(&["a", "b"]).await;
    let test_image = TestImage::new();
    farm.load("tar", &base64(&test_image.tar()))
        .await
        .is_no_content();
    assert_eq!(farm.resources().await.len(), 6);
    farm.inner().workers[0].kill().await;
    farm.inner().add_worker().await;
    wait::until_true("the orphans to go", DEFAULT_LIMIT, async || {
        farm.resources().await.is_empty()
    })
    .await;
    wait::until_true("the image to go", DEFAULT_LIMIT, async || {
        !farm.has_image(&test_image.id()).await
    })
    .await;
    farm.stop_ignoring_keys().await;
}

/// A bridge for the test's own daemon. Without a bridge (`--bridge none`) that daemon would remove
/// docker0, which belongs to the machine's daemon.
struct Bridge(String);

impl Bridge {
    fn make() -> Self {
        let bridge = Self(format!("exd-{}", std::process::id()));
        assert!(bridge.ip_link("add", &["type", "bridge"]));
        bridge
    }

    /// Runs `ip link` and returns whether it succeeded.
    fn ip_link(&self, command: &str, rest: &[&str]) -> bool {
        let mut ip = Command::new("ip");
        ip.args(["link", command, &self.0]).args(rest);
        ip.status().is_ok_and(|status| status.success())
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        if !self.ip_link("delete", &[]) {
            eprintln!("the bridge {} could not be removed", self.0);
        }
    }
}

/// A daemon that the test can stop. It writes no firewall rules, so it does not disturb the
/// machine's daemon.
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
    let builder = docker_builder().env("CONTAINER_SUBNETS", "10.215.0.0/16");
    let mut farm = DockerFarm::on(&host, builder).await;
    farm.load_all(&["a"]).await;
    assert_eq!(farm.call("a", "count", Value::Null).await, 1);
    let before = farm.client().generation("a").await;

    daemon.terminate().await;
    wait::until_true("calls to be refused", DEFAULT_LIMIT, async || {
        farm.client().call("a", "count").await.status == 503
    })
    .await;
    farm.client()
        .call("a", "count")
        .await
        .error(503, "no_capacity");
    let answer = farm.load("b", "execution-test/any").await;
    answer.error(503, "no_capacity");

    let mut daemon = start_daemon(folder.path(), &bridge);
    reached(&host).await;
    wait::until_true("the contract to serve", DEFAULT_LIMIT, async || {
        farm.client().call("a", "echo").await.status == 200
    })
    .await;
    assert_eq!(farm.call("a", "count", Value::Null).await, 1);
    assert!(farm.client().generation("a").await > before);
    // The next sweep removes what could not be removed while the daemon was down.
    wait::until_true("one container to be left", DEFAULT_LIMIT, async || {
        farm.containers("a").await.len() == 1
    })
    .await;
    farm.stop().await;
    daemon.terminate().await;
}

async fn reached(host: &str) {
    wait::until_true("the daemon to answer", DEFAULT_LIMIT, async || {
        let docker = bollard::Docker::connect_with_host(host);
        let Ok(docker) = docker else { return false };
        docker.ping().await.is_ok()
    })
    .await;
}

/// Waits until more frames are in the inbox than before. Frames whose calls run also stay there.
async fn more_are_in_the_inbox(farm: &mut DockerFarm, before: usize) {
    wait::until_true("calls to wait in the inbox", DEFAULT_LIMIT, async || {
        farm.inner().backlog().await > before
    })
    .await;
}

/// Kills a contract's container, as the kernel's OOM killer would.
pub(super) async fn kill(farm: &DockerFarm, address: &str) {
    let name = farm.container_name(address).await;
    let options = KillContainerOptionsBuilder::new().signal("KILL").build();
    farm.docker
        .kill_container(&name, Some(options))
        .await
        .expect("the daemon answers");
}

/// Waits until a field of a contract's status has this value.
pub(super) async fn wait_for_field(farm: &DockerFarm, address: &str, field: &str, value: Value) {
    wait::until_true(&format!("{field} = {value}"), DEFAULT_LIMIT, async || {
        farm.client().contract(address).await[field] == value
    })
    .await;
}
