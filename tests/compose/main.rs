//! Tests of the Compose project: it is built, started, scaled, disturbed and removed for real.
//! They test the images, the compose files and the seccomp profile. The end-to-end tests cover what
//! the programs do.
//!
//! `make test-compose` runs them; `make test` does not. They need a Docker daemon, root, and about
//! ten minutes.

mod cluster;
mod docker;
mod drills;
mod farm;
mod inside;
mod project;
#[expect(dead_code, reason = "the end-to-end tests use more of it")]
#[path = "../e2e/support/mod.rs"]
mod support;

use std::time::Instant;

use crate::drills::{
    backup, death, power_loss, redis_away, restart, rollback, scaling, starting_again,
};
use crate::farm::{CONTRACTS, are_healthy, end, has_workers, is_confined, load_contracts, owners};
use crate::project::Project;

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
