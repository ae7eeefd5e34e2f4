//! The farm as docker-compose brings it up: built, started, scaled, struck and taken down for real.
//! It needs a Docker daemon, root, and minutes: `make test-compose`, not part of `make test`.
//!
//! What the programs do is the end-to-end tests' matter; this is about the images, the compose files
//! and the seccomp profile.

mod inside;
mod project;
#[expect(dead_code, reason = "the end-to-end tests use more of it")]
#[path = "../e2e/support/mod.rs"]
mod support;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::project::{Project, done};
use crate::support::call_log::CONTRACT;
use crate::support::client::Client;
use crate::support::load::{Load, Pace};
use crate::support::wait;

/// How long containers may take to come or go, on a machine that has more to do.
const CONTAINERS: Duration = Duration::from_mins(2);

const CONTRACTS: usize = 6;

/// 50 calls per second.
const PACE: Pace = Pace {
    callers: 10,
    every: Duration::from_millis(200),
};

#[tokio::test]
async fn a_farm_comes_up_scales_is_struck_and_leaves_nothing() {
    let start = Instant::now();
    let said = |what: &str| eprintln!("{:6.1} s: {what}", start.elapsed().as_secs_f64());
    let project = Project::new(&["docker-compose.yml"]);
    project.up(3);
    let client = project.client();
    has_workers(&client, 3).await;
    are_healthy(&project, &["redis", "api", "worker"]).await;
    said("one api and three workers are up, and healthy");
    let addresses = load_contracts(&client).await;
    let hosts = owners(&client, &addresses).await;
    assert_eq!(
        hosts.len(),
        3,
        "contracts spread over the workers: {hosts:?}"
    );

    privileges(&project).await;
    said("containers and pages are closed");
    scaling(&project, &client, &addresses).await;
    said("scaled to one worker and back");
    death(&project, &client, &addresses).await;
    said("a worker was killed");
    restart(&project, &client, &addresses).await;
    said("Redis was started again");

    end(&project);
    said("taken down");
}

#[tokio::test]
async fn docker_contracts_have_a_worker_of_their_own() {
    let project = Project::new(&["docker-compose.yml", "docker-compose.docker.yml"]);
    let image = contract_image();
    project.up(1);
    let client = project.client();
    has_workers(&client, 2).await;
    are_healthy(&project, &["redis", "api", "worker", "worker-docker"]).await;
    let body = json!({ "contractAddress": "image", "engine": "docker", "executable": image });
    client
        .post("/loadSmartContract", &body)
        .await
        .is_no_content();
    for service in ["redis", "api", "worker", "worker-docker"] {
        is_confined(&project, service);
    }
    let answer = client.execute("image", "echo", &json!({ "a": 1 })).await;
    assert_eq!(answer.data(), json!({ "a": 1 }));
    // The workers of untrusted JavaScript do not see the socket.
    for (service, mounted) in [("worker", false), ("worker-docker", true)] {
        for container in project.containers(service) {
            let mounts = container.inspect("Mounts");
            assert_eq!(
                mounts.contains("docker.sock"),
                mounted,
                "{service}: {mounts}"
            );
        }
    }
    client.must_load("page", CONTRACT).await;
    assert_eq!(
        client.execute("page", "add", &json!(1)).await.data()["count"],
        1
    );
    end(&project);
    let mut docker = Command::new("docker");
    let contracts = docker.args(["ps", "--all", "--quiet", "--filter"]);
    let contracts = done(contracts.arg(format!("ancestor={image}")));
    assert_eq!(contracts, "", "containers of contracts are left");
    done(Command::new("docker").args(["image", "rm", &image]));
}

/// Waits until so many workers are ready, and the api with them.
async fn has_workers(client: &Client, count: usize) {
    wait::until_true("the api to listen", CONTAINERS, async || {
        let request = client.request(reqwest::Method::GET, "/readyz");
        let answer = support::client::try_send(request).await;
        answer.is_ok_and(|answer| answer.status == 200)
    })
    .await;
    wait::until_true("the workers to be ready", CONTAINERS, async || {
        let workers = client.workers().await;
        workers.len() == count && workers.iter().all(|worker| worker["state"] == "ready")
    })
    .await;
}

/// Waits until the health checks of all containers succeed.
async fn are_healthy(project: &Project, services: &[&str]) {
    for service in services {
        for container in project.containers(service) {
            let what = format!("{service} to be healthy");
            wait::until_true(&what, CONTAINERS, async || {
                container.inspect("State.Health.Status") == "\"healthy\""
            })
            .await;
        }
    }
}

async fn load_contracts(client: &Client) -> Vec<String> {
    let addresses: Vec<_> = (0..CONTRACTS).map(|number| format!("c{number}")).collect();
    for address in &addresses {
        client.must_load(address, CONTRACT).await;
        let answer = client.execute(address, "add", &json!(0)).await;
        assert_eq!(answer.data()["count"], 1, "{answer:?}");
    }
    addresses
}

