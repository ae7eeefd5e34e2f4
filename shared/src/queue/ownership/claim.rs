//! A worker becomes the owner of a contract.

use super::{ChangeId, Outcome, Standing, to_json};
use crate::protocol::id::{ContractAddress, WorkerId};
use crate::protocol::job::ContractSpec;
use crate::queue::{Queue, QueueError};

/// `loading` marks a record whose load is in progress. What was loaded before stays in the record
/// until the load succeeds, and so does a quarantine.
const CLAIM: &str = "
local worker, name, asked = ARGV[4], ARGV[5], ARGV[6]
if exists and owner == worker and by == name then return done(gen) end
if owner ~= ARGV[1] or gen ~= ARGV[2] then return no end
if asked == '' and (not spec or is_quarantined()) then return no end
gen = next_gen()
redis.call('HSET', record, 'owner', worker, 'gen', gen, 'by', name)
redis.call('HDEL', record, 'offered', 'dead', 'loading')
if asked ~= '' then redis.call('HSET', record, 'loading', asked) end
redis.call('DEL', past)
return done(gen)
";

impl Queue {
    /// Makes `worker` the owner of a contract, in a new generation.
    ///
    /// `asked` is the specification of a load that a caller asked for. Without it, the contract
    /// must be loaded and not quarantined.
    ///
    /// The caller must be allowed to take the contract: it has no owner, or its owner's inbox is
    /// gone (see [`Fate::may_be_replaced`](crate::queue::leases::Fate::may_be_replaced)).
    ///
    /// The contract is first added to the worker's list of owned contracts. If the worker dies in
    /// between, the reaper finds one contract too many there. The other order could lose one. A
    /// worker that was fenced is refused.
    pub async fn claim(
        &self,
        address: &ContractAddress,
        expected: Standing,
        worker: WorkerId,
        asked: Option<&ContractSpec>,
    ) -> Result<Outcome, QueueError> {
        let asked = asked.map(|spec| to_json(address, spec)).transpose()?;
        let change = ChangeId::random();
        if !self.add_owned(address, worker).await? {
            let standing = self.ownership(address).await?.standing;
            return Ok(Outcome::Refused(standing));
        }
        let outcome = self
            .change(address, CLAIM, expected, |call| {
                call.arg(worker.to_string())
                    .arg(change.0)
                    .arg(asked.unwrap_or_default());
            })
            .await?;
        match outcome {
            Outcome::Done(_) => self.note_load(address).await,
            Outcome::Refused(standing) if standing.owner == Some(worker) => {}
            Outcome::Refused(_) => self.remove_owned(address, worker).await?,
        }
        Ok(outcome)
    }
}
