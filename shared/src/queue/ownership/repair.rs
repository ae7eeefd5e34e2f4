//! An owner takes a contract back that it still runs.

use super::{LoadId, Outcome, Sandbox, Standing, owner_text, to_json};
use crate::protocol::id::{ContractAddress, WorkerId};
use crate::protocol::job::ContractSpec;
use crate::queue::{Queue, QueueError};

/// A contract as its owner runs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// In which generation.
    pub generation: u64,
    /// By which load.
    pub load: LoadId,
    /// How it is run.
    pub spec: ContractSpec,
    /// What is known about its sandbox.
    pub sandbox: Sandbox,
}

/// The new id is an owner as well: the script may be sent again.
///
/// Whatever becomes of the contract: the process of the earlier owner lives. So a death of it that
/// was counted against the contract was none.
const RESUME: &str = "
local new = ARGV[4]
local deaths = redis.call('HMGET', record, 'died2', 'died1', 'death1')
if deaths[1] == ARGV[1] then
    redis.call('HSET', record, 'death2', deaths[3] or '0', 'died2', deaths[2] or '',
        'death1', '0', 'died1', '')
elseif deaths[2] == ARGV[1] then
    redis.call('HSET', record, 'death1', '0', 'died1', '')
end
if not exists or gen ~= ARGV[2] or not spec or load ~= ARGV[5] or is_quarantined() then return no end
if owner ~= '' and owner ~= ARGV[1] and owner ~= new then return no end
redis.call('HSET', record, 'owner', new)
return done(gen)
";

const RESTORE: &str = "
local worker, generation = ARGV[1], ARGV[2]
local is_own = exists and (owner == worker or owner == '') and gen == generation
if tonumber(gen) >= tonumber(generation) and not (is_own and not is_quarantined()) then return no end
redis.call('HSET', record, 'owner', worker, 'gen', generation, 'load', ARGV[4], 'spec', ARGV[5],
    'endpoints', ARGV[6], 'image', ARGV[7], 'source', ARGV[8], 'schemas', ARGV[9],
    'schemasDigest', ARGV[10])
redis.call('HDEL', record, 'loading', 'quarantined', 'missing', 'offered', 'dead')
redis.call('DEL', past)
return done(generation)
";

impl Queue {
    /// Moves a contract from an earlier id of a process to its current one, if no other worker has
    /// taken it.
    ///
    /// In any case it takes back the death that a reaper has counted against the contract when it
    /// found the earlier id expired: the worker was only slow. A quarantine stays.
    pub async fn resume_ownership(
        &self,
        address: &ContractAddress,
        earlier: Standing,
        worker: WorkerId,
        load: &LoadId,
    ) -> Result<Outcome, QueueError> {
        self.list_owned(address, worker).await?;
        let outcome = self
            .change(address, RESUME, earlier, |call| {
                call.arg(owner_text(Some(worker))).arg(load.as_str());
            })
            .await?;
        self.remove_refused(address, worker, outcome).await
    }

    /// Writes a record back that Redis has lost, or lost an update of. Refused if the record is
    /// newer, or if another worker owns the contract.
    pub async fn restore_ownership(
        &self,
        address: &ContractAddress,
        worker: WorkerId,
        host: &Host,
    ) -> Result<Outcome, QueueError> {
        let spec = to_json(address, &host.spec)?;
        let endpoints = to_json(address, &host.sandbox.endpoints)?;
        self.list_owned(address, worker).await?;
        let expected = Standing::of(worker, host.generation);
        let outcome = self
            .change(address, RESTORE, expected, |call| {
                call.arg(host.load.as_str())
                    .arg(spec)
                    .arg(endpoints)
                    .arg(&host.sandbox.fields());
            })
            .await?;
        if outcome.done().is_some() {
            self.note_load(address).await;
        }
        self.remove_refused(address, worker, outcome).await
    }

    async fn list_owned(
        &self,
        address: &ContractAddress,
        worker: WorkerId,
    ) -> Result<(), QueueError> {
        let is_listed = self.add_owned(address, worker).await?;
        is_listed.then_some(()).ok_or(QueueError::Fenced(worker))
    }

    async fn remove_refused(
        &self,
        address: &ContractAddress,
        worker: WorkerId,
        outcome: Outcome,
    ) -> Result<Outcome, QueueError> {
        if let Outcome::Refused(standing) = outcome
            && standing.owner != Some(worker)
        {
            self.remove_owned(address, worker).await?;
        }
        Ok(outcome)
    }
}
