//! Contracts without a host: how they are taken from a worker that died, and how others learn that
//! they are to be had.

use redis::Script;

use super::timing::{DEATHS_COUNT_FOR, OFFER_AGAIN, millis};
use super::{Queue, QueueError};
use crate::protocol::frame::Envelope;
use crate::protocol::id::{ContractAddress, JobId, WorkerId};
use crate::protocol::job::{Job, Load};

/// What became of a contract whose worker died.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Orphan {
    /// It is not the dead worker's any more.
    Adopted,
    /// It is free, to be placed again.
    Free,
    /// It was running when three workers died within an hour: it is quarantined.
    Quarantined,
}

impl Queue {
    /// Takes a contract from a worker that died. If it `was_running` this counts against it: the
    /// third death within an hour quarantines it, for `quarantine_ms`, since it may be the cause.
    ///
    /// Asked again about the same death, before anybody has taken the contract, it says the same.
    pub async fn orphan(
        &self,
        address: &ContractAddress,
        dead: WorkerId,
        was_running: bool,
        quarantine_ms: u64,
    ) -> Result<Orphan, QueueError> {
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
            .invoke_async(&mut self.cold().await?)
            .await?;
        Ok(match outcome {
            0 => Orphan::Adopted,
            1 => Orphan::Free,
            _ => Orphan::Quarantined,
        })
    }

    /// Frees a contract whose owner has neither a lease nor a place among the workers: nobody will
    /// clear up after it. That is not meant to happen, but a contract must not be stuck with it.
    pub async fn free_abandoned(
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
            .query_async(&mut self.hot())
            .await?;
        if heartbeat.is_some() || lives {
            return Ok(false);
        }
        self.disown(address, owner).await
    }

    /// Whether a free contract is to be offered now: nobody else has done so lately. Whoever is told
    /// so must do it, if any worker has room.
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
            .invoke_async(&mut self.cold().await?)
            .await?)
    }

    /// Offers a contract to all workers; nobody awaits the outcome.
    pub async fn offer(&self, load: Load) -> Result<(), QueueError> {
        let engine = load.spec.engine;
        let envelope = Envelope {
            id: JobId(0),
            // However long it takes until a worker has room.
            deadline: u64::MAX,
            attempt: 1,
            trace: None,
            job: Job::Load(load),
        };
        self.place(engine, None, &envelope).await
    }
}