/// Who hosts the contracts, as soon as each of them has a host.
async fn owners(client: &Client, addresses: &[String]) -> BTreeSet<String> {
    wait::until("the contracts to be hosted", CONTAINERS, async || {
        let mut hosts = BTreeSet::new();
        for address in addresses {
            hosts.insert(client.owner(address).await?);
        }
        Some(hosts)
    })
    .await
}

async fn privileges(project: &Project) {
    let mut renderers = 0;
    for worker in project.containers("worker") {
        inside::container_is_bare(&worker);
        renderers += inside::renderers_are_sandboxed(&worker);
    }
    // And one that each of the three workers has in reserve.
    assert!(
        (CONTRACTS..=CONTRACTS + 3).contains(&renderers),
        "{renderers} renderers"
    );
    inside::host_is_closed(project);
    inside::page_has_no_network(project).await;
    for service in ["redis", "api", "worker"] {
        is_confined(project, service);
    }
}

/// What Docker was told to keep from a service's containers.
fn is_confined(project: &Project, service: &str) {
    let containers = project.containers(service);
    assert!(!containers.is_empty(), "no container of {service}");
    for container in containers {
        inside::nobody_is_root(&container);
        for (field, value) in [
            ("Privileged", "false"),
            ("ReadonlyRootfs", "true"),
            ("CapDrop", r#"["ALL"]"#),
            ("CapAdd", "null"),
        ] {
            let found = container.inspect(&format!("HostConfig.{field}"));
            assert_eq!(found, value, "{service}: {field}");
        }
        for limit in ["Memory", "PidsLimit"] {
            let found: i64 = container
                .inspect(&format!("HostConfig.{limit}"))
                .parse()
                .expect("a number");
            assert!(found > 0, "{service} has no {limit}");
        }
    }
}

/// No call fails while workers hand over to the last one, and take up again.
async fn scaling(project: &Project, client: &Client, addresses: &[String]) {
    let load = Load::start(std::slice::from_ref(client), addresses, PACE);
    load.full_pace().await;
    project.scale(1);
    has_workers(client, 1).await;
    assert_eq!(owners(client, addresses).await.len(), 1);
    load.full_pace().await;
    project.scale(3);
    has_workers(client, 3).await;
    load.full_pace().await;
    load.end().await.check(client, &["ok"]).await;
}

/// A worker that dies under load costs time, but no call.
async fn death(project: &Project, client: &Client, addresses: &[String]) {
    let load = Load::retrying(1_000_000, std::slice::from_ref(client), addresses, PACE);
    load.full_pace().await;
    let before = owners(client, addresses).await;
    // The one that was there all the time has the contracts.
    project.containers("worker")[2].kill();
    wait::until_true("others to host its contracts", CONTAINERS, async || {
        owners(client, addresses).await.is_disjoint(&before)
    })
    .await;
    load.full_pace().await;
    project.scale(3);
    has_workers(client, 3).await;
    load.end().await.check(client, &["ok"]).await;
}

/// What was loaded outlives Redis' process: it is in the volume.
async fn restart(project: &Project, client: &Client, addresses: &[String]) {
    project.compose(&["restart", "redis"]);
    has_workers(client, 3).await;
    for address in addresses {
        // Until its connections are back, the api refuses.
        let answer = wait::until("calls to be answered", CONTAINERS, async || {
            let answer = client.execute(address, "add", &json!(7)).await;
            (answer.status != 503).then_some(answer)
        })
        .await;
        assert_eq!(answer.data()["id"], 7, "{answer:?}");
    }
}

/// Everything ends by itself within its grace period, and nothing is left.
fn end(project: &Project) {
    let services = ["api", "worker", "worker-docker", "redis"];
    let containers: Vec<_> = services
        .iter()
        .flat_map(|service| project.containers(service))
        .collect();
    project.compose(&["stop"]);
    for container in &containers {
        let state: Value = serde_json::from_str(&container.inspect("State")).expect("is JSON");
        assert_eq!(state["ExitCode"], 0, "{state}");
        assert_eq!(state["OOMKilled"], false, "{state}");
    }
    project.compose(&["down", "--volumes"]);
    assert_eq!(project.leftovers(), [""; 0]);
}

/// An image of the server that the tests' contracts are made of.
fn contract_image() -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("contract-server/target");
    let targets = std::fs::read_dir(&folder).expect("make contract-server was run");
    let program: PathBuf = targets
        .filter_map(|target| Some(target.ok()?.path().join("release/contract-server")))
        .find(|program| program.is_file())
        .expect("make contract-server was run");
    let context = tempfile::tempdir().expect("a folder can be made");
    std::fs::copy(program, context.path().join("contract-server")).expect("it can be copied");
    let recipe =
        "FROM scratch\nCOPY contract-server /\nENTRYPOINT [\"/contract-server\", \"serve\"]\n";
    std::fs::write(context.path().join("Dockerfile"), recipe).expect("it can be written");
    let image = format!("execution-test/contract:{}", std::process::id());
    let mut docker = Command::new("docker");
    docker.env("DOCKER_BUILDKIT", "0");
    done(
        docker
            .args(["build", "--quiet", "--tag", &image])
            .arg(context.path()),
    );
    image
}
