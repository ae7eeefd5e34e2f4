//! What an operator does with a running farm, and what happens to its machine.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::farm::{CONTAINERS, generations, has_workers, owners};
use crate::project::Project;
use crate::support::client::Client;
use crate::support::load::{Load, Pace};
use crate::support::wait;

/// 50 calls per second.
const PACE: Pace = Pace {
    callers: 10,
    every: Duration::from_millis(200),
};

/// A second `up` keeps the number of workers, and so the state of the contracts.
pub(crate) async fn starting_again(project: &Project, client: &Client, addresses: &[String]) {
    let containers = || {
        let services = ["redis", "api", "worker"];
        let all = services.iter().flat_map(|name| project.containers(name));
        all.map(|container| container.id).collect::<BTreeSet<_>>()
    };
    let before = (containers(), generations(client, addresses).await);
    project.start();
    assert_eq!((containers(), generations(client, addresses).await), before);
}

/// No call fails while workers drain to the last one, or while new workers join.
pub(crate) async fn scaling(project: &Project, clients: &[Client], addresses: &[String]) {
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
pub(crate) async fn death(project: &Project, clients: &[Client], addresses: &[String]) {
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
pub(crate) async fn restart(project: &Project, client: &Client, addresses: &[String]) {
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

/// While Redis is away, the apis stay in service and say what is wrong.
pub(crate) async fn redis_away(project: &Project, clients: &[Client], addresses: &[String]) {
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
pub(crate) async fn power_loss(project: &Project, client: &Client, addresses: &[String]) {
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
pub(crate) async fn rollback(project: &Project, client: &Client, addresses: &[String]) {
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
pub(crate) async fn backup(project: &Project, client: &Client, addresses: &[String]) {
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
