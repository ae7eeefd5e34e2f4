//! Redis for tests: real `redis-server` processes, as one server, with TLS, behind sentinels, or as
//! a cluster.
//!
//! Starting a cluster takes seconds, so a test passes its servers on: the next test of the same
//! process gets them empty, with their settings as at first. A test that breaks its servers takes
//! them with [`Redis::exclusive`]. A test that fails does not pass its servers on.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

mod cluster;
mod process;
mod sentinel;
mod server;
mod shelf;
mod tls;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use redis::Value;
use secrecy::ExposeSecret;
use shared::queue::{Queue, RedisConfig, RedisFiles};
use tempfile::TempDir;

pub use self::server::{Role, Server};
pub use self::tls::Authority;

/// How long servers may take to be ready: 30 s, much longer than on an idle machine.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// When a server gives up a failover that it was asked for: `CLUSTER_MF_TIMEOUT` of Redis.
const GIVES_UP_AFTER: Duration = Duration::from_secs(5);

/// How Redis is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One server on a Unix socket.
    One,
    /// One server that accepts only TLS, with certificates on both sides.
    Tls,
    /// A primary with a replica, watched by three sentinels.
    Sentinel,
    /// A cluster of three primaries, each with a replica.
    Cluster,
}

impl Kind {
    /// The kind that `QUEUE_REDIS` names: `one` (the default), `tls`, `sentinel` or `cluster`.
    pub fn from_env() -> Self {
        match std::env::var("QUEUE_REDIS").as_deref() {
            Err(_) | Ok("one") => Self::One,
            Ok("tls") => Self::Tls,
            Ok("sentinel") => Self::Sentinel,
            Ok("cluster") => Self::Cluster,
            Ok(other) => panic!("QUEUE_REDIS={other} is not a kind of Redis"),
        }
    }
}

/// The servers of one Redis.
struct Deployment {
    kind: Kind,
    /// Those that hold data, the primaries first.
    servers: Vec<Server>,
    primaries: usize,
    /// Processes that hold no data.
    sentinels: Vec<Server>,
    config: RedisConfig,
    folder: TempDir,
}

impl Deployment {
    fn start(kind: Kind) -> Self {
        let folder = TempDir::with_prefix("redis-servers-").unwrap();
        match kind {
            Kind::One => Self::one(folder),
            Kind::Tls => tls::start(folder),
            Kind::Sentinel => sentinel::start(folder),
            Kind::Cluster => cluster::start(folder),
        }
    }

    fn one(folder: TempDir) -> Self {
        let socket = folder.path().join("redis.sock");
        let server = Server::on_socket(folder.path(), &socket);
        let url = format!("redis+unix://{}", socket.display());
        Self::new(Kind::One, folder, url, vec![server])
    }

    fn new(kind: Kind, folder: TempDir, url: String, servers: Vec<Server>) -> Self {
        Self {
            kind,
            primaries: 1,
            servers,
            sentinels: Vec::new(),
            config: RedisConfig {
                url: url.into(),
                files: RedisFiles::default(),
                prefix: "test:".to_owned(),
            },
            folder,
        }
    }
}

/// A running Redis that no other test uses.
pub struct Redis {
    /// None only while this is dropped.
    deployment: Option<Deployment>,
    is_passed_on: bool,
}

impl Redis {
    /// Servers of the kind that `QUEUE_REDIS` names.
    pub fn start() -> Self {
        Self::of_kind(Kind::from_env())
    }

    /// Servers of this kind.
    pub fn of_kind(kind: Kind) -> Self {
        Self {
            deployment: Some(shelf::take(kind)),
            is_passed_on: true,
        }
    }

    /// Servers that no other test gets afterwards.
    pub fn exclusive(kind: Kind) -> Self {
        Self {
            deployment: Some(Deployment::start(kind)),
            is_passed_on: false,
        }
    }

