//! Redis as a cluster of six nodes, with and without TLS.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Instant;

use redis_servers::Authority;
use serde_json::json;

use crate::drills;
use crate::farm::{CONTAINERS, are_healthy, end, has_workers, is_confined, load_contracts};
use crate::project::Project;
use crate::support::client::Client;
use crate::support::wait;

const NODES: [&str; 6] = [
    "redis", "redis-2", "redis-3", "redis-4", "redis-5", "redis-6",
];

const AS_OPERATOR: &str =
    "REDISCLI_AUTH=$(cat /run/redis-nodes/operator.password) redis-cli --user operator";

const FILES: [&str; 3] = [
    "docker-compose.yml",
    "docker-compose.cluster.yml",
    "docker-compose.cluster-tls.yml",
];

#[tokio::test]
async fn a_farm_on_a_cluster_survives_the_loss_of_a_node_and_of_the_machine() {
    let start = Instant::now();
    let log = |what: &str| eprintln!("{:6.1} s: {what}", start.elapsed().as_secs_f64());
    let project = Project::new(&FILES[..2], 1, 3);
    let (client, addresses) = started(&project).await;
    log("a farm runs on a cluster");
    for service in NODES.into_iter().chain(["redis-cluster"]) {
        is_confined(&project, service);
    }
    assert_eq!(primaries(&project), 3);
    wait::until_true("each primary to have a replica", CONTAINERS, async || {
        replicas_in_step(&project) == 3
    })
    .await;
    drills::starting_again(&project, &client, &addresses).await;
    log("started again, which changed nothing");

    // A replica takes the place of its primary. The node comes back as a replica.
    project.containers("redis-2")[0].kill();
    wait::until_true("a replica to take over", CONTAINERS, async || {
        primaries(&project) == 3 && all_answer(&client, &addresses).await
    })
    .await;
    log("a primary was lost");
    project.start();
    are_healthy(&project, &NODES).await;
    wait::until_true("its node to be a replica", CONTAINERS, async || {
        primaries(&project) == 3
    })
    .await;
    log("its node is back");
    drills::power_loss(&project, &client, &addresses).await;
    are_healthy(&project, &NODES).await;
    log("the whole machine was restarted");
    end(&project);
}

#[tokio::test]
async fn a_farm_on_a_cluster_speaks_tls() {
    let folder = tempfile::tempdir().expect("create a temporary folder");
    let names = ["redis.crt", "redis.key", "ca.crt"];
    let authority = Authority::new(folder.path());
    authority.issue_for(&NODES, folder.path(), "redis");
    std::fs::rename(&authority.file, folder.path().join("ca.crt")).expect("rename a file");
    readable(folder.path(), 0o755);
    for name in names {
        readable(&folder.path().join(name), 0o644);
    }
    let mut project = Project::new(&FILES, 1, 1);
    project.set("REDIS_TLS_DIR", folder.path());
    let (client, addresses) = started(&project).await;
    assert!(all_answer(&client, &addresses).await);
    let plain = project.containers("redis")[0].run(&format!("{AS_OPERATOR} -e ping"));
    assert!(!plain.status.success(), "without TLS: {plain:?}");
    end(&project);
}

/// Others than the owner may read it, as the users in the containers must.
fn readable(path: &Path, mode: u32) {
    let permissions = std::fs::Permissions::from_mode(mode);
    std::fs::set_permissions(path, permissions).expect("change the mode");
}

/// Starts a project, and loads contracts into it.
async fn started(project: &Project) -> (Client, Vec<String>) {
    project.build_and_start();
    let client = project.clients().remove(0);
    has_workers(&client, project.workers()).await;
    are_healthy(project, &NODES).await;
    let addresses = load_contracts(&client).await;
    (client, addresses)
}

async fn all_answer(client: &Client, addresses: &[String]) -> bool {
    for address in addresses {
        if client.execute(address, "known", &json!([])).await.status != 200 {
            return false;
        }
    }
    true
}

/// How many nodes that run are primaries with slots.
fn primaries(project: &Project) -> usize {
    // ID ADDRESS FLAGS PRIMARY PING PONG EPOCH LINK SLOTS...
    let is_primary = |line: &str| line.contains("master") && line.split_whitespace().count() > 8;
    nodes_that_say(project, "cluster nodes | grep myself", is_primary)
}

/// How many replicas have the data of their primaries.
fn replicas_in_step(project: &Project) -> usize {
    let is_up = |info: &str| info.contains("master_link_status:up");
    nodes_that_say(project, "info replication", is_up)
}

fn nodes_that_say(project: &Project, command: &str, expected: impl Fn(&str) -> bool) -> usize {
    let said = |node: &&str| {
        project.containers(node).iter().any(|container| {
            let output = container.run(&format!("{AS_OPERATOR} -e {command}"));
            expected(&String::from_utf8_lossy(&output.stdout))
        })
    };
    NODES.into_iter().filter(said).count()
}
