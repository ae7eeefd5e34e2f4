//! Leases: a worker is alive while it holds its lease.
//!
//! A worker keeps its contracts for as long as its inbox exists. A lapsed lease only permits others
//! to *fence* the worker, which renames the inbox. A fenced worker goes on under a new id.

use futures::future::join;
use redis::{FromRedisValue, Pipeline, Script};

use super::stream::GROUP;
use super::timing::{ANSWERS_WITHIN, LEASE, RENEW_WITHIN, WORKER_KEYS, millis};
pub use super::worker_info::WorkerInfo;
use super::{Queue, QueueError};
use crate::protocol::id::{ContractAddress, WorkerId};

/// The answer to a renewal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    /// The worker holds its lease.
    Held,
    /// The worker was fenced. It may go on only under another id.
    Fenced,
}

/// What has become of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It holds its lease.
    Lives,
    /// Its lease has lapsed. It may still renew it, so it keeps its contracts.
    Lapsed,
    /// It was fenced, and the clean-up after it is not complete.
    Fenced,
    /// Nothing of it is left.
    Cleared,
}

impl Fate {
    /// Whether another worker may claim the worker's contracts. Once this is true, it stays true.
    pub fn may_be_replaced(self) -> bool {
        matches!(self, Self::Fenced | Self::Cleared)
    }
}

impl Queue {
    /// Renews a worker's lease, even one that has lapsed. Also sets the clock.
    ///
    /// One round trip, with the same cost for any number of contracts. Redis accepts its commands
    /// even at maxmemory, unless the lease has lapsed.
    pub async fn renew_lease(&self, worker: WorkerId) -> Result<Renewal, QueueError> {
        let script = Script::new(
            "local time = redis.call('TIME')
             if redis.call('PEXPIRE', KEYS[1], ARGV[1]) == 0 then return {0, time} end
             if redis.call('PEXPIRE', KEYS[2], ARGV[2]) == 0 then
                 redis.call('SET', KEYS[2], '1', 'PX', ARGV[2])
             end
             return {1, time}",
        );
        let keys = self.keys();
        let (held, time): (bool, (u64, u64)) = script
            .key(keys.inbox(worker))
            .key(keys.lease(worker))
            .arg(millis(WORKER_KEYS))
            .arg(millis(LEASE))
            .invoke_async(&mut self.shared_within(RENEW_WITHIN))
            .await?;
        self.clock().set(time);
        Ok(if held { Renewal::Held } else { Renewal::Fenced })
    }

    /// Creates the inbox and the lease of a new worker id. False if the id was used before.
    ///
    /// An id is registered once. A caller that gets no answer must take another id: the inbox may
    /// have been created, and others may have renamed it.
    pub async fn register_worker(&self, worker: WorkerId) -> Result<bool, QueueError> {
        let script = Script::new(
            "if redis.call('EXISTS', KEYS[1], KEYS[3]) > 0 then return 0 end
             redis.call('XGROUP', 'CREATE', KEYS[1], ARGV[1], '0', 'MKSTREAM')
             redis.call('PEXPIRE', KEYS[1], ARGV[2])
             redis.call('SET', KEYS[2], '1', 'PX', ARGV[3])
             return 1",
        );
        let keys = self.keys();
        Ok(script
            .key(keys.inbox(worker))
            .key(keys.lease(worker))
            .key(keys.dead_inbox(worker))
            .arg(GROUP)
            .arg(millis(WORKER_KEYS))
            .arg(millis(LEASE))
            .invoke_async(&mut self.shared_within(RENEW_WITHIN))
            .await?)
    }

    /// Fences a worker whose lease has lapsed: renames its inbox. From then on, for good, the
    /// worker cannot renew its lease, and nobody can send to it. False if its lease is valid.
    pub(super) async fn fence_worker(&self, worker: WorkerId) -> Result<bool, QueueError> {
        let script = Script::new(
            "if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
             if redis.call('EXISTS', KEYS[2]) == 1 then
                 redis.call('RENAME', KEYS[2], KEYS[3])
                 redis.call('PEXPIRE', KEYS[3], ARGV[1])
             end
             return 1",
        );
        let keys = self.keys();
        Ok(script
            .key(keys.lease(worker))
            .key(keys.inbox(worker))
            .key(keys.dead_inbox(worker))
            .arg(millis(WORKER_KEYS))
            .invoke_async(&mut self.pooled().await?)
            .await?)
    }

    /// Whether a worker lives, and if not, whether others may take its contracts.
    pub async fn fate(&self, worker: WorkerId) -> Result<Fate, QueueError> {
        let keys = self.keys();
        let (lease, inbox, dead): (bool, bool, bool) = redis::pipe()
            .cmd("EXISTS")
            .arg(keys.lease(worker))
            .cmd("EXISTS")
            .arg(keys.inbox(worker))
            .cmd("EXISTS")
            .arg(keys.dead_inbox(worker))
            .query_async(&mut self.shared())
            .await?;
        Ok(match (lease, inbox, dead) {
            (true, ..) => Fate::Lives,
            (false, true, _) => Fate::Lapsed,
            (false, false, true) => Fate::Fenced,
            (false, false, false) => Fate::Cleared,
        })
    }

