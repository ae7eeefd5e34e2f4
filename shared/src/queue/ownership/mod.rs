//! Ownership: which worker owns a contract. Every script that changes a contract record is here.
//!
//! Three rules make it safe:
//!
//! 1. Every script names the owner **and the generation** that it expects. If the record differs,
//!    the script changes nothing and returns what it found.
//! 2. A contract is taken from an owner only after that owner's inbox was seen to be gone
//!    ([`leases`](super::leases)). An inbox is never created twice, so this cannot become outdated.
//! 3. Generations come from the time of Redis and only grow. The higher one is always the later
//!    one, even after an unload or a loss of data.
//!
//! | file | scripts |
//! |---|---|
//! | `claim` | `claim`: a worker becomes the owner |
//! | `change` | `ready`, `switch`, `raise`, `note`: what an owner records |
//! | `unassign` | `drop`, `quarantine`, `without_image`, `orphan`, `unload`, `offer_due` |
//! | `repair` | `resume`, `restore`: an owner takes its contract back |
//!
//! The record of a contract that is being loaded for the first time has no `spec`. It does not
//! count as loaded.

mod change;
mod claim;
mod repair;
mod unassign;

use std::fmt;
use std::sync::Arc;

use redis::{Script, ScriptInvocation};
use uuid::Uuid;

use super::timing::{PAST, millis};
use super::{Queue, QueueError};
use crate::protocol::id::{ContractAddress, WorkerId};

pub use self::change::Sandbox;
pub use self::repair::Host;
pub use self::unassign::Failover;

/// The owner of a contract, and the generation in which it owns the contract.
///
/// A contract without a record has no owner. Its generation is that of its unload, or 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Standing {
    /// The worker that owns it.
    pub owner: Option<WorkerId>,
    /// Orders everything that happens to a contract (a fencing token).
    pub generation: u64,
}

impl Standing {
    /// A contract that `worker` owns in this generation.
    pub fn of(worker: WorkerId, generation: u64) -> Self {
        Self {
            owner: Some(worker),
            generation,
        }
    }

    /// A contract that has no owner since this generation.
    pub fn unassigned(generation: u64) -> Self {
        Self {
            owner: None,
            generation,
        }
    }
}

/// The answer of a script.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was carried out. The contract now has this generation.
    Done(u64),
    /// The record differs from what was expected. Nothing was changed.
    Refused(Standing),
}

impl Outcome {
    /// The generation, if the script was carried out.
    pub fn done(self) -> Option<u64> {
        match self {
            Self::Done(generation) => Some(generation),
            Self::Refused(_) => None,
        }
    }
}

/// Names one load, and with it what is loaded: `GENERATION-RANDOM`. Empty in records of an older
/// version.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct LoadId(Arc<str>);

impl LoadId {
    /// A new load. `generation` is the one of the record when the load begins.
    pub fn new(generation: u64) -> Self {
        Self(format!("{generation}-{:016x}", rand::random::<u64>()).into())
    }

    /// The load as the record states it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The generation in which the load began: it can be recorded in no later one. None if the load
    /// is unnamed.
    pub fn generation(&self) -> Option<u64> {
        self.0.split_once('-')?.0.parse().ok()
    }

