//! What the owner of a contract records about it.

use redis::ScriptInvocation;

use super::{ChangeId, LoadId, Outcome, Standing, to_json};
use crate::protocol::id::ContractAddress;
use crate::protocol::image::PinnedImage;
use crate::protocol::job::ContractSpec;
use crate::protocol::schemas::SchemaText;
use crate::queue::{Queue, QueueError};

/// What is known about a contract whose sandbox runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sandbox {
    /// Its methods, as far as they are known.
    pub endpoints: Vec<String>,
    /// Its image, if it has one. Every later sandbox of the same load runs this image.
    pub image: Option<PinnedImage>,
    /// The schemas that it was loaded with.
    pub schemas: Option<SchemaText>,
}

impl Sandbox {
    /// The fields `image`, `source`, `schemas` and `schemasDigest` of the record.
    pub(super) fn fields(&self) -> [&str; 4] {
        let (image, schemas) = (self.image.as_ref(), self.schemas.as_ref());
        let source = image.and_then(|image| image.source.as_deref());
        [
            image.map_or("", |image| &image.id),
            source.unwrap_or_default(),
            schemas.map_or("", SchemaText::text),
            schemas.map_or("", SchemaText::digest),
        ]
    }
}

/// The only script that lifts a quarantine, with [`SWITCH`].
const READY: &str = "
if not is_expected() then return no end
redis.call('HSET', record, 'spec', ARGV[4], 'load', ARGV[5], 'endpoints', ARGV[6],
    'image', ARGV[7], 'source', ARGV[8], 'schemas', ARGV[9], 'schemasDigest', ARGV[10])
redis.call('HDEL', record, 'loading', 'quarantined', 'missing')
return done(gen)
";

const SWITCH: &str = "
if exists and owner == ARGV[1] and load == ARGV[5] then return done(gen) end
if not is_expected() then return no end
gen = next_gen()
redis.call('HSET', record, 'gen', gen, 'spec', ARGV[4], 'load', ARGV[5], 'endpoints', ARGV[6],
    'image', ARGV[7], 'source', ARGV[8], 'schemas', ARGV[9], 'schemasDigest', ARGV[10])
redis.call('HDEL', record, 'loading', 'quarantined', 'missing')
return done(gen)
";

const RAISE: &str = "
if exists and owner == ARGV[1] and by == ARGV[4] then return done(gen) end
if not is_expected() then return no end
gen = next_gen()
redis.call('HSET', record, 'gen', gen, 'by', ARGV[4])
redis.call('HDEL', record, 'missing')
return done(gen)
";

const NOTE: &str = "
if not is_expected() then return no end
redis.call('HSET', record, 'endpoints', ARGV[4], 'image', ARGV[5], 'source', ARGV[6],
    'schemas', ARGV[7], 'schemasDigest', ARGV[8])
redis.call('HDEL', record, 'missing')
return done(gen)
";

impl Queue {
    /// Records that the load that a caller asked for has succeeded: the contract is loaded.
    pub async fn record_load(
        &self,
        address: &ContractAddress,
        expected: Standing,
        load: (&LoadId, &ContractSpec),
        sandbox: &Sandbox,
    ) -> Result<Outcome, QueueError> {
        self.record(address, READY, expected, load, sandbox).await
    }

    /// As [`Self::record_load`], for a contract that runs already: from now on, in a new
    /// generation, it is loaded with another specification.
    pub async fn switch_load(
        &self,
        address: &ContractAddress,
        expected: Standing,
        load: (&LoadId, &ContractSpec),
        sandbox: &Sandbox,
    ) -> Result<Outcome, QueueError> {
        self.record(address, SWITCH, expected, load, sandbox).await
    }

    async fn record(
        &self,
        address: &ContractAddress,
        body: &str,
        expected: Standing,
        (load, spec): (&LoadId, &ContractSpec),
        sandbox: &Sandbox,
    ) -> Result<Outcome, QueueError> {
        let spec = to_json(address, spec)?;
        let endpoints = to_json(address, &sandbox.endpoints)?;
        let arguments = |call: &mut ScriptInvocation<'_>| {
            call.arg(spec)
                .arg(load.as_str())
                .arg(endpoints)
                .arg(&sandbox.fields());
        };
        self.change(address, body, expected, arguments).await
    }

    /// Starts a new generation for a new sandbox of the same load. If the call is repeated with the
    /// same `change`, the generation is raised once.
    pub async fn raise_generation(
        &self,
        address: &ContractAddress,
        expected: Standing,
        change: &ChangeId,
    ) -> Result<Outcome, QueueError> {
        self.change(address, RAISE, expected, |call| {
            call.arg(&change.0);
        })
        .await
    }

    /// Records the methods, the image and the schemas of a contract.
    pub async fn note_sandbox(
        &self,
        address: &ContractAddress,
        expected: Standing,
        sandbox: &Sandbox,
    ) -> Result<Outcome, QueueError> {
        let endpoints = to_json(address, &sandbox.endpoints)?;
        self.change(address, NOTE, expected, |call| {
            call.arg(endpoints).arg(&sandbox.fields());
        })
        .await
    }
}
