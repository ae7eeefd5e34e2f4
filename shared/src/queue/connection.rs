//! The connections to Redis: a shared one, a pool, and one per blocking reader or subscription. To
//! which server a command goes is decided in [`nodes`](super::nodes).

use std::sync::Arc;
use std::time::Duration;

use futures::future::{join_all, try_join_all};
use secrecy::ExposeSecret;

use super::QueueError;
use super::clock::Clock;
use super::config::RedisConfig;
use super::counts::{Counts, Observed};
use super::keys::Keys;
use super::nodes::{Address, Blocking, Connection, Node, Nodes, Presence};
use super::timing::{
    ANSWERS_WITHIN, CONNECT_TIMEOUT, RECONNECT_FIRST, RECONNECT_LONGEST, RESPONSE_TIMEOUT,
};
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
        queue.clock.synchronise(&mut queue.shared()).await?;
        queue.check_servers().await?;
        Ok(queue)
    }

    /// The keys of this farm.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// The clock of Redis, as this process knows it.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Checks that Redis answers: every server of it.
    pub async fn ping(&self) -> Result<(), QueueError> {
        let servers = self.nodes.all();
        let pings = servers.iter().map(async |server| {
            let mut connection = self.counts.observed(server.shared(RESPONSE_TIMEOUT));
            redis::cmd("PING").exec_async(&mut connection).await
        });
        try_join_all(pings).await?;
        Ok(())
    }

    /// The names of the servers that answer soon.
    pub(super) async fn servers_that_answer(&self) -> Vec<String> {
        let servers = self.nodes.all();
        let pings = servers.iter().map(async |server| {
            let mut connection = server.shared(RESPONSE_TIMEOUT);
            let ping = redis::cmd("PING");
            let answer = tokio::time::timeout(ANSWERS_WITHIN, ping.exec_async(&mut connection));
            matches!(answer.await, Ok(Ok(()))).then(|| server.name().to_owned())
        });
        join_all(pings).await.into_iter().flatten().collect()
    }

    /// The server of a key.
    pub(super) async fn server_of(&self, key: &str) -> Result<Arc<Node>, QueueError> {
        Ok(self.nodes.of(key).await?)
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
