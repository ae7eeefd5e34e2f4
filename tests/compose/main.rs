//! Tests of the Compose project: it is built, started, scaled, disturbed and removed for real.
//! They test the images, the compose files and the seccomp profile. The end-to-end tests cover what
//! the programs do.
//!
//! `make test-compose` runs them; `make test` does not. They need a Docker daemon, root, and about
//! ten minutes.

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

use crate::project::{Project, output_of};
use crate::support::call_log::CONTRACT;
use crate::support::client::Client;
use crate::support::load::{Load, Pace};
use crate::support::wait;

/// The time limit for containers to start or stop, also on a busy machine.
const CONTAINERS: Duration = Duration::from_mins(2);

const CONTRACTS: usize = 6;

/// 50 calls per second.
const PACE: Pace = Pace {
    callers: 10,
    every: Duration::from_millis(200),
};

#[tokio::test]
async fn a_farm_starts_scales_survives_failures_and_leaves_nothing() {
    let start = Instant::now();
    let log = |what: &str| eprintln!("{:6.1} s: {what}", start.elapsed().as_secs_f64());
    let project = Project::new(&["docker-compose.yml"], 2, 3);
    project.build_and_start();
    let clients = project.clients();
    let client = clients[0].clone();
    for client in &clients {
        has_workers(client, 3).await;
    }
    are_healthy(&project, &["redis", "api", "worker"]).await;
    log("two apis and three workers are up and healthy");
    let addresses = load_contracts(&client).await;
    let owners = owners(&client, &addresses).await;
    assert_eq!(
        owners.len(),
        3,
        "the contracts are not spread over the workers: {owners:?}"
    );

    privileges(&project).await;
    inside::redis_is_guarded(&project);
    log("containers and pages are confined, and Redis knows its users");
    starting_again(&project, &client, &addresses).await;
    log("started again, which changed nothing");
    scaling(&project, &clients, &addresses).await;
    log("scaled to one worker and back");
    death(&project, &clients, &addresses).await;
    log("a worker was killed");
    restart(&project, &client, &addresses).await;
    log("Redis was restarted");
    redis_away(&project, &clients, &addresses).await;
    log("Redis was away");
    power_loss(&project, &client, &addresses).await;
    log("the whole machine was restarted");
    rollback(&project, &client, &addresses).await;
    log("another version was started, and the one before again");
    backup(&project, &client, &addresses).await;
    log("a backup was restored");

    end(&project);
    log("removed");
}

#[tokio::test]
async fn docker_contracts_have_a_separate_worker() {
    let files = ["docker-compose.yml", "docker-compose.docker.yml"];
    let project = Project::new(&files, 1, 1);
    let image = contract_image("first");
    project.build_and_start();
    let client = project.clients().remove(0);
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
    // Workers that run untrusted JavaScript must not see the Docker socket.
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
    rebuilt_tag(&project, &client, &image).await;
    end(&project);
    let mut docker = Command::new("docker");
    let contracts = docker.args(["ps", "--all", "--quiet", "--filter"]);
    let contracts = output_of(contracts.arg(format!("ancestor={image}")));
    assert_eq!(contracts, "", "containers of contracts were not removed");
    output_of(Command::new("docker").args(["image", "rm", &image]));
}

/// Waits until the api is ready and exactly `count` workers are ready.
async fn has_workers(client: &Client, count: usize) {
    wait::until_true("the api to listen", CONTAINERS, async || {
        client.farm_status().await.as_deref() == Some("ready")
    })
    .await;
    wait::until_true("the workers to be ready", CONTAINERS, async || {
        let workers = client.workers().await;
        workers.len() == count && workers.iter().all(|worker| worker["state"] == "ready")
    })
    .await;
}

/// Waits until the health checks of all containers of the services succeed.
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

/// Waits until every contract has an owner, and returns the owning workers.
async fn owners(client: &Client, addresses: &[String]) -> BTreeSet<String> {
    wait::until("the contracts to be assigned", CONTAINERS, async || {
        let mut owners = BTreeSet::new();
        for address in addresses {
            owners.insert(client.owner(address).await?);
        }
        Some(owners)
    })
    .await
}

async fn privileges(project: &Project) {
    let mut renderers = 0;
    for worker in project.containers("worker") {
        inside::container_is_confined(&worker);
        renderers += inside::renderers_are_sandboxed(&worker);
    }
    // Each of the three workers may have one spare page in addition.
    assert!(
        (CONTRACTS..=CONTRACTS + 3).contains(&renderers),
        "{renderers} renderers"
    );
    inside::host_is_unreachable(project);
    inside::page_has_no_network(project).await;
    for service in ["redis", "api", "worker"] {
        is_confined(project, service);
    }
}

