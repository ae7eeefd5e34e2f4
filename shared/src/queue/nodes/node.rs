//! One server, and the connections to it by use.

use std::time::Duration;

use redis::RedisResult;
use redis::aio::MultiplexedConnection;

use super::address::Endpoint;
use super::connector::Connector;
use super::pool::{Pool, PoolError, Pooled};
use super::shared_connection::{SharedConnection, SharedHandle};
use crate::queue::servers::ServerName;
use crate::queue::timing::BLOCKING_RESPONSE_TIMEOUT;

/// A Redis server.
#[derive(Debug)]
pub(in crate::queue) struct Node {
    endpoint: Endpoint,
    name: ServerName,
    connector: Connector,
    shared: SharedConnection,
    pool: Pool,
}

impl Node {
    /// Does not connect yet.
    pub(super) fn new(connector: Connector) -> Self {
        let endpoint = connector.endpoint();
        Self {
            name: ServerName::from(endpoint.to_string().as_str()),
            endpoint,
            shared: SharedConnection::new(connector.clone()),
            pool: Pool::new(connector.clone()),
            connector,
        }
    }

    /// Where it is.
    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Its name for logs and metrics: where it is.
    pub(in crate::queue) fn name(&self) -> &ServerName {
        &self.name
    }

    pub(super) fn connector(&self) -> &Connector {
        &self.connector
    }

    /// The shared connection, if there is one at the moment.
    pub(super) fn peek(&self) -> Option<MultiplexedConnection> {
        self.shared.peek()
    }

    /// Waits until the shared connection is made, or cannot be made.
    pub(super) async fn connected(&self) -> RedisResult<()> {
        self.shared.connected().await
    }

    /// The one multiplexed connection for frequent commands, for one command that is of no use if
    /// its answer takes longer than `limit`.
    pub(in crate::queue) fn shared(&self, limit: Duration) -> SharedHandle {
        self.shared.handle(limit)
    }

    /// A connection for commands that may take longer than a call may wait.
    pub(in crate::queue) async fn pooled(&self) -> Result<Pooled, PoolError> {
        self.pool.get().await
    }

    /// A separate connection for one reader that blocks up to
    /// [`BLOCK`](crate::queue::timing::BLOCK).
    pub(in crate::queue) async fn blocking(&self) -> RedisResult<MultiplexedConnection> {
        self.connector.connect(BLOCKING_RESPONSE_TIMEOUT).await
    }
}
