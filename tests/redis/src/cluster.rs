//! Clusters: three primaries, each with a replica; or some primaries without replicas.

use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::server::Server;
use super::{Deployment, Kind, READY_WITHIN, Redis};

const PRIMARIES: usize = 3;

/// The slots of a cluster.
const SLOTS: usize = 16_384;

const OPTIONS: [&str; 6] = [
    "--cluster-enabled",
    "yes",
    // On a busy machine a server may not run for a second or two. Two primaries that miss each
    // other after the death of the third one stop serving: they see no majority.
    "--cluster-node-timeout",
    "5000",
    "--cluster-require-full-coverage",
    "no",
];

pub(crate) fn start(folder: TempDir) -> Deployment {
    let servers = servers(&folder, 2 * PRIMARIES);
    let nodes: Vec<_> = servers.iter().map(endpoint).collect();
    create(&nodes);
    for (index, server) in servers.iter().enumerate() {
        server.wait_for(&["CLUSTER", "INFO"], &["cluster_state:ok"]);
        if index >= PRIMARIES {
            server.wait_for(&["INFO", "replication"], &["master_link_status:up"]);
        }
    }
    deployment(folder, servers, PRIMARIES)
}

/// A cluster of `count` primaries without replicas. `redis-cli` makes none with fewer than three.
pub(crate) fn primaries(folder: TempDir, count: usize) -> Deployment {
    let servers = servers(&folder, count);
    for (index, server) in servers.iter().enumerate() {
        let [first, last] = [index * SLOTS / count, (index + 1) * SLOTS / count - 1];
        let range = [first.to_string(), last.to_string()];
        server.must(&["CLUSTER", "ADDSLOTSRANGE", &range[0], &range[1]]);
        let port = server.port().to_string();
        servers[0].must(&["CLUSTER", "MEET", "127.0.0.1", &port]);
    }
    let (state, known) = ("cluster_state:ok", format!("cluster_known_nodes:{count}\r"));
    let slots = format!("cluster_slots_assigned:{SLOTS}");
    for server in &servers {
        server.wait_for(&["CLUSTER", "INFO"], &[state, &known, &slots]);
    }
    deployment(folder, servers, count)
}

fn servers(folder: &TempDir, count: usize) -> Vec<Server> {
    let servers = (0..count).map(|_| Server::on_port(folder.path(), &OPTIONS));
    servers.collect()
}

fn endpoint(server: &Server) -> String {
    format!("127.0.0.1:{}", server.port())
}

fn deployment(folder: TempDir, servers: Vec<Server>, primaries: usize) -> Deployment {
    let nodes: Vec<_> = servers[..primaries].iter().map(endpoint).collect();
    let url = format!("redis+cluster://{}", nodes.join(","));
    let mut deployment = Deployment::new(Kind::Cluster, folder, url, servers);
    deployment.primaries = primaries;
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
