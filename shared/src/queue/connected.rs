//! Which workers are there: those on the list of workers, and those that are connected.

use std::time::Duration;

use futures::future::join_all;

use super::config::ReaperConfig;
use super::counts::Observed;
use super::nodes::Connection;
use super::timing::{ANSWERS_WITHIN, LEASE, millis};
use super::worker_info::WorkerInfo;
use super::{Presence, Queue, QueueError};
use crate::protocol::id::WorkerId;

/// Which workers of the farm are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkerPresence {
    /// How many are connected to Redis.
    pub connected: usize,
    /// How long reapers still wait for workers that were alive before Redis started. None if all
    /// have returned, or if reapers do not wait any more.
    pub recovery: Option<Duration>,
}

impl Queue {
    /// Counts the workers that are connected, and those that reapers wait for.
    pub async fn presence(&self, config: ReaperConfig) -> Result<WorkerPresence, QueueError> {
        let ids: Vec<_> = self
            .workers()
            .await?
            .into_iter()
            .map(|(id, _)| id)
            .collect();
        let connected = self.are_connected(&ids).await?;
        let connected = connected.iter().filter(|is| **is == Some(true)).count();
        let known: usize = redis::cmd("ZCARD")
            .arg(self.keys().workers())
            .query_async(&mut self.shared())
            .await?;
        let mut recovery = None;
        if known > connected {
            recovery = config.grace.checked_sub(self.shortest_uptime().await?);
        }
        Ok(WorkerPresence {
            connected,
            recovery: recovery.filter(|left| !left.is_zero()),
        })
    }

    /// Shows that a worker is connected, for as long as the subscription exists. See
    /// [`Self::missing_workers`].
    pub async fn subscribe_alive(&self, worker: WorkerId) -> Result<Presence, QueueError> {
        self.subscribe(&self.keys().alive_channel(worker)).await
    }

    /// Those of `workers` whose connection is gone. They may be dead, but only a lapsed lease is
    /// proof.
    pub async fn missing_workers(&self, workers: &[WorkerId]) -> Result<Vec<WorkerId>, QueueError> {
        let connected = self.are_connected(workers).await?;
        let missing = |(id, is): (&WorkerId, Option<bool>)| (is == Some(false)).then_some(*id);
        Ok(workers.iter().zip(connected).filter_map(missing).collect())
    }

    /// Whether each of `workers` is connected. None in a cluster if its server does not answer.
    pub(super) async fn are_connected(
        &self,
        workers: &[WorkerId],
    ) -> Result<Vec<Option<bool>>, QueueError> {
        if workers.is_empty() {
            return Ok(Vec::new());
        }
        let channels = workers.iter().map(|id| self.keys().alive_channel(*id));
        if self.is_cluster() {
            return Ok(join_all(channels.map(|channel| self.has_subscriber(channel))).await);
        }
        let counts: Vec<(String, u64)> = redis::cmd("PUBSUB")
            .arg("NUMSUB")
            .arg(channels.collect::<Vec<_>>())
            .query_async(&mut self.shared())
            .await?;
        let counts = counts.into_iter().map(|(_, count)| Some(count > 0));
        Ok(counts.collect())
    }

    /// Whether somebody is subscribed to a channel of a cluster. None if its server does not
    /// answer.
    async fn has_subscriber(&self, channel: String) -> Option<bool> {
        let answer = redis::cmd("PUBSUB")
            .arg("SHARDNUMSUB")
            .arg(channel)
            .query_async(&mut self.shared_within(ANSWERS_WITHIN))
            .await;
        let (_, count): (String, u64) = answer.ok()?;
        Some(count > 0)
    }

    /// The living workers.
    pub async fn workers(&self) -> Result<Vec<(WorkerId, WorkerInfo)>, QueueError> {
        let mut connection = self.pooled().await?;
        let since = self.clock().now_ms().saturating_sub(millis(LEASE));
        let ids: Vec<String> = redis::cmd("ZRANGEBYSCORE")
            .arg(self.keys().workers())
            .arg(since)
            .arg("+inf")
            .query_async(&mut connection)
            .await?;
        let ids: Vec<WorkerId> = ids.iter().filter_map(|id| id.parse().ok()).collect();
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let infos = self.infos(&ids, connection).await?;
        let known =
            |(id, info): (WorkerId, Option<String>)| Some((id, serde_json::from_str(&info?).ok()?));
        Ok(ids.into_iter().zip(infos).filter_map(known).collect())
    }

    /// What workers report. In a cluster, those on a server that is away report nothing.
    async fn infos(
        &self,
        ids: &[WorkerId],
        mut connection: Observed<Connection>,
    ) -> Result<Vec<Option<String>>, QueueError> {
        let look_up = |id: &WorkerId| redis::cmd("GET").arg(self.keys().info(*id)).to_owned();
        if !self.is_cluster() {
            let mut lookups = redis::pipe();
            for id in ids {
                lookups.add_command(look_up(id));
            }
            return Ok(lookups.query_async(&mut connection).await?);
        }
        let lookups = ids.iter().map(async |id| {
            let mut connection = self.shared_within(ANSWERS_WITHIN);
            let info = look_up(id).query_async(&mut connection).await;
            info.ok().flatten()
        });
        Ok(join_all(lookups).await)
    }
}
