//! A primary with a replica, watched by three sentinels.

use tempfile::TempDir;

use super::server::Server;
use super::{Deployment, Kind};

pub(crate) fn start(folder: TempDir) -> Deployment {
    let primary = Server::on_port(folder.path(), &[]);
    let port = primary.port().to_string();
    let replica = Server::on_port(folder.path(), &["--replicaof", "127.0.0.1", &port]);
    let configuration = format!(
        "sentinel monitor farm 127.0.0.1 {port} 2\n\
         sentinel down-after-milliseconds farm 5000\n\
         sentinel failover-timeout farm 10000\n"
    );
    let sentinels: Vec<_> = (0..3)
        .map(|_| Server::sentinel(folder.path(), &configuration))
        .collect();
    let hosts: Vec<_> = sentinels
        .iter()
        .map(|sentinel| format!("127.0.0.1:{}", sentinel.port()))
        .collect();
    replica.wait_for(&["INFO", "replication"], &["master_link_status:up"]);
    for sentinel in &sentinels {
        // They can agree on a failover: each knows the others and the replica.
        sentinel.wait_for(&["INFO", "sentinel"], &["slaves=1,sentinels=3"]);
    }
    let url = format!("redis+sentinel://{}/farm", hosts.join(","));
    let servers = vec![primary, replica];
    let mut deployment = Deployment::new(Kind::Sentinel, folder, url, servers);
    deployment.sentinels = sentinels;
    deployment
}
