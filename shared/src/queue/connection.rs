//! The connections to Redis: a shared one, a pool, and one per blocking reader or subscription. To
//! which server a command goes is decided in [`nodes`](super::nodes).

use std::sync::Arc;
use std::time::Duration;

use secrecy::ExposeSecret;

use super::QueueError;
use super::clock::Clock;
use super::config::RedisConfig;
use super::counts::{Counts, Observed};
use super::keys::Keys;
use super::nodes::{Address, Blocking, Connection, Node, Nodes, Presence};
use super::servers::ServerName;
use super::timing::{CONNECT_TIMEOUT, RECONNECT_FIRST, RECONNECT_LONGEST, RESPONSE_TIMEOUT};
use crate::service::backoff::Backoff;
use crate::service::telemetry::metrics::Registry;

/// A process's access to the queue. Cheap to clone.
#[derive(Clone)]
pub struct Queue {
    nodes: Nodes,
    keys: Keys,
    clock: Clock,
    counts: Counts,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue")
            .field("keys", &self.keys)
            .finish_non_exhaustive()
    }
}

impl Queue {
    /// Connects. Fails if Redis does not answer within some seconds.
    pub async fn connect(config: &RedisConfig) -> Result<Self, QueueError> {
        Self::connect_counting(config, &Registry::default()).await
    }

    /// Connects, and registers the metrics of the queue in `registry`.
    pub async fn connect_counting(
        config: &RedisConfig,
        registry: &Registry,
    ) -> Result<Self, QueueError> {
        let address = Address::parse(config.url.expose_secret(), config.files.clone())
            .map_err(|error| QueueError::Settings(format!("REDIS_URL {error}")))?;
        let queue = Self {
            nodes: Nodes::connect(&address).await?,
            keys: Keys::new(&config.prefix),
            clock: Clock::default(),
            counts: Counts::new(registry),
        };
        queue.synchronise().await?;
        queue.check_servers().await?;
        Ok(queue)
    }

    /// Sets the clock by the first server that answers.
    async fn synchronise(&self) -> Result<(), QueueError> {
        let mut ended = Ok(());
        for server in self.servers() {
            let mut connection = self.counts.observed(server.shared(CONNECT_TIMEOUT));
            ended = self.clock.synchronise(&mut connection).await;
            if ended.is_ok() {
                break;
            }
        }
        ended
    }

    /// The keys of this farm.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// The clock of Redis, as this process knows it.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// The server of a key.
    pub(super) async fn server_of(&self, key: &str) -> Result<Arc<Node>, QueueError> {
        Ok(self.nodes.of(key).await?)
    }

    /// The name of the server of a key, as far as is known.
    pub(super) fn server_name(&self, key: impl FnOnce() -> String) -> Option<ServerName> {
        let node = self.nodes.known(key)?;
        Some(node.name().clone())
    }

    /// Checks that a server answers, and in a cluster that it serves its slots.
    pub(super) async fn check(&self, server: &Node) -> Result<(), QueueError> {
        let checked = self.nodes.check(server).await;
        if checked.is_err() {
            self.counts.not_connected();
        }
        Ok(checked?)
    }

    /// The servers of Redis that may write.
    pub(super) fn servers(&self) -> Vec<Arc<Node>> {
        self.nodes.all()
    }

    /// Whether Redis is a cluster, where keys with different tags are on different servers.
    pub fn is_cluster(&self) -> bool {
        self.nodes.is_cluster()
    }

    /// The one multiplexed connection that all frequent commands share. Commands of concurrent
    /// callers are pipelined in the order in which they are sent. It reconnects by itself.
    pub(super) fn shared(&self) -> Observed<Connection> {
        self.shared_within(RESPONSE_TIMEOUT)
    }

    /// As [`Self::shared`], for a command that is of no use if its answer takes longer than
    /// `limit`.
    pub(super) fn shared_within(&self, limit: Duration) -> Observed<Connection> {
        self.counts.observed(self.nodes.shared(limit))
    }

    /// The metrics of the queue.
    pub(super) fn counts(&self) -> &Counts {
        &self.counts
    }

    /// A connection of the pool, for commands that may take longer than a call may wait.
    pub(super) async fn pooled(&self) -> Result<Observed<Connection>, QueueError> {
        let connection = self.nodes.pooled().await;
        if connection.is_err() {
            self.counts.not_connected();
        }
        Ok(self.counts.observed(connection?))
    }

    /// All keys that match a pattern, sorted. Walks the whole key space, except that of a cluster:
    /// no version that needed this could run on one.
    pub(super) async fn scan(&self, pattern: &str) -> Result<Vec<String>, QueueError> {
        if self.is_cluster() {
            return Ok(Vec::new());
        }
        let mut connection = self.pooled().await?;
        let mut all = Vec::new();
        let mut cursor = 0_u64;
        loop {
            let (next, keys): (u64, Vec<String>) = redis::cmd("SCAN")
                .arg(cursor)
                .arg(&["MATCH", pattern, "COUNT", "1000"])
                .query_async(&mut connection)
                .await?;
            all.extend(keys);
            if next == 0 {
                all.sort_unstable();
                all.dedup();
                return Ok(all);
            }
            cursor = next;
        }
    }

    /// A subscription to `channel`, on a connection of its own.
    pub(super) async fn subscribe(&self, channel: &str) -> Result<Presence, QueueError> {
        let node = self.nodes.of(channel).await?;
        let subscribing = node.subscribe(channel, self.nodes.is_cluster());
        let subscribed = tokio::time::timeout(CONNECT_TIMEOUT, subscribing).await;
        let timed_out = |_| Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into());
        Ok(subscribed.unwrap_or_else(timed_out)?)
    }

    /// A separate connection for one reader of the stream `key`, which blocks up to
    /// [`BLOCK`](super::timing::BLOCK).
    pub(super) async fn blocking(&self, key: &str) -> Result<Observed<Blocking>, QueueError> {
        let connection = self.nodes.blocking(key).await;
        if connection.is_err() {
            self.counts.not_connected();
        }
        Ok(self.counts.observed(connection?))
    }

    /// Finds out again which server has what. To be done when a connection is given up, so that the
    /// next one is made to the server that has the key then.
    pub(super) async fn find_servers(&self) {
        self.nodes.refresh().await;
    }
}

impl Backoff {
    /// For attempts to reach Redis: from [`RECONNECT_FIRST`] to [`RECONNECT_LONGEST`].
    pub fn redis() -> Self {
        Self::new(RECONNECT_FIRST, RECONNECT_LONGEST)
    }
}
