//! The contract records: one hash per loaded contract, with its specification and its owner.
//!
//! Only scripts write a record, each by compare-and-set on the owner. So two workers can never both
//! believe that they own a contract in the same generation.

use redis::Script;

use super::{Queue, QueueError};
use crate::protocol::id::{ContractAddress, WorkerId};
use crate::protocol::job::ContractSpec;

/// The record of a loaded contract.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContractRecord {
    /// How it is run.
    pub spec: ContractSpec,
    /// Raised by every new sandbox. Orders owners in time (a fencing token).
    pub generation: u64,
    /// The worker that claimed it last.
    pub owner: Option<WorkerId>,
    /// Its methods, as far as they are known.
    pub endpoints: Vec<String>,
    /// When its quarantine ends, in milliseconds by the clock of Redis. 0 if it is not quarantined.
    pub quarantined_until: u64,
    /// The digest of the image that ran last, if the executable is an image.
    pub image: Option<String>,
}

/// Where the jobs of a contract are sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// The contract is not loaded.
    NotLoaded,
    /// It is loaded, but no living worker owns it at the moment.
    Unassigned(ContractRecord),
    /// It is loaded, but it crashed too often and is quarantined.
    Quarantined(ContractRecord),
    /// This worker owns it.
    Assigned(WorkerId, ContractRecord),
}

/// The outcome of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// The claiming worker owns the contract, in this generation.
    Granted(u64),
    /// Another worker owns it.
    OwnedBy(WorkerId),
}

/// The fields that [`parse_record`] reads.
pub(super) const FIELDS: [&str; 6] = ["spec", "gen", "owner", "endpoints", "quarantined", "image"];

type Fields = (
    Option<String>,
    Option<u64>,
    Option<String>,
    Option<String>,
    Option<u64>,
    Option<String>,
);

impl Queue {
    /// Reads a contract's record.
    pub async fn contract(
        &self,
        address: &ContractAddress,
    ) -> Result<Option<ContractRecord>, QueueError> {
        let fields: Fields = redis::cmd("HMGET")
            .arg(self.keys().contract(address))
            .arg(&FIELDS)
            .query_async(&mut self.pooled().await?)
            .await?;
        parse_record(address, fields)
    }

    /// Looks up where the jobs of a contract are sent.
    pub async fn route(&self, address: &ContractAddress) -> Result<Route, QueueError> {
        let Some(record) = self.contract(address).await? else {
            return Ok(Route::NotLoaded);
        };
        match record.owner {
            _ if record.quarantined_until > self.clock().now_ms() => Ok(Route::Quarantined(record)),
            Some(worker) if self.is_alive(worker).await? => Ok(Route::Assigned(worker, record)),
            _ => Ok(Route::Unassigned(record)),
        }
    }

    /// Makes `worker` the owner of the contract, in a new generation. Succeeds if the contract has
    /// no other owner, or only `displaced`, which the caller knows to be dead.
    ///
    /// The contract is first added to the worker's list of owned contracts. If the worker dies in
    /// between, the reaper finds one contract too many there. The other order could lose a contract
    /// that no other worker would ever take.
    pub async fn claim(
        &self,
        address: &ContractAddress,
        worker: WorkerId,
        displaced: Option<WorkerId>,
        spec: &ContractSpec,
    ) -> Result<Claim, QueueError> {
        let script = Script::new(
            "local owner = redis.call('HGET', KEYS[1], 'owner') or ''
             if owner ~= '' and owner ~= ARGV[1] and owner ~= ARGV[2] then return {owner, 0} end
             redis.call('HSET', KEYS[1], 'owner', ARGV[1], 'spec', ARGV[3])
             redis.call('HDEL', KEYS[1], 'quarantined', 'offered', 'dead')
             return {ARGV[1], redis.call('HINCRBY', KEYS[1], 'gen', 1)}",
        );
        let spec = serde_json::to_string(spec).map_err(|e| unexpected(address, &e))?;
        self.add_owned(address, worker).await?;
        let (owner, generation): (String, u64) = script
            .key(self.keys().contract(address))
            .arg(worker.to_string())
            .arg(displaced.map_or(String::new(), |displaced| displaced.to_string()))
            .arg(spec)
            .invoke_async(&mut self.pooled().await?)
            .await?;
        if generation > 0 {
            self.note_load(address).await;
            return Ok(Claim::Granted(generation));
        }
        self.remove_owned(address, worker).await?;
        let owner = owner.parse().map_err(|e| unexpected(address, &e))?;
        Ok(Claim::OwnedBy(owner))
    }

