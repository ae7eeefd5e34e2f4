//! A cluster of three primaries, each with a replica.

use std::process::Command;

use tempfile::TempDir;

use super::Redis;
use super::server::Server;

const PRIMARIES: usize = 3;

pub(super) fn start(folder: TempDir) -> Redis {
    let options = [
        "--cluster-enabled",
        "yes",
        "--cluster-node-timeout",
        "2000",
        "--cluster-require-full-coverage",
        "no",
    ];
    let servers: Vec<_> = (0..2 * PRIMARIES)
        .map(|_| Server::on_port(folder.path(), &options))
        .collect();
    let nodes: Vec<_> = servers
        .iter()
        .map(|server| format!("127.0.0.1:{}", server.port))
        .collect();
    create(&nodes);
    let url = format!("redis+cluster://{}", nodes[..PRIMARIES].join(","));
    let mut redis = Redis::new(folder, url, servers, Vec::new());
    redis.primaries = PRIMARIES;
    redis
}

/// The first nodes become the primaries.
fn create(nodes: &[String]) {
    let deadline = std::time::Instant::now() + super::READY_WITHIN;
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
        assert!(std::time::Instant::now() < deadline, "{created:?}");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}
