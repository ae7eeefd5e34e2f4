//! The users of Redis that this project's files make do not cost data.

use std::fs;
use std::process::Command;

use tempfile::TempDir;

use crate::support::process::Process;
use crate::support::programs;
use crate::support::wait;

const FILES: [&str; 3] = [
    "deploy/redis/redis.conf",
    "deploy/redis/server.sh",
    "deploy/kubernetes/components/redis/redis.yaml",
];

/// When Redis reads its append-only file, it runs what scripts wrote as the user `default`.
#[tokio::test]
async fn what_scripts_write_survives_a_restart() {
    for file in FILES {
        assert_eq!(restarted_with(&default_user(file)).await, "1", "{file}");
    }
    // The control: with these rights it does not.
    assert_eq!(restarted_with("user default off").await, "");
}

/// How a file sets the user up that connections have before they authenticate.
fn default_user(file: &str) -> String {
    let text = fs::read_to_string(format!("{}/../{file}", env!("CARGO_MANIFEST_DIR")))
        .expect("the file can be read");
    let at = text.find("user default ").expect("the file sets it up");
    let line = text[at..].lines().next().unwrap_or_default();
    line.trim_end_matches('"').to_owned()
}

/// What a key has that a script wrote before a server was killed and started again.
async fn restarted_with(default_user: &str) -> String {
    let folder = TempDir::with_prefix("execution-redis-").expect("a folder can be made");
    let port = programs::free_port();
    let users = folder.path().join("redis.conf");
    let rules = format!("{default_user}\nuser execution on >secret allkeys +@all -@admin\n");
    fs::write(&users, rules).expect("the file can be written");
    let client = |arguments: &[&str]| {
        let mut client = Command::new("redis-cli");
        client.args(["-p", &port.to_string(), "--user", "execution", "--raw"]);
        let output = client
            .env("REDISCLI_AUTH", "secret")
            .args(arguments)
            .output();
        let output = output.expect("redis-cli can be run");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    let start = async || {
        let mut server = Command::new("redis-server");
        server.arg(&users).args(["--port", &port.to_string()]);
        server.args(["--appendonly", "yes", "--appendfsync", "always", "--dir"]);
        server.arg(folder.path());
        let server = Process::start("redis", server, folder.path());
        wait::until_true("Redis to answer", wait::DEFAULT_LIMIT, async || {
            client(&["ping"]) == "PONG"
        })
        .await;
        server
    };
    let mut server = start().await;
    let anonymous = Command::new("redis-cli")
        .args(["-p", &port.to_string(), "ping"])
        .output();
    let anonymous = anonymous.expect("redis-cli can be run").stdout;
    assert!(anonymous.starts_with(b"NOAUTH"), "{default_user}");
    client(&[
        "eval",
        "redis.call('set', 'a', 1) redis.call('set', 'b', 1)",
        "0",
    ]);
    assert_eq!(client(&["get", "a"]), "1");
    server.kill().await;
    let mut server = start().await;
    let found = client(&["get", "a"]);
    server.kill().await;
    found
}
