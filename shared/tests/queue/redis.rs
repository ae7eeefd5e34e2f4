//! A separate redis-server for each test.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use secrecy::ExposeSecret;
use shared::queue::{Queue, RedisConfig};
use tempfile::TempDir;

/// A running Redis. It stops when the value is dropped.
pub(crate) struct Redis {
    server: Child,
    config: RedisConfig,
    _folder: TempDir,
}

impl Redis {
    /// Starts a server that listens on a Unix socket only.
    pub(crate) fn start() -> Self {
        let folder = TempDir::new().unwrap();
        let socket = folder.path().join("redis.sock");
        let server = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--appendonly", "no"])
            .arg("--unixsocket")
            .arg(&socket)
            .arg("--dir")
            .arg(folder.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed by scripts/setup");
        let url = format!("redis+unix://{}", socket.display());
        let config = RedisConfig {
            url: url.into(),
            prefix: "test:".to_owned(),
        };
        Self {
            server,
            config,
            _folder: folder,
        }
    }

    /// Connects as soon as the server answers.
    pub(crate) async fn queue(&self) -> Queue {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            match Queue::connect(&self.config).await {
                Ok(queue) => return queue,
                Err(error) => assert!(Instant::now() < deadline, "Redis does not answer: {error}"),
            }
        }
    }

    /// Sends a command and returns the answer.
    pub(crate) async fn command<T: redis::FromRedisValue>(&self, parts: &[&str]) -> T {
        let client = redis::Client::open(self.config.url.expose_secret()).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        let (name, arguments) = parts.split_first().unwrap();
        let command = redis::cmd(name).arg(arguments).to_owned();
        command.query_async(&mut connection).await.unwrap()
    }

    /// Sends a signal to the server.
    pub(crate) fn signal(&self, name: &str) {
        let kill = Command::new("kill")
            .args([&format!("-{name}"), &self.server.id().to_string()])
            .status();
        assert!(kill.unwrap().success());
    }

    /// All keys, sorted.
    pub(crate) async fn keys(&self) -> Vec<String> {
        let mut keys: Vec<String> = self.command(&["KEYS", "*"]).await;
        keys.sort();
        keys
    }

    /// The members of a set.
    pub(crate) async fn members(&self, key: &str) -> Vec<String> {
        self.command(&["SMEMBERS", key]).await
    }

    /// Whether a key expires.
    pub(crate) async fn expires(&self, key: &str) -> bool {
        self.command::<i64>(&["TTL", key]).await > 0
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}
