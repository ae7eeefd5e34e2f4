//! What every test asks of the farm in a project.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

use crate::inside;
use crate::project::Project;
use crate::support::call_log::CONTRACT;
use crate::support::client::Client;
use crate::support::wait;

/// The time limit for containers to start or stop, also on a busy machine.
pub(crate) const CONTAINERS: Duration = Duration::from_mins(2);

/// How many contracts a test loads.
pub(crate) const CONTRACTS: usize = 6;

/// Waits until the api is ready and exactly `count` workers are ready.
pub(crate) async fn has_workers(client: &Client, count: usize) {
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
pub(crate) async fn are_healthy(project: &Project, services: &[&str]) {
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

pub(crate) async fn load_contracts(client: &Client) -> Vec<String> {
    let addresses: Vec<_> = (0..CONTRACTS).map(|number| format!("c{number}")).collect();
    for address in &addresses {
        client.must_load(address, CONTRACT).await;
        let answer = client.execute(address, "add", &json!(0)).await;
        assert_eq!(answer.data()["count"], 1, "{answer:?}");
    }
    addresses
}

/// Waits until every contract has an owner, and returns the owning workers.
pub(crate) async fn owners(client: &Client, addresses: &[String]) -> BTreeSet<String> {
    wait::until("the contracts to be assigned", CONTAINERS, async || {
        let mut owners = BTreeSet::new();
        for address in addresses {
            owners.insert(client.owner(address).await?);
        }
        Some(owners)
    })
    .await
}

/// The generations of contracts.
pub(crate) async fn generations(client: &Client, addresses: &[String]) -> Vec<u64> {
    let mut generations = Vec::new();
    for address in addresses {
        generations.push(client.generation(address).await);
    }
    generations
}

/// Checks the restrictions and limits that Docker applies to the containers of a service.
pub(crate) fn is_confined(project: &Project, service: &str) {
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

/// Every process exits by itself within its grace period, and nothing is left behind.
pub(crate) fn end(project: &Project) {
    let containers = project.all_containers();
    project.compose(&["stop"]);
    for container in &containers {
        let state: Value = serde_json::from_str(&container.inspect("State")).expect("is JSON");
        assert_eq!(state["ExitCode"], 0, "{state}");
        assert_eq!(state["OOMKilled"], false, "{state}");
    }
    project.compose(&["down", "--volumes"]);
    assert_eq!(project.leftovers(), [""; 0]);
}