    /// One server on a port, as the nodes of a cluster are, which no other test gets afterwards.
    pub fn on_port() -> Self {
        let folder = TempDir::with_prefix("redis-servers-").unwrap();
        let server = Server::on_port(folder.path(), &[]);
        let url = format!("redis://127.0.0.1:{}", server.port());
        Self {
            deployment: Some(Deployment::new(Kind::One, folder, url, vec![server])),
            is_passed_on: false,
        }
    }

    /// A cluster of so many primaries without replicas, which no other test gets afterwards.
    pub fn primaries_only(count: usize) -> Self {
        let folder = TempDir::with_prefix("redis-servers-").unwrap();
        Self {
            deployment: Some(cluster::primaries(folder, count)),
            is_passed_on: false,
        }
    }

    fn deployment(&self) -> &Deployment {
        let deployment = self.deployment.as_ref();
        deployment.expect("it is taken only when this is dropped")
    }

    fn deployment_mut(&mut self) -> &mut Deployment {
        let deployment = self.deployment.as_mut();
        deployment.expect("it is taken only when this is dropped")
    }

    /// How a process reaches it.
    pub fn config(&self) -> RedisConfig {
        self.deployment().config.clone()
    }

    /// The same way to reach it, as another user with a password in a file.
    pub fn config_of_user(&self, user: &str, password: PathBuf) -> RedisConfig {
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

    /// The folder with the files of the servers.
    pub fn folder(&self) -> &Path {
        self.deployment().folder.path()
    }

    /// The servers that hold data, the ones that were primaries at first before the others.
    pub fn servers(&self) -> &[Server] {
        &self.deployment().servers
    }

    /// One of [`Self::servers`].
    pub fn server_mut(&mut self, index: usize) -> &mut Server {
        &mut self.deployment_mut().servers[index]
    }

    /// The sentinels.
    pub fn sentinels(&self) -> &[Server] {
        &self.deployment().sentinels
    }

    /// The primaries. Only a test that has the servers for itself can have changed which those are.
    async fn primaries(&self) -> Vec<&Server> {
        if self.is_passed_on {
            let count = self.deployment().primaries;
            return self.servers().iter().take(count).collect();
        }
        let mut primaries = Vec::new();
        for server in self.servers().iter().filter(|server| server.runs()) {
            if server.role().await == Some(Role::Primary) {
                primaries.push(server);
            }
        }
        primaries
    }

    /// The test itself uses the certificates that the files hold now.
    pub fn reread_certificates(&mut self) {
        let deployment = self.deployment_mut();
        let trust = tls::trust(&deployment.config.files);
        deployment.servers[0].trust(trust);
    }

    /// Connects.
    pub async fn queue(&self) -> Queue {
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            match Queue::connect(&self.deployment().config).await {
                Ok(queue) => return queue,
                Err(error) => assert!(Instant::now() < deadline, "Redis does not answer: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Sends a command to the server of its key and returns the answer. A command without a key is
    /// sent to all primaries, and the answers are joined.
    pub async fn command<T: redis::FromRedisValue>(&self, parts: &[&str]) -> T {
        let mut joined: Option<Value> = None;
        for server in self.primaries().await {
            match server.try_command::<Value>(parts).await {
                Err(error) if error.code() == Some("MOVED") => {}
                answer => joined = Some(join(joined, answer.unwrap())),
            }
        }
        redis::from_redis_value(joined.expect("a server has the key")).unwrap()
    }

    /// The primary that has a key, by its place in [`Self::servers`].
    pub async fn server_of(&self, key: &str) -> usize {
        let found = self.find(key).await;
        found.unwrap_or_else(|| panic!("no server has {key}"))
    }

    /// As [`Self::server_of`]. None if no server that runs has the key.
    pub async fn find(&self, key: &str) -> Option<usize> {
        for (index, server) in self.servers().iter().enumerate() {
            // A replica redirects as well.
            if server.runs() && server.try_command::<bool>(&["EXISTS", key]).await.is_ok() {
                return Some(index);
            }
        }
        None
    }

    /// The replicas of one of [`Self::servers`], by their places there.
    pub async fn replicas_of(&self, primary: usize) -> Vec<usize> {
        let port = self.servers()[primary].port();
        let mut replicas = Vec::new();
        for (index, server) in self.servers().iter().enumerate() {
            if server.runs() && server.primary_port().await == Some(port) {
                replicas.push(index);
            }
        }
        replicas
    }

    /// Lets a replica of a cluster take the place of its primary, which becomes its replica.
    ///
    /// All primaries must have a connection to the replica, which they vote through. A vote that is
    /// lost costs the primary's clients four times the node timeout. The two agree within five
    /// seconds, or Redis gives up. Whoever asked has to ask again, which operators do as well.
    pub async fn fail_over(&self, replica: usize, primary: usize) {
        let server = &self.servers()[replica];
        let deadline = Instant::now() + READY_WITHIN;
        while !self.is_known_to_all(replica).await {
            assert!(Instant::now() < deadline, "server {replica} has no votes");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        while server.role().await != Some(Role::Primary) {
            assert!(Instant::now() < deadline, "server {replica} is no primary");
            // Refused if it has become the primary meanwhile.
            let asked = server.try_command::<()>(&["CLUSTER", "FAILOVER"]).await;
            let given_up = Instant::now() + GIVES_UP_AFTER;
            while asked.is_ok() && Instant::now() < given_up {
                if server.role().await == Some(Role::Primary) {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        self.becomes(primary, Role::Replica).await;
    }

    /// Whether all other nodes of a cluster that run are connected to one.
    async fn is_known_to_all(&self, index: usize) -> bool {
        let address = format!(" 127.0.0.1:{}@", self.servers()[index].port());
        for server in self.servers().iter().filter(|server| server.runs()) {
            let nodes: String = server.command(&["CLUSTER", "NODES"]).await;
            let mut lines = nodes.lines();
            let line = lines.find(|line| line.contains(&address));
            if !line.is_some_and(|line| line.contains(" connected")) {
                return false;
            }
        }
        true
    }

    /// Waits until one of [`Self::servers`] is a replica, or is a primary.
    pub async fn becomes(&self, index: usize, role: Role) {
        let deadline = Instant::now() + READY_WITHIN;
        while self.servers()[index].role().await != Some(role) {
            assert!(Instant::now() < deadline, "server {index} is no {role:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// From now on the replicas of one of [`Self::servers`] get none of its writes, and cannot
    /// connect to it again.
    pub async fn cut_replication(&self, primary: usize) {
        let server = &self.servers()[primary];
        let refuse = ["ACL", "SETUSER", "default", "-psync", "-sync", "-replconf"];
        server.command::<()>(&refuse).await;
        let kill = ["CLIENT", "KILL", "TYPE", "replica"];
        server.command::<u64>(&kill).await;
    }

    /// How often the primaries have run each command.
    pub async fn command_counts(&self) -> BTreeMap<String, u64> {
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

    /// Sends a signal to every server that holds data.
    pub fn signal(&self, name: &str) {
        for server in self.servers() {
            server.signal(name);
        }
    }

    /// All keys, sorted.
    pub async fn keys(&self) -> Vec<String> {
        let mut keys: Vec<String> = self.command(&["KEYS", "*"]).await;
        keys.sort();
        keys
    }

    /// The members of a set.
    pub async fn members(&self, key: &str) -> Vec<String> {
        self.command(&["SMEMBERS", key]).await
    }

    /// Whether a key expires.
    pub async fn expires(&self, key: &str) -> bool {
        self.command::<i64>(&["TTL", key]).await > 0
    }

    /// Waits until a replica of every primary has what was written.
    pub async fn replicated(&self) {
        self.command::<u64>(&["WAIT", "1", "20000"]).await;
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        if let Some(deployment) = self.deployment.take()
            && self.is_passed_on
            && !std::thread::panicking()
        {
            shelf::put(deployment);
        }
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