    /// Whether an older version made the load, which gave it no name.
    pub fn is_unnamed(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<String> for LoadId {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for LoadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Names one change of a record at random. A script that is sent again recognises it.
#[derive(Debug, Clone)]
pub struct ChangeId(String);

impl ChangeId {
    /// Names a new change.
    pub fn random() -> Self {
        Self(Uuid::new_v4().simple().to_string())
    }
}

/// What Redis holds about the ownership of a contract.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ownership {
    /// Its owner and generation.
    pub standing: Standing,
    /// What is loaded. None if the contract is not loaded (yet).
    pub load: Option<LoadId>,
    /// Whether it is quarantined now.
    pub quarantined: bool,
}

impl Queue {
    /// Reads the ownership of a contract, whether it is loaded or not.
    pub async fn ownership(&self, address: &ContractAddress) -> Result<Ownership, QueueError> {
        let found = self.ownerships(std::slice::from_ref(address)).await?;
        let first = found.into_iter().next();
        first.ok_or_else(|| unexpected(address, &"no answer"))
    }

    /// Reads the ownership of several contracts in one round trip, in their order.
    pub async fn ownerships(
        &self,
        addresses: &[ContractAddress],
    ) -> Result<Vec<Ownership>, QueueError> {
        if addresses.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipeline = redis::pipe();
        for address in addresses {
            pipeline
                .cmd("HMGET")
                .arg(self.keys().contract(address))
                .arg(&["gen", "owner", "load", "quarantined"])
                .cmd("HEXISTS")
                .arg(self.keys().contract(address))
                .arg("spec")
                .cmd("GET")
                .arg(self.keys().past(address));
        }
        let answers: Vec<redis::Value> = pipeline.query_async(&mut self.pooled().await?).await?;
        let now = self.clock().now_ms();
        let read = |(address, answer): (&ContractAddress, &[redis::Value])| {
            let answer = redis::Value::Array(answer.to_vec());
            let fields = redis::from_redis_value(answer).map_err(|e| unexpected(address, &e))?;
            Ownership::read(address, fields, now)
        };
        addresses.iter().zip(answers.chunks(3)).map(read).collect()
    }

    /// Calls a script of a contract. Every script gets what it `expects` of the record.
    async fn change(
        &self,
        address: &ContractAddress,
        body: &str,
        expected: Standing,
        arguments: impl FnOnce(&mut ScriptInvocation<'_>),
    ) -> Result<Outcome, QueueError> {
        let (done, owner, generation): (bool, String, u64) =
            self.run(address, body, expected, arguments).await?;
        if done {
            return Ok(Outcome::Done(generation));
        }
        let owner = parse_owner(address, Some(owner))?;
        Ok(Outcome::Refused(Standing { owner, generation }))
    }

    /// As [`Self::change`], for a script with an answer of its own.
    async fn run<T: redis::FromRedisValue>(
        &self,
        address: &ContractAddress,
        body: &str,
        expected: Standing,
        arguments: impl FnOnce(&mut ScriptInvocation<'_>),
    ) -> Result<T, QueueError> {
        let script = Script::new(&format!("{PRELUDE}{body}"));
        let mut call = script.prepare_invoke();
        call.key(self.keys().contract(address))
            .key(self.keys().past(address))
            .arg(owner_text(expected.owner))
            .arg(expected.generation)
            .arg(millis(PAST));
        arguments(&mut call);
        Ok(call.invoke_async(&mut self.pooled().await?).await?)
    }
}

/// The fields `gen`, `owner`, `load` and `quarantined`, whether there is a `spec`, and the
/// generation of the last unload.
type Fields = (
    (Option<u64>, Option<String>, Option<String>, Option<u64>),
    bool,
    Option<u64>,
);

impl Ownership {
    fn read(address: &ContractAddress, fields: Fields, now: u64) -> Result<Self, QueueError> {
        let ((generation, owner, load, quarantined), is_loaded, past) = fields;
        let Some(generation) = generation else {
            return Ok(Self {
                standing: Standing::unassigned(past.unwrap_or_default()),
                load: None,
                quarantined: false,
            });
        };
        let owner = parse_owner(address, owner)?;
        Ok(Self {
            standing: Standing { owner, generation },
            load: is_loaded.then(|| load.unwrap_or_default().into()),
            quarantined: quarantined.unwrap_or_default() > now,
        })
    }
}

/// What every script begins with. `KEYS` are the record and the generation of the last unload.
/// `ARGV` begins with the expected owner, the expected generation and the life of that key.
///
/// `no` is the answer of a script that changes nothing.
const PRELUDE: &str = "
local record, past = KEYS[1], KEYS[2]
local found = redis.call('HMGET', record,
    'owner', 'gen', 'spec', 'load', 'by', 'quarantined', 'dead')
local exists, spec, load, by = found[2], found[3], found[4] or '', found[5]
local owner = exists and found[1] or ''
local gen = exists or redis.call('GET', past) or '0'
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local no = {0, owner, gen}
local function text(number) return string.format('%.0f', number) end
local function next_gen() return text(math.max(tonumber(gen) + 1, now)) end
local function done(generation) return {1, '', generation} end
local function is_expected() return exists and owner == ARGV[1] and gen == ARGV[2] end
local function is_quarantined() return tonumber(found[6] or '0') > now end
local function forget(generation)
    redis.call('DEL', record)
    redis.call('SET', past, generation, 'PX', ARGV[3])
end
local function free()
    redis.call('HDEL', record, 'loading')
    if spec then redis.call('HSET', record, 'owner', '') else forget(gen) end
end
";

fn owner_text(owner: Option<WorkerId>) -> String {
    owner.map_or_else(String::new, |owner| owner.to_string())
}

/// The owner as a record states it.
pub(super) fn parse_owner(
    address: &ContractAddress,
    owner: Option<String>,
) -> Result<Option<WorkerId>, QueueError> {
    let owner = owner.filter(|owner| !owner.is_empty());
    let parsed = owner.map(|owner| owner.parse()).transpose();
    parsed.map_err(|error| unexpected(address, &error))
}

pub(super) fn to_json<T: serde::Serialize>(
    address: &ContractAddress,
    value: &T,
) -> Result<String, QueueError> {
    serde_json::to_string(value).map_err(|error| unexpected(address, &error))
}

pub(super) fn unexpected(address: &ContractAddress, error: &impl fmt::Display) -> QueueError {
    QueueError::Unexpected(format!("contract {address}: {error}"))
}
