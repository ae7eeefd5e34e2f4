//! Connections to Redis, by how they are used.

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
use super::hot::{Hot, HotConnection};
use super::keys::Keys;
use crate::service::telemetry::metrics::Registry;

/// How long a command may take before it counts as failed. Redis answers in well under a
/// millisecond; this is for a machine in trouble.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// How long the other side may leave sent bytes unacknowledged until the connection counts as broken.
/// Keepalive looks at idle connections only, and by default the kernel tries for a quarter of an hour.
const UNACKNOWLEDGED: Duration = Duration::from_secs(5);

/// Connections for what is not on the hot path.
const POOL_SIZE: usize = 16;

/// How long a blocking read waits in Redis: short, so that it ends by itself when the process
/// drains. (Dropping the future would not cancel it in Redis.)
pub(super) const BLOCK: Duration = Duration::from_secs(2);

/// Everything a process needs to use the queue; cheap to clone.
#[derive(Clone)]
pub struct Queue {
    client: Client,
    hot: Hot,
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
    /// Connects. Fails when Redis does not answer within some seconds.
    pub async fn connect(config: &RedisConfig) -> Result<Self, QueueError> {
        Self::connect_counting(config, &Registry::default()).await
    }

    /// Connects, and counts what happens into `registry`.
    pub async fn connect_counting(
        config: &RedisConfig,
        registry: &Registry,
    ) -> Result<Self, QueueError> {
        let keepalive = TcpKeepalive::new()
            .with_time(Duration::from_secs(5))
            .with_interval(Duration::from_secs(2))
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
        let hot = Hot::connect(client.clone(), hot_path()).await?;
        let pool = Pool::builder(Manager::new(info)?)
            .max_size(POOL_SIZE)
            .runtime(Runtime::Tokio1)
            .create_timeout(Some(CONNECT_TIMEOUT))
            .wait_timeout(Some(RESPONSE_TIMEOUT))
            .recycle_timeout(Some(RESPONSE_TIMEOUT))
            .build()
            .expect("the timeouts have the runtime that they need");
        let queue = Self {
            client,
            hot,
            pool,
            keys: Keys::new(&config.prefix),
            clock: Clock::default(),
            counts: Counts::new(registry),
        };
        queue.clock.synchronise(&mut queue.hot()).await?;
        queue.check_settings().await?;
        Ok(queue)
    }

    /// The keys of this farm.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Redis' clock, as this process knows it.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Whether Redis answers.
    pub async fn ping(&self) -> Result<(), QueueError> {
        Ok(redis::cmd("PING").query_async(&mut self.hot()).await?)
    }

    /// The one multiplexed connection that all hot commands share: commands of concurrent callers
    /// are pipelined, in the order in which they are sent. It reconnects by itself.
    pub(super) fn hot(&self) -> Observed<HotConnection> {
        self.counts.observed(self.hot.connection())
    }

    /// What happens in the queue, to be counted.
    pub(super) fn counts(&self) -> &Counts {
        &self.counts
    }

    /// A pooled connection, for what may take longer than the hot path may wait.
    pub(super) async fn cold(&self) -> Result<Observed<deadpool_redis::Connection>, QueueError> {
        let connection = self.pool.get().await;
        if connection.is_err() {
            self.counts.not_connected();
        }
        Ok(self.counts.observed(connection?))
    }

    /// All keys that match a pattern, sorted. Walks the whole key space.
    pub(super) async fn scan(&self, pattern: &str) -> Result<Vec<String>, QueueError> {
        let mut connection = self.cold().await?;
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

    /// A connection of its own for a subscription.
    pub(super) async fn subscriber(&self) -> Result<PubSub, QueueError> {
        Ok(self.client.get_async_pubsub().await?)
    }

    /// A connection of its own for one reader that blocks up to [`BLOCK`].
    pub(super) async fn blocking(&self) -> Result<Observed<MultiplexedConnection>, QueueError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(BLOCK + Duration::from_secs(1)));
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

/// By default the manager holds commands back for as long as it tries to reconnect; here a command
/// fails soon, and who sent it decides.
fn hot_path() -> ConnectionManagerConfig {
    ConnectionManagerConfig::new()
        .set_number_of_retries(1)
        .set_max_delay(Duration::from_millis(200))
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        .set_response_timeout(Some(RESPONSE_TIMEOUT))
}