    /// Raises the generation for a new sandbox. None if `worker` does not own the contract any
    /// more.
    pub async fn raise_generation(
        &self,
        address: &ContractAddress,
        worker: WorkerId,
    ) -> Result<Option<u64>, QueueError> {
        let script = Script::new(
            "if redis.call('HGET', KEYS[1], 'owner') ~= ARGV[1] then return false end
             return redis.call('HINCRBY', KEYS[1], 'gen', 1)",
        );
        Ok(script
            .key(self.keys().contract(address))
            .arg(worker.to_string())
            .invoke_async(&mut self.pooled().await?)
            .await?)
    }

    /// Records the methods and the image of a contract. Does nothing if `worker` does not own it.
    pub async fn note_sandbox(
        &self,
        address: &ContractAddress,
        worker: WorkerId,
        endpoints: &[String],
        image: Option<&str>,
    ) -> Result<(), QueueError> {
        let script = Script::new(
            "if redis.call('HGET', KEYS[1], 'owner') ~= ARGV[1] then return end
             redis.call('HSET', KEYS[1], 'endpoints', ARGV[2], 'image', ARGV[3])",
        );
        let endpoints = serde_json::to_string(endpoints).map_err(|e| unexpected(address, &e))?;
        Ok(script
            .key(self.keys().contract(address))
            .arg(worker.to_string())
            .arg(endpoints)
            .arg(image.unwrap_or_default())
            .invoke_async(&mut self.pooled().await?)
            .await?)
    }

    /// Ends the ownership of `worker`. The contract stays loaded and waits for another owner. False
    /// if `worker` did not own it.
    pub async fn release(
        &self,
        address: &ContractAddress,
        worker: WorkerId,
    ) -> Result<bool, QueueError> {
        let script = Script::new(
            "if redis.call('HGET', KEYS[1], 'owner') ~= ARGV[1] then return 0 end
             redis.call('HSET', KEYS[1], 'owner', '')
             return 1",
        );
        self.run_release_script(&script, address, Some(worker))
            .await
    }

    /// As [`Self::release`], and sets the specification back to what it was `before` the claim.
    pub async fn roll_back_claim(
        &self,
        address: &ContractAddress,
        worker: WorkerId,
        before: &ContractSpec,
    ) -> Result<bool, QueueError> {
        let script = Script::new(
            "if redis.call('HGET', KEYS[1], 'owner') ~= ARGV[1] then return 0 end
             redis.call('HSET', KEYS[1], 'owner', '', 'spec', ARGV[2])
             return 1",
        );
        let spec = serde_json::to_string(before).map_err(|e| unexpected(address, &e))?;
        let done: bool = script
            .key(self.keys().contract(address))
            .arg(worker.to_string())
            .arg(spec)
            .invoke_async(&mut self.pooled().await?)
            .await?;
        self.remove_owned(address, worker).await?;
        Ok(done)
    }

    /// Ends the ownership of `worker` and quarantines the contract for `quarantine_ms`. False if
    /// `worker` did not own it.
    pub async fn quarantine(
        &self,
        address: &ContractAddress,
        worker: WorkerId,
        quarantine_ms: u64,
    ) -> Result<bool, QueueError> {
        let script = Script::new(
            "if redis.call('HGET', KEYS[1], 'owner') ~= ARGV[1] then return 0 end
             redis.call('HSET', KEYS[1], 'owner', '', 'quarantined', ARGV[2])
             return 1",
        );
        let until = self.clock().now_ms() + quarantine_ms;
        let done: bool = script
            .key(self.keys().contract(address))
            .arg(worker.to_string())
            .arg(until)
            .invoke_async(&mut self.pooled().await?)
            .await?;
        if done {
            self.counts().quarantined_by_losses.increment(1);
        }
        self.remove_owned(address, worker).await?;
        Ok(done)
    }

