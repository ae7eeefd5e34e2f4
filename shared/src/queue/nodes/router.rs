//! Commands to a cluster: each goes to the node of its slot, and is sent again where that node
//! redirects it.
//!
//! A command that a node redirects was not carried out, so sending it again is safe. A command that
//! gets no answer is not sent again: it may have been carried out.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use redis::aio::ConnectionLike;
use redis::cluster_routing::Slot;
use redis::{Cmd, Pipeline, RedisError, RedisFuture, RedisResult, Value};
use tokio::time::Instant;

use super::Node;
use super::cluster::Cluster;
use super::route::{Redirect, slot_of};
use super::shared_connection::has_code;
use crate::queue::timing::{PATIENT_RESPONSE_TIMEOUT, TRY_AGAIN_AFTER};

/// Redirections that are followed without a pause.
const REDIRECTS_AT_ONCE: usize = 4;

/// How a node refuses a command while it cannot reach most of the cluster.
const CLUSTER_DOWN: &str = "CLUSTERDOWN";

/// Which connections of the nodes carry the commands.
#[derive(Debug, Clone, Copy)]
pub(super) enum Lane {
    /// The shared one. An answer is awaited so long at most.
    Shared(Duration),
    /// One of the pool.
    Pooled,
}

/// A connection to a cluster, as one caller uses it.
#[derive(Debug)]
pub(in crate::queue) struct Router {
    cluster: Cluster,
    lane: Lane,
    /// Where the last command went. Commands without a key follow it: a script is loaded into the
    /// node that did not know it.
    last: Option<Arc<Node>>,
}

/// Where commands are sent together.
#[derive(Debug, Clone)]
struct Target {
    node: Arc<Node>,
    /// The slot is on its way to that node.
    asking: bool,
}

impl Target {
    fn of(node: Arc<Node>) -> Self {
        Self {
            node,
            asking: false,
        }
    }

    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.node, &other.node) && self.asking == other.asking
    }
}

impl Router {
    pub(super) fn new(cluster: Cluster, lane: Lane) -> Self {
        Self {
            cluster,
            lane,
            last: None,
        }
    }

    /// The limit of all attempts together.
    fn limit(&self) -> Duration {
        match self.lane {
            Lane::Shared(limit) => limit,
            Lane::Pooled => PATIENT_RESPONSE_TIMEOUT,
        }
    }

    /// The node for a slot, or for a command without one.
    async fn target(&self, slot: Option<Slot>) -> RedisResult<Target> {
        let any = || {
            let last = self.last.clone();
            last.or_else(|| self.cluster.any())
        };
        let find = || slot.map_or_else(any, |slot| self.cluster.owner(slot));
        if let Some(node) = find() {
            return Ok(Target::of(node));
        }
        self.cluster.refresh().await;
        find().map(Target::of).ok_or_else(no_node)
    }

    /// The commands of a pipeline, each to the node of its slot, in order for each slot.
    async fn run_each(&mut self, commands: &[&Cmd]) -> RedisResult<Vec<Value>> {
        let deadline = Instant::now() + self.limit();
        let mut answers = vec![Value::Nil; commands.len()];
        let mut open: Vec<(usize, Option<Target>)> =
            (0..commands.len()).map(|index| (index, None)).collect();
        for round in 1.. {
            let groups = self.groups(commands, open).await?;
            let sent = groups.iter().map(|(target, indexes)| {
                let chosen: Vec<_> = indexes.iter().map(|index| commands[*index]).collect();
                self.send(target, chosen, deadline)
            });
            let received = join_all(sent).await;
            let mut again = Vec::new();
            // Nodes that name each other are not of one mind yet.
            let mut wait = round > REDIRECTS_AT_ONCE;
            for ((target, indexes), received) in groups.into_iter().zip(received) {
                let values = self.checked(received).await?;
                for (index, value) in indexes.into_iter().zip(values) {
                    let redirect = Redirect::of(&value, target.node.endpoint());
                    if let Some(redirect) = redirect {
                        wait |= redirect == Redirect::TryAgain;
                        again.push((index, self.follow(redirect, &target)));
                    }
                    answers[index] = value;
                }
            }
            if again.is_empty() || Instant::now() + TRY_AGAIN_AFTER >= deadline {
                return Ok(answers);
            }
            if wait {
                tokio::time::sleep(TRY_AGAIN_AFTER).await;
            }
            again.sort_by_key(|(index, _)| *index);
            open = again;
        }
        unreachable!("the deadline ends the rounds")
    }

    /// Divides commands by where they go. Those that were redirected bring their target.
    async fn groups(
        &mut self,
        commands: &[&Cmd],
        open: Vec<(usize, Option<Target>)>,
    ) -> RedisResult<Vec<(Target, Vec<usize>)>> {
        let mut groups: Vec<(Target, Vec<usize>)> = Vec::new();
        for (index, target) in open {
            let target = match target {
                Some(target) => target,
                None => self.target(slot_of(commands[index])).await?,
            };
            self.last = Some(target.node.clone());
            match groups.iter_mut().find(|(known, _)| known.is(&target)) {
                Some((_, indexes)) => indexes.push(index),
                None => groups.push((target, vec![index])),
            }
        }
        Ok(groups)
    }

    /// Where a redirected command goes next. None: where the slot is then.
    fn follow(&self, redirect: Redirect, from: &Target) -> Option<Target> {
        match redirect {
            Redirect::Moved(slot, to) => {
                self.cluster.moved(slot, &to);
                None
            }
            Redirect::Ask(to) => Some(Target {
                node: self.cluster.node(&to),
                asking: true,
            }),
            Redirect::TryAgain => Some(from.clone()),
        }
    }

