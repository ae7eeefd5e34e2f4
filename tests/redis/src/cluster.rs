//! A cluster of three primaries, each with a replica.

use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::server::Server;
use super::{Deployment, Kind, READY_WITHIN, Redis};

const PRIMARIES: usize = 3;

pub(crate) fn start(folder: TempDir) -> Deployment {
    let options = [
        "--cluster-enabled",
        "yes",
        // On a busy machine a server may not run for a second or two. Two primaries that miss each
        // other after the death of the third one stop serving: they see no majority.
        "--cluster-node-timeout",
        "5000",
        "--cluster-require-full-coverage",
        "no",
    ];
    let servers: Vec<_> = (0..2 * PRIMARIES)
        .map(|_| Server::on_port(folder.path(), &options))
        .collect();
    let nodes: Vec<_> = servers
        .iter()
        .map(|server| format!("127.0.0.1:{}", server.port()))
        .collect();
    create(&nodes);
    for (index, server) in servers.iter().enumerate() {
        server.wait_for(&["CLUSTER", "INFO"], &["cluster_state:ok"]);
        if index >= PRIMARIES {
            server.wait_for(&["INFO", "replication"], &["master_link_status:up"]);
        }
    }
    let url = format!("redis+cluster://{}", nodes[..PRIMARIES].join(","));
    let mut deployment = Deployment::new(Kind::Cluster, folder, url, servers);
    deployment.primaries = PRIMARIES;
    deployment
}

/// The first nodes become the primaries.
fn create(nodes: &[String]) {
    let deadline = Instant::now() + READY_WITHIN;
    loop {
        let created = Command::new("redis-cli")
            .args(["--cluster", "create"])
            .args(nodes)
            .args(["--cluster-replicas", "1", "--cluster-yes"])
            .output()
            .expect("redis-cli is installed by scripts/setup");
        if created.status.success() {
            return;
        }
        assert!(Instant::now() < deadline, "{created:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

impl Redis {
    /// Moves the slot of one key between two of [`Self::servers`], as `redis-cli --cluster reshard`
    /// does it. Waits for `pause` after each key, so that clients meet a slot of which a part has
    /// gone.
    pub async fn move_slot(&self, key: &str, from: usize, to: usize, pause: Duration) {
        let (source, target) = (&self.servers()[from], &self.servers()[to]);
        let slot: u16 = source.command(&["CLUSTER", "KEYSLOT", key]).await;
        let slot = slot.to_string();
        let source_id: String = source.command(&["CLUSTER", "MYID"]).await;
        let target_id: String = target.command(&["CLUSTER", "MYID"]).await;
        let set = ["CLUSTER", "SETSLOT", &slot];
        let importing = [&set[..], &["IMPORTING", &source_id]].concat();
        target.command::<()>(&importing).await;
        let migrating = [&set[..], &["MIGRATING", &target_id]].concat();
        source.command::<()>(&migrating).await;
        let port = target.port().to_string();
        let next = ["CLUSTER", "GETKEYSINSLOT", &slot, "1"];
        while let Some(key) = source.command::<Vec<String>>(&next).await.pop() {
            let migrate = ["MIGRATE", "127.0.0.1", &port, &key, "0", "5000"];
            source.command::<()>(&migrate).await;
            tokio::time::sleep(pause).await;
        }
        let node = [&set[..], &["NODE", &target_id]].concat();
        let others = (0..PRIMARIES).filter(|index| ![from, to].contains(index));
        for index in [to, from].into_iter().chain(others) {
            self.servers()[index].command::<()>(&node).await;
        }
    }
}
