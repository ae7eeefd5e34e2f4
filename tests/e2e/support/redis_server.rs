//! A Redis server for one farm.

use std::path::Path;
use std::process::Command;

use super::process::Process;
use super::programs;
use super::wait::{self, DEFAULT_LIMIT};

/// A running redis-server. It stores nothing on disk unless configured to.
pub(crate) struct RedisServer {
    port: u16,
    pub(crate) process: Process,
}

impl RedisServer {
    /// Starts a server on a free port that writes its files to `folder`.
    pub(crate) async fn start(folder: &Path) -> Self {
        Self::start_on(programs::free_port(), "noeviction", folder).await
    }

    /// Starts a server on `port` with a `maxmemory-policy`.
    pub(crate) async fn start_on(port: u16, policy: &str, folder: &Path) -> Self {
        Self::launch(port, policy, "no", folder).await
    }

    /// Starts a server on `port` with the data of an earlier one in `folder` (its append-only
    /// file).
    pub(crate) async fn start_with_data(port: u16, folder: &Path) -> Self {
        Self::launch(port, "noeviction", "yes", folder).await
    }

    async fn launch(port: u16, policy: &str, appendonly: &str, folder: &Path) -> Self {
        let mut command = Command::new("redis-server");
        command
            .args(["--bind", "127.0.0.1", "--port", &port.to_string()])
            .args([
                "--save",
                "",
                "--appendonly",
                appendonly,
                "--maxmemory-policy",
                policy,
            ])
            .arg("--dir")
            .arg(folder);
        let mut server = Self {
            port,
            process: Process::start("redis", command, folder),
        };
        wait::until("Redis to answer", DEFAULT_LIMIT, async || {
            let ended = server.process.ended();
            assert!(
                ended.is_none(),
                "redis-server ended:\n{}",
                server.process.log()
            );
            server.try_connection().await
        })
        .await;
        server
    }

    /// The value of `REDIS_URL` for a program.
    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    /// The port that it listens on.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    async fn try_connection(&self) -> Option<redis::aio::MultiplexedConnection> {
        let client = redis::Client::open(self.url()).expect("the URL is well-formed");
        let mut connection = client.get_multiplexed_async_connection().await.ok()?;
        redis::cmd("PING").exec_async(&mut connection).await.ok()?;
        Some(connection)
    }

    /// A connection to inspect the farm's data.
    pub(crate) async fn connection(&self) -> redis::aio::MultiplexedConnection {
        self.try_connection()
            .await
            .expect("the farm's Redis answers")
    }

    /// Every key, sorted.
    pub(crate) async fn keys(&self) -> Vec<String> {
        let mut connection = self.connection().await;
        // A test's farm has at most some hundred keys, so paging is not needed.
        let mut keys: Vec<String> = redis::cmd("KEYS")
            .arg("*")
            .query_async(&mut connection)
            .await
            .expect("the farm's Redis answers");
        keys.sort();
        keys
    }

    /// The value of a string key.
    pub(crate) async fn text(&self, key: &str) -> String {
        let mut connection = self.connection().await;
        let text = redis::cmd("GET")
            .arg(key)
            .query_async(&mut connection)
            .await;
        text.unwrap_or_else(|error| panic!("{key}: {error}"))
    }

    /// Whether the key has an expiry.
    pub(crate) async fn expires(&self, key: &str) -> bool {
        let mut connection = self.connection().await;
        let seconds: i64 = redis::cmd("TTL")
            .arg(key)
            .query_async(&mut connection)
            .await
            .expect("the farm's Redis answers");
        seconds >= 0
    }

    /// The workers that have registered in the farm with this prefix.
    pub(crate) async fn workers(&self, prefix: &str) -> Vec<String> {
        let mut connection = self.connection().await;
        redis::cmd("ZRANGE")
            .arg(format!("{prefix}workers"))
            .arg(&[0, -1])
            .query_async(&mut connection)
            .await
            .expect("the farm's Redis answers")
    }
}
