//! The subscription by which a worker shows that it is connected.
//!
//! No messages are published. Others only ask the server whether somebody is subscribed. In a
//! cluster the channel has a slot, like a key, and the subscription is to its node.

use futures::StreamExt;
use redis::aio::{MultiplexedConnection, PubSub};
use redis::{AsyncConnectionConfig, ProtocolVersion, PushInfo, PushKind, RedisResult};
use tokio::sync::mpsc::{self, UnboundedReceiver};

use super::Node;
use super::connector::Connector;
use crate::queue::timing::CONNECT_TIMEOUT;

/// A subscription. It ends when this value is dropped.
#[derive(Debug)]
pub struct Presence(Subscription);

enum Subscription {
    Channel(PubSub),
    /// The library reports a lost connection only among what the server pushes.
    Sharded {
        pushes: UnboundedReceiver<PushInfo>,
        _connection: MultiplexedConnection,
    },
}

impl std::fmt::Debug for Subscription {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subscription").finish_non_exhaustive()
    }
}

impl Presence {
    /// Waits until the subscription has ended: the connection is gone, or another node has the
    /// channel now.
    pub async fn ended(&mut self) {
        match &mut self.0 {
            Subscription::Channel(subscription) => {
                let mut messages = subscription.on_message();
                while messages.next().await.is_some() {}
            }
            Subscription::Sharded { pushes, .. } => {
                let is_end = |kind: &PushKind| {
                    matches!(kind, PushKind::Disconnection | PushKind::SUnsubscribe)
                };
                while pushes.recv().await.is_some_and(|push| !is_end(&push.kind)) {}
            }
        }
    }

    /// Subscribes to a channel of the one server.
    pub(super) async fn of(connector: &Connector, channel: &str) -> RedisResult<Self> {
        let mut subscription = connector.subscriber().await?;
        subscription.subscribe(channel).await?;
        Ok(Self(Subscription::Channel(subscription)))
    }

    /// Subscribes to a channel that is on one node of a cluster.
    pub(super) async fn sharded(connector: &Connector, channel: &str) -> RedisResult<Self> {
        let (sender, pushes) = mpsc::unbounded_channel();
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(CONNECT_TIMEOUT))
            .set_push_sender(sender);
        let mut connection = connector
            .connect_with(&config, ProtocolVersion::RESP3)
            .await?;
        redis::cmd("SSUBSCRIBE")
            .arg(channel)
            .exec_async(&mut connection)
            .await?;
        Ok(Self(Subscription::Sharded {
            pushes,
            _connection: connection,
        }))
    }
}

impl Node {
    /// Subscribes to a channel of this server.
    pub(in crate::queue) async fn subscribe(
        &self,
        channel: &str,
        sharded: bool,
    ) -> RedisResult<Presence> {
        if sharded {
            Presence::sharded(self.connector(), channel).await
        } else {
            Presence::of(self.connector(), channel).await
        }
    }
}