    /// Confirms that `worker`, whose lease had lapsed, still owns the contract in the generation of
    /// `record`. With `lost_data` a missing record is written again. False if another worker owns
    /// the contract by now, or if it is not loaded any more.
    pub async fn confirm_ownership(
        &self,
        address: &ContractAddress,
        worker: WorkerId,
        record: &ContractRecord,
        lost_data: bool,
    ) -> Result<bool, QueueError> {
        let script = Script::new(
            "local found = redis.call('HMGET', KEYS[1], 'owner', 'gen', 'quarantined')
             if not found[2] then
                 if ARGV[5] ~= '1' then return 0 end
                 redis.call('HSET', KEYS[1], 'owner', ARGV[1], 'gen', ARGV[2], 'spec', ARGV[3],
                     'endpoints', ARGV[4])
                 return 1
             end
             if found[2] ~= ARGV[2] or found[3] then return 0 end
             if found[1] ~= ARGV[1] and found[1] ~= '' then return 0 end
             redis.call('HSET', KEYS[1], 'owner', ARGV[1])
             return 1",
        );
        let json = |value: serde_json::Result<String>| value.map_err(|e| unexpected(address, &e));
        self.add_owned(address, worker).await?;
        let done: bool = script
            .key(self.keys().contract(address))
            .arg(worker.to_string())
            .arg(record.generation)
            .arg(json(serde_json::to_string(&record.spec))?)
            .arg(json(serde_json::to_string(&record.endpoints))?)
            .arg(u8::from(lost_data))
            .invoke_async(&mut self.pooled().await?)
            .await?;
        if !done {
            self.remove_owned(address, worker).await?;
        }
        Ok(done)
    }

    /// Removes the record of a contract, which unloads it. Does nothing and returns false unless
    /// `owner` owns the contract (none: it has no owner).
    pub async fn remove_contract(
        &self,
        address: &ContractAddress,
        owner: Option<WorkerId>,
    ) -> Result<bool, QueueError> {
        let script = Script::new(
            "if (redis.call('HGET', KEYS[1], 'owner') or '') ~= ARGV[1] then return 0 end
             return redis.call('DEL', KEYS[1])",
        );
        let entry = self.contract_entry(address).await?;
        let done = self.run_release_script(&script, address, owner).await?;
        if done {
            self.delist(&self.keys().contracts(), entry).await;
        }
        Ok(done)
    }

    async fn run_release_script(
        &self,
        script: &Script,
        address: &ContractAddress,
        owner: Option<WorkerId>,
    ) -> Result<bool, QueueError> {
        let done: bool = script
            .key(self.keys().contract(address))
            .arg(owner.map_or(String::new(), |owner| owner.to_string()))
            .invoke_async(&mut self.pooled().await?)
            .await?;
        if let Some(worker) = owner {
            self.remove_owned(address, worker).await?;
        }
        Ok(done)
    }
}

/// Reads the [`FIELDS`] of a contract's record. None if it is not loaded.
pub(super) fn parse_record(
    address: &ContractAddress,
    (spec, generation, owner, endpoints, quarantined, image): Fields,
) -> Result<Option<ContractRecord>, QueueError> {
    let (Some(spec), Some(generation)) = (spec, generation) else {
        return Ok(None);
    };
    let spec = serde_json::from_str(&spec).map_err(|e| unexpected(address, &e))?;
    let owner = owner
        .filter(|owner| !owner.is_empty())
        .map(|owner| owner.parse().map_err(|e| unexpected(address, &e)))
        .transpose()?;
    let endpoints = endpoints
        .and_then(|list| serde_json::from_str(&list).ok())
        .unwrap_or_default();
    Ok(Some(ContractRecord {
        spec,
        generation,
        owner,
        endpoints,
        quarantined_until: quarantined.unwrap_or_default(),
        image: image.filter(|image| !image.is_empty()),
    }))
}

fn unexpected(address: &ContractAddress, error: &impl std::fmt::Display) -> QueueError {
    QueueError::Unexpected(format!("contract {address}: {error}"))
}
