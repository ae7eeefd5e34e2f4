//! The Redis servers that this process talks to: one, the primary that sentinels watch, or the
//! nodes of a cluster. The rest of the queue does not know which.
//!
//! | file | what it does |
//! |---|---|
//! | `address` | what `REDIS_URL` names |
//! | `connector` | makes connections to it, with certificates and password from files |
//! | `node` | one server: the connections to it by use |
//! | `shared_connection` | the connection for frequent commands, which reconnects by itself |
//! | `blocking` | the connection of one reader, which follows its stream |
//! | `pool` | the connections for patient commands |
//! | `presence` | the subscription by which a worker shows that it is connected |
//! | `cluster`, `slots` | the nodes of a cluster, and which of them serves which slot |
//! | `router`, `route` | sends each command to the node of its key |

mod address;
mod blocking;
mod cluster;
mod connector;
mod node;
mod pool;
mod presence;
mod route;
mod router;
mod shared_connection;
mod slots;

use std::sync::Arc;
use std::time::Duration;

use redis::aio::ConnectionLike;
use redis::cluster_routing::Slot;
use redis::{Cmd, Pipeline, RedisFuture, RedisResult, Value};

use self::address::Deployment;
use self::cluster::Cluster;
use self::connector::Connector;
use self::pool::Pooled;
use self::router::{Lane, Router, no_node};
use self::shared_connection::SharedHandle;
use crate::queue::timing::RESPONSE_TIMEOUT;

pub(super) use self::address::Address;
pub(super) use self::blocking::Blocking;
pub use self::connector::Files;
pub(super) use self::node::Node;
pub(super) use self::pool::PoolError;
pub use self::presence::Presence;

/// The servers of one deployment of Redis. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) enum Nodes {
    /// One server that runs all commands.
    One(Arc<Node>),
    /// A server for each key.
    Cluster(Cluster),
}

/// A connection, as one caller uses it.
#[derive(Debug)]
pub(super) enum Connection {
    /// The shared connection to the one server.
    Shared(SharedHandle),
    /// A pooled connection to the one server.
    Pooled(Pooled),
    /// Connections to the nodes of a cluster.
    Routed(Box<Router>),
}

impl Nodes {
    /// Connects.
    pub(super) async fn connect(address: &Address) -> RedisResult<Self> {
        // Fails if the process has installed one already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        if let Deployment::Cluster(seeds) = &address.deployment {
            return Ok(Self::Cluster(Cluster::connect(address, seeds).await?));
        }
        let node = Node::new(Connector::new(address));
        node.connected().await?;
        Ok(Self::One(Arc::new(node)))
    }

    /// Whether keys are on different servers.
    pub(super) fn is_cluster(&self) -> bool {
        matches!(self, Self::Cluster(_))
    }

    /// The server of a key or a channel.
    pub(super) async fn of(&self, key: &str) -> RedisResult<Arc<Node>> {
        match self {
            Self::One(node) => Ok(node.clone()),
            Self::Cluster(cluster) => {
                let slot = Slot::for_key(key);
                if let Some(node) = cluster.owner(slot) {
                    return Ok(node);
                }
                cluster.refresh().await;
                cluster.owner(slot).ok_or_else(no_node)
            }
        }
    }

    /// The server of a key, as far as is known. The key is only made for a cluster.
    pub(super) fn known(&self, key: impl FnOnce() -> String) -> Option<Arc<Node>> {
        match self {
            Self::One(node) => Some(node.clone()),
            Self::Cluster(cluster) => cluster.owner(Slot::for_key(key())),
        }
    }

    /// All servers that may write.
    pub(super) fn all(&self) -> Vec<Arc<Node>> {
        match self {
            Self::One(node) => vec![node.clone()],
            Self::Cluster(cluster) => cluster.primaries(),
        }
    }

    /// The multiplexed connections for frequent commands, for one that is of no use if its answer
    /// takes longer than `limit`.
    pub(super) fn shared(&self, limit: Duration) -> Connection {
        match self {
            Self::One(node) => Connection::Shared(node.shared(limit)),
            Self::Cluster(cluster) => Connection::routed(cluster, Lane::Shared(limit)),
        }
    }

    /// Connections for commands that may take longer than a call may wait.
    pub(super) async fn pooled(&self) -> Result<Connection, PoolError> {
        Ok(match self {
            Self::One(node) => Connection::Pooled(node.pooled().await?),
            Self::Cluster(cluster) => Connection::routed(cluster, Lane::Pooled),
        })
    }

    /// Checks that a server answers, and in a cluster that it serves its slots.
    pub(super) async fn check(&self, server: &Node) -> RedisResult<()> {
        let mut connection = server.shared(RESPONSE_TIMEOUT);
        if !self.is_cluster() {
            return redis::cmd("PING").exec_async(&mut connection).await;
        }
        let info: String = redis::cmd("CLUSTER")
            .arg("INFO")
            .query_async(&mut connection)
            .await?;
        if slots::is_up(&info) {
            return Ok(());
        }
        Err(std::io::Error::other("the node serves no slots at the moment").into())
    }

    /// A separate connection for one reader of the stream `key`.
    pub(super) async fn blocking(&self, key: &str) -> RedisResult<Blocking> {
        let node = self.of(key).await?;
        match self {
            Self::One(_) => Blocking::to(&node).await,
            Self::Cluster(cluster) => Blocking::routed(cluster, &node).await,
        }
    }

    /// Finds out again which server has which key.
    pub(super) async fn refresh(&self) {
        if let Self::Cluster(cluster) = self {
            cluster.refresh().await;
        }
    }
}

impl Connection {
    fn routed(cluster: &Cluster, lane: Lane) -> Self {
        Self::Routed(Box::new(Router::new(cluster.clone(), lane)))
    }
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::Shared(connection) => connection.req_packed_command(cmd),
            Self::Pooled(connection) => connection.req_packed_command(cmd),
            Self::Routed(connection) => connection.req_packed_command(cmd),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::Shared(connection) => connection.req_packed_commands(pipeline, offset, count),
            Self::Pooled(connection) => connection.req_packed_commands(pipeline, offset, count),
            Self::Routed(connection) => connection.req_packed_commands(pipeline, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        0
    }
}
