//! The Redis of one farm.

use std::path::Path;
use std::process::Command;

use redis::FromRedisValue;
use redis_servers::{Kind, Redis};
use secrecy::ExposeSecret;

use super::process::Process;
use super::programs;
use super::wait::{self, DEFAULT_LIMIT};

/// A running Redis. It stores nothing on disk unless configured to.
pub(crate) enum RedisServer {
    /// One server.
    One { port: u16, process: Process },
    /// Servers with TLS, behind sentinels or of a cluster.
    Several(Redis),
}

impl RedisServer {
    /// Starts servers of this kind that no other test gets.
    pub(crate) async fn of_kind(kind: Kind) -> Self {
        let starting = tokio::task::spawn_blocking(move || Redis::exclusive(kind));
        Self::Several(starting.await.expect("the servers start"))
    }

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
        let mut server = Self::One {
            port,
            process: Process::start("redis", command, folder),
        };
        wait::until("Redis to answer", DEFAULT_LIMIT, async || {
            let process = server.process();
            let ended = process.ended();
            assert!(ended.is_none(), "redis-server ended:\n{}", process.log());
            server.try_connection().await
        })
        .await;
        server
    }

    /// The process of one server.
    pub(crate) fn process(&mut self) -> &mut Process {
        match self {
            Self::One { process, .. } => process,
            Self::Several(_) => panic!("this Redis has several processes"),
        }
    }

    /// Whether keys are on different servers.
    pub(crate) fn is_cluster(&self) -> bool {
        self.url().starts_with("redis+cluster")
    }

    /// The servers of a Redis that has several.
    pub(crate) fn several(&self) -> &Redis {
        match self {
            Self::One { .. } => panic!("this Redis has one process"),
            Self::Several(redis) => redis,
        }
    }

    /// As [`Self::several`], to kill and to restart them.
    pub(crate) fn several_mut(&mut self) -> &mut Redis {
        match self {
            Self::One { .. } => panic!("this Redis has one process"),
            Self::Several(redis) => redis,
        }
    }

    /// Ends it. Servers of other kinds end with this value.
    pub(crate) async fn terminate(&mut self) {
        if let Self::One { process, .. } = self {
            process.terminate().await;
        }
    }

    /// What it has written, for a test that failed.
    pub(crate) fn log(&self) -> String {
        match self {
            Self::One { process, .. } => process.log(),
            Self::Several(_) => String::new(),
        }
    }

    /// The value of `REDIS_URL` for a program.
    pub(crate) fn url(&self) -> String {
        match self {
            Self::One { port, .. } => format!("redis://127.0.0.1:{port}/"),
            Self::Several(redis) => redis.config().url.expose_secret().to_owned(),
        }
    }

    /// The settings by which a program reaches it.
    pub(crate) fn env(&self) -> Vec<(&'static str, String)> {
        let mut env = vec![("REDIS_URL", self.url())];
        if let Self::Several(redis) = self {
            let files = redis.config().files;
            let named = [
                ("REDIS_CA_FILE", files.ca),
                ("REDIS_CERT_FILE", files.certificate),
                ("REDIS_KEY_FILE", files.key),
                ("REDIS_PASSWORD_FILE", files.password),
            ];
            for (name, file) in named {
                env.extend(file.map(|file| (name, file.display().to_string())));
            }
        }
        env
    }

    /// The port that one server listens on.
    pub(crate) fn port(&self) -> u16 {
        match self {
            Self::One { port, .. } => *port,
            Self::Several(_) => panic!("this Redis has several ports"),
        }
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

    /// Sends a command to the server of its key and returns the answer. A command without a key
    /// goes to every primary.
    pub(crate) async fn command<T: FromRedisValue>(&self, words: &[&str]) -> T {
        if let Self::Several(redis) = self {
            return redis.command(words).await;
        }
        let mut connection = self.connection().await;
        let mut command = redis::Cmd::new();
        command.arg(words);
        let answer = command.query_async(&mut connection).await;
        answer.unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    /// Every key, sorted.
    pub(crate) async fn keys(&self) -> Vec<String> {
        // A test's farm has at most some hundred keys, so paging is not needed.
        let mut keys: Vec<String> = self.command(&["KEYS", "*"]).await;
        keys.sort();
        keys
    }

    /// The value of a string key.
    pub(crate) async fn text(&self, key: &str) -> String {
        self.command(&["GET", key]).await
    }

    /// Whether the key has an expiry.
    pub(crate) async fn expires(&self, key: &str) -> bool {
        self.command::<i64>(&["TTL", key]).await >= 0
    }

    /// The workers that have registered in the farm with this prefix.
    pub(crate) async fn workers(&self, prefix: &str) -> Vec<String> {
        let key = format!("{prefix}workers");
        self.command(&["ZRANGE", &key, "0", "-1"]).await
    }
}
