//! The connections to Redis: one shared, a pool, and one per blocking reader or subscription.

use std::time::Duration;

use deadpool_redis::{Manager, Pool, Runtime};
use redis::aio::{ConnectionManagerConfig, MultiplexedConnection, PubSub};
use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use redis::{AsyncConnectionConfig, Client, IntoConnectionInfo};
use secrecy::ExposeSecret;

use super::QueueError;
use super::clock::Clock;
use super::config::RedisConfig;
use super::counts::{Counts, Observed};
use super::keys::Keys;
use super::shared_connection::{SharedConnection, SharedHandle};
use super::timing::{
    BLOCKING_RESPONSE_TIMEOUT, CONNECT_TIMEOUT, KEEPALIVE_IDLE, KEEPALIVE_INTERVAL,
    PATIENT_RESPONSE_TIMEOUT, RECONNECT_FIRST, RECONNECT_LONGEST, RESPONSE_TIMEOUT,
    SHARED_RECONNECT_LONGEST, UNACKNOWLEDGED,
};
use crate::service::backoff::Backoff;
use crate::service::telemetry::metrics::Registry;

/// Connections in the pool, for commands that are not part of every call.
const POOL_SIZE: usize = 16;

/// A process's access to the queue. Cheap to clone.
#[derive(Clone)]
pub struct Queue {
    client: Client,
    shared: SharedConnection,
    pool: Pool,
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
        let keepalive = TcpKeepalive::new()
            .with_time(KEEPALIVE_IDLE)
            .with_interval(KEEPALIVE_INTERVAL)
            .with_retries(3);
        let tcp = TcpSettings::default()
            .set_nodelay(true)
            .set_keepalive(keepalive)
            .set_user_timeout(UNACKNOWLEDGED);
        let info = config
            .url
            .expose_secret()
            .into_connection_info()?
            .set_tcp_settings(tcp);
        let client = Client::open(info.clone())?;
        let shared = SharedConnection::connect(client.clone(), shared_config()).await?;
        let pool = patient_pool(Manager::new_with_config(info, patient_config())?);
        let queue = Self {
            client,
            shared,
            pool,
            keys: Keys::new(&config.prefix),
            clock: Clock::default(),
            counts: Counts::new(registry),
        };
        queue.clock.synchronise(&mut queue.shared()).await?;
        queue.check_settings().await?;
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

    /// Checks that Redis answers.
    pub async fn ping(&self) -> Result<(), QueueError> {
        Ok(redis::cmd("PING").query_async(&mut self.shared()).await?)
    }

    /// The one multiplexed connection that all frequent commands share. Commands of concurrent
    /// callers are pipelined in the order in which they are sent. It reconnects by itself.
    pub(super) fn shared(&self) -> Observed<SharedHandle> {
        self.shared_within(RESPONSE_TIMEOUT)
    }

    /// As [`Self::shared`], for a command that is of no use if its answer takes longer than
    /// `limit`.
    pub(super) fn shared_within(&self, limit: Duration) -> Observed<SharedHandle> {
        self.counts.observed(self.shared.handle(limit))
    }

    /// The metrics of the queue.
    pub(super) fn counts(&self) -> &Counts {
        &self.counts
    }

    /// A connection of the pool, for commands that may take longer than a call may wait.
    pub(super) async fn pooled(&self) -> Result<Observed<deadpool_redis::Connection>, QueueError> {
        let connection = self.pool.get().await;
        if connection.is_err() {
            self.counts.not_connected();
        }
        Ok(self.counts.observed(connection?))
    }

    /// All keys that match a pattern, sorted. Walks the whole key space.
    pub(super) async fn scan(&self, pattern: &str) -> Result<Vec<String>, QueueError> {
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

    /// A separate connection for a subscription.
    pub(super) async fn subscriber(&self) -> Result<PubSub, QueueError> {
        Ok(self.client.get_async_pubsub().await?)
    }

    /// A separate connection for one reader that blocks up to [`BLOCK`](super::timing::BLOCK).
    pub(super) async fn blocking(&self) -> Result<Observed<MultiplexedConnection>, QueueError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(BLOCKING_RESPONSE_TIMEOUT));
        let connection = self
            .client
            .get_multiplexed_async_connection_with_config(&config)
            .await;
        if connection.is_err() {
            self.counts.not_connected();
        }
        Ok(self.counts.observed(connection?))
    }
}

impl Backoff {
    /// For attempts to reach Redis: from [`RECONNECT_FIRST`] to [`RECONNECT_LONGEST`].
    pub fn redis() -> Self {
        Self::new(RECONNECT_FIRST, RECONNECT_LONGEST)
    }
}

/// By default the connection manager delays commands while it tries to reconnect. Here a command
/// fails soon instead, and its sender decides what to do.
fn shared_config() -> ConnectionManagerConfig {
    ConnectionManagerConfig::new()
        .set_number_of_retries(1)
        .set_max_delay(SHARED_RECONNECT_LONGEST)
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        .set_response_timeout(Some(RESPONSE_TIMEOUT))
}

/// The library's own limit for an answer is 500 ms, less than the frequent commands get.
fn patient_config() -> AsyncConnectionConfig {
    AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        .set_response_timeout(Some(PATIENT_RESPONSE_TIMEOUT))
}

fn patient_pool(manager: Manager) -> Pool {
    Pool::builder(manager)
        .max_size(POOL_SIZE)
        .runtime(Runtime::Tokio1)
        .create_timeout(Some(CONNECT_TIMEOUT))
        .wait_timeout(Some(RESPONSE_TIMEOUT))
        .recycle_timeout(Some(RESPONSE_TIMEOUT))
        .build()
        .expect("a pool with timeouts has a runtime")
}
