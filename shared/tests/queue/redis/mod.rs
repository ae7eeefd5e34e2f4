//! Redis for one test: real redis-server processes of its own.
//!
//! `QUEUE_REDIS` names the kind: `one` (the default), `tls`, `sentinel` or `cluster`. Every test of
//! the queue must pass with each of them.

mod cluster;
mod sentinel;
mod server;
pub(crate) mod tls;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use redis::Value;
use secrecy::ExposeSecret;
use shared::queue::{Queue, RedisConfig, RedisFiles};
use tempfile::TempDir;

use self::server::Server;

/// How long a Redis may take to be ready.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// A running Redis. It stops when the value is dropped.
pub(crate) struct Redis {
    /// Those that hold data, the primaries first.
    servers: Vec<Server>,
    primaries: usize,
    config: RedisConfig,
    /// Processes that hold no data.
    _sentinels: Vec<Server>,
    _folder: TempDir,
}

impl Redis {
    /// Starts the servers.
    pub(crate) fn start() -> Self {
        let kind = std::env::var("QUEUE_REDIS").unwrap_or_else(|_| "one".to_owned());
        Self::of_kind(&kind)
    }

    /// Starts the servers of this kind.
    pub(crate) fn of_kind(kind: &str) -> Self {
        let folder = TempDir::new().unwrap();
        match kind {
            "one" => Self::one(folder),
            "tls" => tls::start(folder),
            "sentinel" => sentinel::start(folder),
            "cluster" => cluster::start(folder),
            other => panic!("QUEUE_REDIS={other} is not a kind of Redis"),
        }
    }

    fn one(folder: TempDir) -> Self {
        let socket = folder.path().join("redis.sock");
        let server = Server::on_socket(folder.path(), &socket);
        let url = format!("redis+unix://{}", socket.display());
        Self::new(folder, url, vec![server], Vec::new())
    }

    fn new(folder: TempDir, url: String, servers: Vec<Server>, sentinels: Vec<Server>) -> Self {
        Self {
            primaries: 1,
            servers,
            config: RedisConfig {
                url: url.into(),
                files: RedisFiles::default(),
                prefix: "test:".to_owned(),
            },
            _sentinels: sentinels,
            _folder: folder,
        }
    }

    /// How a process reaches it.
    pub(crate) fn config(&self) -> RedisConfig {
        self.config.clone()
    }

    /// The same way to reach it, as another user with a password in a file.
    pub(crate) fn config_of_user(&self, user: &str, password: PathBuf) -> RedisConfig {
        let mut config = self.config();
        let url = config.url.expose_secret().to_owned();
        // A Unix socket has no place for a user in its path.
        config.url = if url.contains("unix://") {
            format!("{url}?user={user}").into()
        } else {
            url.replacen("://", &format!("://{user}:none@"), 1).into()
        };
        config.files.password = Some(password);
        config
    }

    /// The test itself uses the certificates that the files hold now.
    pub(crate) fn reread_certificates(&mut self) {
        let trust = tls::trust(&self.config.files);
        self.servers[0].trust(trust);
    }

    /// Connects as soon as Redis is ready.
    pub(crate) async fn queue(&self) -> Queue {
        self.ready().await;
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            match Queue::connect(&self.config).await {
                Ok(queue) => return queue,
                Err(error) => assert!(Instant::now() < deadline, "Redis does not answer: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until every node of a cluster accepts commands.
    async fn ready(&self) {
        if self.primaries == 1 {
            return;
        }
        let deadline = Instant::now() + READY_WITHIN;
        for server in &self.servers {
            let mut connection = server.connection().await;
            loop {
                let command = redis::cmd("CLUSTER").arg("INFO").to_owned();
                let info: String = command.query_async(&mut connection).await.unwrap();
                if info.contains("cluster_state:ok") {
                    break;
                }
                assert!(Instant::now() < deadline, "{info}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }

    /// Sends a command to the server of its key and returns the answer. A command without a key is
    /// sent to all servers, and the answers are joined.
    pub(crate) async fn command<T: redis::FromRedisValue>(&self, parts: &[&str]) -> T {
        let (name, arguments) = parts.split_first().unwrap();
        let command = redis::cmd(name).arg(arguments).to_owned();
        let mut joined: Option<Value> = None;
        for server in &self.servers[..self.primaries] {
            let mut connection = server.connection().await;
            match command.query_async::<Value>(&mut connection).await {
                Err(error) if error.code() == Some("MOVED") => {}
                answer => joined = Some(join(joined, answer.unwrap())),
            }
        }
        redis::from_redis_value(joined.expect("a server has the key")).unwrap()
    }

    /// How often the servers have run each command.
    pub(crate) async fn command_counts(&self) -> BTreeMap<String, u64> {
        let text: String = self.command(&["INFO", "commandstats"]).await;
        let mut counts = BTreeMap::new();
        for line in text.lines() {
            let count = line.strip_prefix("cmdstat_");
            let Some((name, rest)) = count.and_then(|line| line.split_once(":calls=")) else {
                continue;
            };
            let count: u64 = rest.split(',').next().unwrap().parse().unwrap();
            *counts.entry(name.to_owned()).or_default() += count;
        }
        counts
    }

    /// Sends a signal to every server.
    pub(crate) fn signal(&self, name: &str) {
        for server in &self.servers {
            server.signal(name);
        }
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

fn join(one: Option<Value>, other: Value) -> Value {
    match (one, other) {
        (Some(Value::Array(mut one)), Value::Array(other)) => {
            one.extend(other);
            Value::Array(one)
        }
        (Some(Value::BulkString(mut one)), Value::BulkString(other)) => {
            one.extend(other);
            Value::BulkString(one)
        }
        (_, other) => other,
    }
}
