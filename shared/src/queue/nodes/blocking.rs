//! The connection of one reader that waits for entries of one stream.
//!
//! In a cluster it follows the stream to another node, also while a read is waiting: the node that
//! gives the slot away ends the read with a redirection. A read that was redirected has delivered
//! nothing.

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{Cmd, Pipeline, RedisFuture, RedisResult, Value};

use super::Node;
use super::address::Endpoint;
use super::cluster::Cluster;
use super::route::Redirect;
use crate::queue::timing::TRY_AGAIN_AFTER;

/// Redirections that one command follows. A command that is redirected more often has met a cluster
/// that is not of one mind, and fails.
const REDIRECTS: usize = 8;

/// A connection for one reader.
#[derive(Debug)]
pub(in crate::queue) struct Blocking {
    connection: MultiplexedConnection,
    /// None if there is only one server.
    route: Option<Route>,
}

/// Which node of a cluster the connection leads to.
#[derive(Debug)]
struct Route {
    cluster: Cluster,
    at: Endpoint,
    /// The slot is on its way to that node, which serves it only to those who say that they know.
    asking: bool,
}

impl Blocking {
    /// A connection to the one server.
    pub(super) async fn to(node: &Node) -> RedisResult<Self> {
        Ok(Self {
            connection: node.blocking().await?,
            route: None,
        })
    }

    /// A connection to a node of a cluster.
    pub(super) async fn routed(cluster: &Cluster, node: &Node) -> RedisResult<Self> {
        let connection = node.blocking().await?;
        let route = Route {
            cluster: cluster.clone(),
            at: node.endpoint().clone(),
            asking: false,
        };
        Ok(Self {
            connection,
            route: Some(route),
        })
    }

    async fn run(&mut self, command: &Cmd) -> RedisResult<Value> {
        for _ in 0..REDIRECTS {
            let answer = self.send(command).await;
            let Some(route) = &mut self.route else {
                return answer;
            };
            let redirect = match &answer {
                Ok(value) => Redirect::of(value, &route.at),
                Err(error) => Redirect::of_transaction(error, &route.at),
            };
            let (to, asking) = match redirect {
                None => return answer,
                Some(Redirect::TryAgain) => {
                    tokio::time::sleep(TRY_AGAIN_AFTER).await;
                    continue;
                }
                Some(Redirect::Moved(slot, to)) => {
                    route.cluster.moved(slot, &to);
                    (to, false)
                }
                Some(Redirect::Ask(to)) => (to, true),
            };
            let node = route.cluster.node(&to);
            self.connection = node.blocking().await?;
            route.at = to;
            route.asking = asking;
        }
        self.send(command).await
    }

    async fn send(&mut self, command: &Cmd) -> RedisResult<Value> {
        if !self.route.as_ref().is_some_and(|route| route.asking) {
            return self.connection.req_packed_command(command).await;
        }
        let mut pipeline = Pipeline::with_capacity(2);
        pipeline.cmd("ASKING").add_command(command.clone());
        let sent = self.connection.req_packed_commands(&pipeline, 0, 2);
        Ok(sent.await?.pop().unwrap_or(Value::Nil))
    }
}

impl ConnectionLike for Blocking {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(self.run(cmd))
    }

    /// Each command by itself: a reader has no pipelines that must be one.
    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        _offset: usize,
        _count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        Box::pin(async move {
            let mut answers = Vec::with_capacity(pipeline.len());
            for command in pipeline.cmd_iter() {
                answers.push(self.run(command).await?);
            }
            Ok(answers)
        })
    }

    fn get_db(&self) -> i64 {
        self.connection.get_db()
    }
}