    /// Sends commands to one node in one pipeline.
    async fn send(
        &self,
        target: &Target,
        commands: Vec<&Cmd>,
        deadline: Instant,
    ) -> RedisResult<Vec<Value>> {
        if let ([command], false, Lane::Shared(_)) = (&commands[..], target.asking, self.lane) {
            // On the way of a call: it is not copied.
            let mut connection = target.node.shared(left(deadline));
            return Ok(vec![connection.req_packed_command(command).await?]);
        }
        let mut pipeline = Pipeline::with_capacity(2 * commands.len());
        let each = if target.asking { 2 } else { 1 };
        for command in &commands {
            if target.asking {
                pipeline.cmd("ASKING");
            }
            pipeline.add_command((*command).clone());
        }
        let count = each * commands.len();
        let answers = self.send_packed(&target.node, &pipeline, (0, count), deadline);
        let answers = answers.await?;
        Ok(answers.into_iter().skip(each - 1).step_by(each).collect())
    }

    async fn send_packed(
        &self,
        node: &Node,
        pipeline: &Pipeline,
        (offset, count): (usize, usize),
        deadline: Instant,
    ) -> RedisResult<Vec<Value>> {
        match self.lane {
            Lane::Shared(_) => {
                let mut connection = node.shared(left(deadline));
                connection
                    .req_packed_commands(pipeline, offset, count)
                    .await
            }
            Lane::Pooled => {
                let mut connection = node.pooled().await.map_err(not_pooled)?;
                connection
                    .req_packed_commands(pipeline, offset, count)
                    .await
            }
        }
    }

    /// A transaction. All of its keys are in one slot.
    async fn run_atomically(&mut self, pipeline: &Pipeline) -> RedisResult<Vec<Value>> {
        let deadline = Instant::now() + self.limit();
        let slot = pipeline.cmd_iter().find_map(slot_of);
        let mut target = self.target(slot).await?;
        for round in 1.. {
            self.last = Some(target.node.clone());
            let answer = self.send_transaction(&target, pipeline, deadline).await;
            let from = target.node.endpoint();
            let redirect = match &answer {
                Err(error) => Redirect::of_transaction(error, from),
                Ok(values) => values.first().and_then(|value| Redirect::of(value, from)),
            };
            let Some(redirect) = redirect else {
                return self.checked(answer).await;
            };
            if Instant::now() + TRY_AGAIN_AFTER >= deadline {
                return answer;
            }
            if redirect == Redirect::TryAgain || round > REDIRECTS_AT_ONCE {
                tokio::time::sleep(TRY_AGAIN_AFTER).await;
            }
            target = match self.follow(redirect, &target) {
                Some(target) => target,
                None => self.target(slot).await?,
            };
        }
        unreachable!("the deadline ends the rounds")
    }

    /// Inside a transaction, `ASKING` holds until its end.
    async fn send_transaction(
        &self,
        target: &Target,
        pipeline: &Pipeline,
        deadline: Instant,
    ) -> RedisResult<Vec<Value>> {
        if !target.asking {
            let answers = (pipeline.len() + 1, 1);
            let sending = self.send_packed(&target.node, pipeline, answers, deadline);
            return sending.await;
        }
        let mut asking = Pipeline::with_capacity(pipeline.len() + 3);
        asking.cmd("ASKING").cmd("MULTI");
        for command in pipeline.cmd_iter() {
            asking.add_command(command.clone());
        }
        asking.cmd("EXEC");
        let count = asking.len();
        let answers = self.send_packed(&target.node, &asking, (0, count), deadline);
        Ok(answers.await?.into_iter().skip(count - 1).collect())
    }

    /// After a failure of a node, another one may serve its slots. So may it if the node says that
    /// it serves none: it was cut off from the others.
    async fn checked(&self, answer: RedisResult<Vec<Value>>) -> RedisResult<Vec<Value>> {
        let is_away = match &answer {
            Ok(values) => values.iter().any(is_down),
            Err(error) => error.is_io_error() || has_code(error, CLUSTER_DOWN),
        };
        if is_away {
            self.cluster.refresh().await;
        }
        answer
    }
}

/// The time that is left.
fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

fn is_down(answer: &Value) -> bool {
    matches!(answer, Value::ServerError(error) if error.code() == CLUSTER_DOWN)
}

/// Fails a command that was not sent, because no node is known to serve its slot.
pub(super) fn no_node() -> RedisError {
    // As if the connection had been refused.
    let refused = std::io::ErrorKind::ConnectionRefused;
    std::io::Error::new(refused, "no node of the cluster serves the slot").into()
}

/// Nothing was sent.
fn not_pooled(error: super::PoolError) -> RedisError {
    match error {
        super::PoolError::Backend(error) if error.is_connection_refusal() => error,
        other => {
            let refused = std::io::ErrorKind::ConnectionRefused;
            std::io::Error::new(refused, other.to_string()).into()
        }
    }
}

impl ConnectionLike for Router {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(async move {
            let mut answers = self.run_each(&[cmd]).await?;
            Ok(answers.pop().unwrap_or(Value::Nil))
        })
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        _offset: usize,
        _count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        Box::pin(async move {
            if pipeline.is_transaction() {
                return self.run_atomically(pipeline).await;
            }
            let commands: Vec<_> = pipeline.cmd_iter().collect();
            self.run_each(&commands).await
        })
    }

    fn get_db(&self) -> i64 {
        0
    }
}
