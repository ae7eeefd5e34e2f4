//! A primary with a replica, watched by three sentinels.

use tempfile::TempDir;

use super::Redis;
use super::server::Server;

pub(super) fn start(folder: TempDir) -> Redis {
    let primary = Server::on_port(folder.path(), &[]);
    let port = primary.port.to_string();
    let replica = Server::on_port(folder.path(), &["--replicaof", "127.0.0.1", &port]);
    let configuration = format!(
        "sentinel monitor farm 127.0.0.1 {port} 2\n\
         sentinel down-after-milliseconds farm 2000\n\
         sentinel failover-timeout farm 4000\n"
    );
    let sentinels: Vec<_> = (0..3)
        .map(|_| Server::sentinel(folder.path(), &configuration))
        .collect();
    let hosts: Vec<_> = sentinels
        .iter()
        .map(|sentinel| format!("127.0.0.1:{}", sentinel.port))
        .collect();
    let url = format!("redis+sentinel://{}/farm", hosts.join(","));
    Redis::new(folder, url, vec![primary, replica], sentinels)
}