/// Checks the restrictions and limits that Docker applies to the containers of a service.
fn is_confined(project: &Project, service: &str) {
    let containers = project.containers(service);
    assert!(!containers.is_empty(), "no container of {service}");
    for container in containers {
        inside::is_unprivileged(&container);
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

/// The generations of contracts.
async fn generations(client: &Client, addresses: &[String]) -> Vec<u64> {
    let mut generations = Vec::new();
    for address in addresses {
        generations.push(client.generation(address).await);
    }
    generations
}

/// A second `up` keeps the number of workers, and so the state of the contracts.
async fn starting_again(project: &Project, client: &Client, addresses: &[String]) {
    let containers = || {
        let services = ["redis", "api", "worker"];
        let all = services.iter().flat_map(|name| project.containers(name));
        all.map(|container| container.id).collect::<BTreeSet<_>>()
    };
    let before = (containers(), generations(client, addresses).await);
    project.start();
    assert_eq!((containers(), generations(client, addresses).await), before);
}

/// A tag that is rebuilt is deployed by a load, and by nothing else.
async fn rebuilt_tag(project: &Project, client: &Client, image: &str) {
    let shown = async || client.contract("image").await["image"].clone();
    let first = shown().await;
    assert_eq!(contract_image("second"), image);
    project.containers("worker-docker")[0].kill();
    let before = client.generation("image").await;
    project.start();
    wait::until_true("another worker to run it", CONTAINERS, async || {
        client.generation("image").await > before
    })
    .await;
    assert_eq!(shown().await, first);
    let body = json!({ "contractAddress": "image", "engine": "docker", "executable": image });
    let loaded = client.post("/loadSmartContract", &body).await;
    loaded.is_no_content();
    assert_ne!(shown().await, first);
    let answer = client.execute("image", "echo", &json!(2)).await;
    assert_eq!(answer.data(), 2);
    let old = first.as_str().expect("an id");
    output_of(Command::new("docker").args(["image", "rm", old]));
}

/// While Redis is away, the apis stay in service and say what is wrong.
async fn redis_away(project: &Project, clients: &[Client], addresses: &[String]) {
    let before = generations(&clients[0], addresses).await;
    project.compose(&["pause", "redis"]);
    for client in clients {
        wait::until_true("the api to notice", CONTAINERS, async || {
            client.farm_status().await.as_deref() == Some("unavailable")
        })
        .await;
        let answer = client.execute(&addresses[0], "add", &json!(1)).await;
        answer.error(503, "queue_unavailable");
    }
    let probe = ["exec", "-T", "api", "execution-api", "healthcheck"];
    project.compose(&probe);
    project.compose(&["unpause", "redis"]);
    for client in clients {
        has_workers(client, 3).await;
    }
    assert_eq!(
        generations(&clients[0], addresses).await,
        before,
        "contracts moved"
    );
}

/// After a restart of everything at once, contracts answer within the deadline of a call.
async fn power_loss(project: &Project, client: &Client, addresses: &[String]) {
    let before = generations(client, addresses).await;
    project.lose_power();
    let restarted = Instant::now();
    project.start();
    wait::until_true("the api to listen", CONTAINERS, async || {
        client.farm_status().await.is_some()
    })
    .await;
    eprintln!("  an api answers after {:.1?}", restarted.elapsed());
    let answer = client.execute(&addresses[0], "known", &json!([])).await;
    eprintln!(
        "  the first call: {} after {:.1?}",
        answer.outcome(),
        restarted.elapsed()
    );
    if answer.status != 200 {
        assert!(answer.never_started(), "{answer:?}");
    }
    has_workers(client, 3).await;
    for (address, before) in addresses.iter().zip(before) {
        client.execute(address, "known", &json!([])).await.data();
        assert!(client.generation(address).await > before, "{address}");
    }
    eprintln!("  all contracts answer after {:.1?}", restarted.elapsed());
}

/// Goes to another version of the images, and back to the one before.
async fn rollback(project: &Project, client: &Client, addresses: &[String]) {
    Project::release("next");
    for version in ["next", "latest"] {
        let before = generations(client, addresses).await;
        project.use_version(version);
        project.compose(&["up", "--detach", "--no-build"]);
        has_workers(client, 3).await;
        for (address, before) in addresses.iter().zip(before) {
            wait::until_true("the contract to be called", CONTAINERS, async || {
                client.execute(address, "known", &json!([])).await.status == 200
            })
            .await;
            assert!(client.generation(address).await > before, "{address}");
        }
        for container in project.containers("worker") {
            let image = container.inspect("Config.Image");
            assert!(image.contains(version), "{image}");
        }
    }
    Project::remove_release("next");
}

/// The commands of docs/operations.md: a backup, the loss of everything, a restore.
async fn backup(project: &Project, client: &Client, addresses: &[String]) {
    let copy = "export REDISCLI_AUTH=$(cat /data/operator.password)
        redis-cli --user operator --rdb /data/backup.rdb >&2
        cat /data/backup.rdb && rm /data/backup.rdb";
    let saved = project.compose_with(&["exec", "-T", "redis", "sh", "-c", copy], b"");
    assert!(saved.starts_with(b"REDIS"), "{} bytes", saved.len());
    project.compose(&["down", "--volumes"]);
    let restore = "mkdir appendonlydir
        cat > appendonlydir/appendonly.aof.1.base.rdb
        echo file appendonly.aof.1.base.rdb seq 1 type b > appendonlydir/appendonly.aof.manifest";
    let run = [
        "run",
        "--rm",
        "--no-deps",
        "-T",
        "redis",
        "sh",
        "-ec",
        restore,
    ];
    project.compose_with(&run, &saved);
    project.start();
    has_workers(client, 3).await;
    for address in addresses {
        wait::until_true("the contract to be called", CONTAINERS, async || {
            client.execute(address, "known", &json!([])).await.status == 200
        })
        .await;
    }
}

/// No call fails while workers drain to the last one, or while new workers join.
async fn scaling(project: &Project, clients: &[Client], addresses: &[String]) {
    let client = &clients[0];
    let load = Load::start(clients, addresses, PACE);
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

/// A worker that is killed under load delays calls, but no call fails.
async fn death(project: &Project, clients: &[Client], addresses: &[String]) {
    let client = &clients[0];
    let load = Load::retrying(1_000_000, clients, addresses, PACE);
    load.full_pace().await;
    let before = owners(client, addresses).await;
    // The worker that survived the scaling owns all contracts; it is the last one in the list.
    project.containers("worker")[2].kill();
    wait::until_true(
        "other workers to own its contracts",
        CONTAINERS,
        async || owners(client, addresses).await.is_disjoint(&before),
    )
    .await;
    load.full_pace().await;
    project.scale(3);
    has_workers(client, 3).await;
    load.end().await.check(client, &["ok"]).await;
}

/// Contracts survive a restart of Redis, because its data is in a volume.
async fn restart(project: &Project, client: &Client, addresses: &[String]) {
    project.compose(&["restart", "redis"]);
    has_workers(client, 3).await;
    for address in addresses {
        // The api answers 503 until it is connected again.
        let answer = wait::until("calls to be answered", CONTAINERS, async || {
            let answer = client.execute(address, "add", &json!(7)).await;
            (answer.status != 503).then_some(answer)
        })
        .await;
        assert_eq!(answer.data()["id"], 7, "{answer:?}");
    }
}

/// Every process exits by itself within its grace period, and nothing is left behind.
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

/// Builds an image of the contract server that the tests use as a Docker contract. Another
/// `version` is another image under the same name.
fn contract_image(version: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("contract-server/target");
    let targets = std::fs::read_dir(&folder).expect("run `make contract-server` first");
    let program: PathBuf = targets
        .filter_map(|target| Some(target.ok()?.path().join("release/contract-server")))
        .find(|program| program.is_file())
        .expect("run `make contract-server` first");
    let context = tempfile::tempdir().expect("create a temporary folder");
    std::fs::copy(program, context.path().join("contract-server")).expect("copy the program");
    let recipe = format!(
        "FROM scratch\nCOPY contract-server /\nLABEL version={version}\n\
         ENTRYPOINT [\"/contract-server\", \"serve\"]\n"
    );
    std::fs::write(context.path().join("Dockerfile"), recipe).expect("write the Dockerfile");
    let image = format!("execution-test/contract:{}", std::process::id());
    let mut docker = Command::new("docker");
    docker.env("DOCKER_BUILDKIT", "0");
    output_of(
        docker
            .args(["build", "--quiet", "--tag", &image])
            .arg(context.path()),
    );
    image
}
