//! Failover of contracts: releasing them from a dead worker, and offering them to the others.

use redis::Script;

use super::timing::{DEATHS_COUNT_FOR, OFFER_AGAIN, millis};
use super::{Queue, QueueError};
use crate::protocol::frame::Envelope;
use crate::protocol::id::{ContractAddress, JobId, WorkerId};
use crate::protocol::job::{Job, Load};

/// What happened to a contract of a dead worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failover {
    /// Another worker owns it already.
    Reassigned,
    /// It has no owner now and can be placed again.
    Released,
    /// It was running at three deaths of workers within an hour, and is quarantined.
    Quarantined,
}

impl Queue {
    /// Releases a contract from a dead worker.
    ///
    /// If it `was_running`, the death counts against it. The third death within an hour quarantines
    /// it for `quarantine_ms`, because the contract may be the cause.
    ///
    /// A repeated call for the same death returns the same result, unless a worker has claimed the
    /// contract since.
    pub async fn fail_over(
        &self,
        address: &ContractAddress,
        dead: WorkerId,
        was_running: bool,
        quarantine_ms: u64,
    ) -> Result<Failover, QueueError> {
        let script = Script::new(
            "local found = redis.call('HMGET', KEYS[1],
                 'owner', 'dead', 'quarantined', 'death1', 'death2')
             if found[1] == '' and found[2] == ARGV[1] then return found[3] and 2 or 1 end
             if found[1] ~= ARGV[1] then return 0 end
             local now = tonumber(ARGV[2])
             redis.call('HSET', KEYS[1], 'owner', '', 'dead', ARGV[1], 'offered', now)
             if ARGV[5] ~= '1' then return 1 end
             if tonumber(found[4] or '0') > now - ARGV[3] then
                 redis.call('HDEL', KEYS[1], 'death1', 'death2')
                 redis.call('HSET', KEYS[1], 'quarantined', now + ARGV[4])
                 return 2
             end
             redis.call('HSET', KEYS[1], 'death1', found[5] or '0', 'death2', now)
             return 1",
        );
        let outcome: u64 = script
            .key(self.keys().contract(address))
            .arg(dead.to_string())
            .arg(self.clock().now_ms())
            .arg(millis(DEATHS_COUNT_FOR))
            .arg(quarantine_ms)
            .arg(u8::from(was_running))
            .invoke_async(&mut self.pooled().await?)
            .await?;
        Ok(match outcome {
            0 => Failover::Reassigned,
            1 => Failover::Released,
            _ => Failover::Quarantined,
        })
    }

    /// Releases a contract whose owner has no lease and is not in the list of workers, so that no
    /// reaper would find it. Returns whether the contract was released.
    ///
    /// This should not happen, but a contract must not stay assigned to such a worker.
    pub async fn release_from_unknown_owner(
        &self,
        address: &ContractAddress,
        owner: WorkerId,
    ) -> Result<bool, QueueError> {
        let (heartbeat, lives): (Option<f64>, bool) = redis::pipe()
            .cmd("ZSCORE")
            .arg(self.keys().workers())
            .arg(owner.to_string())
            .cmd("EXISTS")
            .arg(self.keys().lease(owner))
            .query_async(&mut self.shared())
            .await?;
        if heartbeat.is_some() || lives {
            return Ok(false);
        }
        self.release(address, owner).await
    }

    /// Whether a contract without an owner should be offered now, because nobody has done so
    /// lately.
    ///
    /// A caller that gets `true` must offer it, if any worker has room: others now get `false`.
    pub async fn is_offer_due(&self, address: &ContractAddress) -> Result<bool, QueueError> {
        let script = Script::new(
            "if redis.call('HGET', KEYS[1], 'owner') ~= '' then return 0 end
             local offered = tonumber(redis.call('HGET', KEYS[1], 'offered') or '0')
             if offered > ARGV[1] - ARGV[2] then return 0 end
             redis.call('HSET', KEYS[1], 'offered', ARGV[1])
             return 1",
        );
        Ok(script
            .key(self.keys().contract(address))
            .arg(self.clock().now_ms())
            .arg(millis(OFFER_AGAIN))
            .invoke_async(&mut self.pooled().await?)
            .await?)
    }

    /// Offers a contract to all workers. No reply is sent.
    pub async fn offer(&self, load: Load) -> Result<(), QueueError> {
        let engine = load.spec.engine;
        let envelope = Envelope {
            id: JobId(0),
            // The offer stays valid until a worker has room.
            deadline: u64::MAX,
            attempt: 1,
            trace: None,
            job: Job::Load(load),
        };
        self.place(engine, None, &envelope).await
    }
}