    /// Puts a worker on the list of workers again, if it is not there, so that a reaper finds it.
    pub(super) async fn list_again(&self, worker: WorkerId) -> Result<(), QueueError> {
        Ok(redis::cmd("ZADD")
            .arg(self.keys().workers())
            .arg("NX")
            .arg(0)
            .arg(worker.to_string())
            .query_async(&mut self.shared())
            .await?)
    }

    /// Declares a worker dead that could not hand everything over. The next reaper cleans up after
    /// it without waiting for the lease to lapse. The worker must not act any more.
    pub async fn abandon_worker(&self, worker: WorkerId) -> Result<(), QueueError> {
        let keys = self.keys();
        redis::pipe()
            .cmd("DEL")
            .arg(keys.lease(worker))
            .ignore()
            .cmd("ZADD")
            .arg(keys.workers())
            .arg("XX")
            .arg(0)
            .arg(worker.to_string())
            .ignore()
            .query_async::<()>(&mut self.pooled().await?)
            .await?;
        Ok(())
    }

    /// Reports the state of a worker, for listings and placement.
    pub async fn report_worker(
        &self,
        worker: WorkerId,
        info: &WorkerInfo,
    ) -> Result<(), QueueError> {
        let mut report = redis::pipe();
        report
            .cmd("SET")
            .arg(self.keys().info(worker))
            .arg(to_json(info))
            .arg("PX")
            .arg(millis(WORKER_KEYS))
            .ignore();
        self.report(report, self.keys().workers(), worker.to_string())
            .await
    }

    /// Runs the commands of a heartbeat, and puts its process on a list with the time. In a cluster
    /// a process works although the server of the list is away.
    pub(super) async fn report<T: FromRedisValue>(
        &self,
        mut heartbeat: Pipeline,
        list: String,
        process: String,
    ) -> Result<T, QueueError> {
        let mut listing = redis::cmd("ZADD");
        listing.arg(&list).arg(self.clock().now_ms()).arg(process);
        if !self.is_cluster() {
            heartbeat.add_command(listing).ignore();
            return Ok(heartbeat.query_async(&mut self.shared()).await?);
        }
        let (mut own, mut other) = (self.shared(), self.shared_within(ANSWERS_WITHIN));
        let beating = heartbeat.query_async(&mut own);
        let (answer, listed) = join(beating, listing.exec_async(&mut other)).await;
        if let Err(error) = listed {
            tracing::debug!(list, %error, "process not listed yet");
        }
        Ok(answer?)
    }

    /// Closes a worker's inbox if it is empty: no entry is unread or unacknowledged. Returns
    /// whether it is closed.
    pub async fn close_inbox(&self, worker: WorkerId) -> Result<bool, QueueError> {
        let script = Script::new(
            "if redis.call('XLEN', KEYS[1]) > 0 then return 0 end
             redis.call('DEL', KEYS[1], KEYS[2])
             return 1",
        );
        Ok(script
            .key(self.keys().inbox(worker))
            .key(self.keys().lease(worker))
            .invoke_async(&mut self.pooled().await?)
            .await?)
    }

    /// Removes everything that Redis stores about a worker. It must not own a contract any more.
    pub async fn remove_worker(&self, worker: WorkerId) -> Result<(), QueueError> {
        let keys = self.keys();
        redis::pipe()
            .cmd("DEL")
            .arg(keys.lease(worker))
            .arg(keys.inbox(worker))
            .arg(keys.info(worker))
            .arg(keys.own(worker))
            .ignore()
            .cmd("ZREM")
            .arg(keys.workers())
            .arg(worker.to_string())
            .ignore()
            .query_async::<()>(&mut self.pooled().await?)
            .await?;
        Ok(())
    }

    /// Whether a worker holds its lease.
    pub async fn is_alive(&self, worker: WorkerId) -> Result<bool, QueueError> {
        Ok(redis::cmd("EXISTS")
            .arg(self.keys().lease(worker))
            .query_async(&mut self.shared())
            .await?)
    }

    /// The contracts that a worker owns.
    pub async fn owned_by(&self, worker: WorkerId) -> Result<Vec<ContractAddress>, QueueError> {
        let addresses: Vec<String> = redis::cmd("SMEMBERS")
            .arg(self.keys().own(worker))
            .query_async(&mut self.pooled().await?)
            .await?;
        Ok(addresses
            .into_iter()
            .filter_map(|address| address.try_into().ok())
            .collect())
    }

    /// Adds a contract to the list of those that a worker owns. False if the worker was fenced or
    /// removed: then no reaper would ever find the list.
    pub(super) async fn add_owned(
        &self,
        address: &ContractAddress,
        worker: WorkerId,
    ) -> Result<bool, QueueError> {
        let script = Script::new(
            "if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
             redis.call('SADD', KEYS[2], ARGV[1])
             return 1",
        );
        let keys = self.keys();
        Ok(script
            .key(keys.inbox(worker))
            .key(keys.own(worker))
            .arg(address.as_str())
            .invoke_async(&mut self.pooled().await?)
            .await?)
    }

    /// Removes a contract from the list of those that a worker owns.
    pub async fn remove_owned(
        &self,
        address: &ContractAddress,
        worker: WorkerId,
    ) -> Result<(), QueueError> {
        Ok(redis::cmd("SREM")
            .arg(self.keys().own(worker))
            .arg(address.as_str())
            .query_async(&mut self.pooled().await?)
            .await?)
    }
}

fn to_json(info: &WorkerInfo) -> String {
    serde_json::to_string(info).expect("a plain struct is JSON")
}
