//! A contract leaves its owner, or is unloaded.

use super::{Outcome, Standing};
use crate::protocol::id::{ContractAddress, WorkerId};
use crate::protocol::image::PinnedImage;
use crate::queue::timing::{DEATHS_COUNT_FOR, OFFER_AGAIN, RETRY_IMAGE, millis};
use crate::queue::{Queue, QueueError};

/// What happened to a contract of a dead worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failover {
    /// It is not the dead worker's any more, or its first load was in progress.
    Gone,
    /// It has no owner now and can be placed again.
    Released,
    /// It was running at three deaths of workers within an hour, and is quarantined.
    Quarantined,
}

const DROP: &str = "
if not is_expected() then return no end
free()
return done(gen)
";

/// A record whose `spec` Redis has lost is forgotten: without an owner nothing would complete it.
const QUARANTINE: &str = "
if not is_expected() then return no end
free()
if spec then redis.call('HSET', record, 'quarantined', text(now + ARGV[4])) end
return done(gen)
";

/// Answers 0 if refused, 2 at the first time since a sandbox ran, else 1.
const WITHOUT_IMAGE: &str = "
if not is_expected() then return 0 end
free()
if not spec then return 1 end
redis.call('HSET', record, 'offered', text(now + ARGV[4]))
return 1 + redis.call('HSETNX', record, 'missing', text(now))
";

/// Answers 0, 1 or 2 for the cases of [`Failover`]. The death that is counted last is `death2`, the
/// one before is `death1`. `died2` and `died1` are the workers, for `resume`.
const ORPHAN: &str = "
local was_running, counts_for, quarantine = ARGV[4], ARGV[5], ARGV[6]
if exists and owner == '' and found[7] == ARGV[1] then return is_quarantined() and 2 or 1 end
if not is_expected() then return 0 end
free()
if not spec then return 0 end
redis.call('HSET', record, 'dead', ARGV[1], 'offered', text(now))
if was_running ~= '1' then return is_quarantined() and 2 or 1 end
local deaths = redis.call('HMGET', record, 'death1', 'death2', 'died2')
if tonumber(deaths[1] or '0') > now - counts_for then
    redis.call('HDEL', record, 'death1', 'death2', 'died1', 'died2')
    redis.call('HSET', record, 'quarantined', text(now + quarantine))
    return 2
end
redis.call('HSET', record, 'death1', deaths[2] or '0', 'death2', text(now),
    'died1', deaths[3] or '', 'died2', ARGV[1])
return is_quarantined() and 2 or 1
";

const UNLOAD: &str = "
if not exists then return done(gen) end
if not is_expected() then return no end
gen = next_gen()
forget(gen)
return done(gen)
";

const OFFER_DUE: &str = "
if not exists or owner ~= '' or not spec or is_quarantined() then return 0 end
if tonumber(redis.call('HGET', record, 'offered') or '0') > now - ARGV[4] then return 0 end
redis.call('HSET', record, 'offered', text(now))
return 1
";

impl Queue {
    /// Ends an ownership: the contract waits for another owner. A contract whose first load was in
    /// progress is forgotten.
    ///
    /// An ownership of another worker may be ended only if nothing of that worker is left, because
    /// its reaper counts deaths.
    pub async fn drop_ownership(
        &self,
        address: &ContractAddress,
        expected: Standing,
    ) -> Result<Outcome, QueueError> {
        let outcome = self.change(address, DROP, expected, |_| {}).await?;
        self.remove_lost(address, expected.owner, outcome).await
    }

    /// Ends an ownership and quarantines the contract for `quarantine_ms`.
    pub async fn quarantine(
        &self,
        address: &ContractAddress,
        expected: Standing,
        quarantine_ms: u64,
    ) -> Result<Outcome, QueueError> {
        let outcome = self
            .change(address, QUARANTINE, expected, |call| {
                call.arg(quarantine_ms);
            })
            .await?;
        if outcome.done().is_some() {
            self.counts().quarantined_by_losses.increment(1);
        }
        self.remove_lost(address, expected.owner, outcome).await
    }

    /// Ends the ownership of a worker that cannot get the contract's `image`. The contract is
    /// offered again no sooner than [`RETRY_IMAGE`] later. The first time since a sandbox of it ran
    /// leaves a dead letter.
    pub async fn leave_without_image(
        &self,
        address: &ContractAddress,
        expected: Standing,
        image: Option<&PinnedImage>,
    ) -> Result<(), QueueError> {
        let answer: u8 = self
            .run(address, WITHOUT_IMAGE, expected, |call| {
                call.arg(millis(RETRY_IMAGE.saturating_sub(OFFER_AGAIN)));
            })
            .await?;
        let (1.., Some(worker)) = (answer, expected.owner) else {
            return Ok(());
        };
        self.remove_owned(address, worker).await?;
        if answer > 1 {
            let fields = [
                ("kind", "image_missing"),
                ("contract", address.as_str()),
                ("image", image.map_or("", |image| &image.id)),
                ("worker", &worker.to_string()),
                (
                    "reason",
                    "the worker does not have its image, and cannot pull it",
                ),
            ];
            self.record_dead_letter(&fields).await?;
        }
        Ok(())
    }

    /// Takes a contract from the dead worker that `expected` names.
    ///
    /// If it `was_running`, the death counts against it. The third death within an hour quarantines
    /// it for `quarantine_ms`, because the contract may be the cause.
    ///
    /// A repeated call for the same death returns the same result, unless a worker has claimed the
    /// contract since.
    pub async fn fail_over(
        &self,
        address: &ContractAddress,
        expected: Standing,
        was_running: bool,
        quarantine_ms: u64,
    ) -> Result<Failover, QueueError> {
        let outcome: u8 = self
            .run(address, ORPHAN, expected, |call| {
                call.arg(u8::from(was_running))
                    .arg(millis(DEATHS_COUNT_FOR))
                    .arg(quarantine_ms);
            })
            .await?;
        Ok(match outcome {
            0 => Failover::Gone,
            1 => Failover::Released,
            _ => Failover::Quarantined,
        })
    }

    /// Unloads a contract: removes its record and remembers the generation. One that is not loaded
    /// is unloaded already.
    pub async fn unload(
        &self,
        address: &ContractAddress,
        expected: Standing,
    ) -> Result<Outcome, QueueError> {
        let entry = self.contract_entry(address).await?;
        let outcome = self.change(address, UNLOAD, expected, |_| {}).await?;
        if outcome.done().is_some() {
            self.delist(&self.keys().contracts(), entry).await;
            if let Err(error) = self.remove_logs(address).await {
                tracing::debug!(contract = %address, %error, "output not removed, it will expire");
            }
        }
        self.remove_lost(address, expected.owner, outcome).await
    }

    /// Whether a contract without an owner should be offered now, because nobody has done so
    /// lately.
    ///
    /// A caller that gets `true` must offer it, if any worker has room: others now get `false`.
    pub async fn is_offer_due(&self, address: &ContractAddress) -> Result<bool, QueueError> {
        self.run(address, OFFER_DUE, Standing::default(), |call| {
            call.arg(millis(OFFER_AGAIN));
        })
        .await
    }

    /// Removes a contract from the list of a worker that does not own it any more.
    async fn remove_lost(
        &self,
        address: &ContractAddress,
        worker: Option<WorkerId>,
        outcome: Outcome,
    ) -> Result<Outcome, QueueError> {
        let is_still_owner =
            matches!(outcome, Outcome::Refused(standing) if standing.owner == worker);
        if let Some(worker) = worker
            && !is_still_owner
        {
            self.remove_owned(address, worker).await?;
        }
        Ok(outcome)
    }
}
