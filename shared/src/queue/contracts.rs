//! The contract records: one hash per loaded contract, with its specification and its owner.
//!
//! This file reads them. The scripts that change them are in [`ownership`](super::ownership).

use super::leases::Fate;
use super::ownership::{LoadId, Standing, parse_owner, unexpected};
use super::{Queue, QueueError};
use crate::protocol::id::{ContractAddress, WorkerId};
use crate::protocol::image::PinnedImage;
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
    /// The load that it was loaded by.
    pub load: LoadId,
    /// Its methods, as far as they are known.
    pub endpoints: Vec<String>,
    /// When its quarantine ends, in milliseconds by the clock of Redis. 0 if it is not quarantined.
    pub quarantined_until: u64,
    /// The image that was resolved when it was loaded, if the executable is an image.
    pub image: Option<PinnedImage>,
    /// Whether the worker that owned it last could not get this image.
    pub image_missing: bool,
    /// The digest of the schemas of its arguments and results, if it has some.
    pub schemas: Option<String>,
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

impl ContractRecord {
    /// Its owner and generation, as a script expects them.
    pub fn standing(&self) -> Standing {
        Standing {
            owner: self.owner,
            generation: self.generation,
        }
    }
}

/// The fields that [`parse_record`] reads.
pub(super) const FIELDS: [&str; 10] = [
    "spec",
    "gen",
    "owner",
    "endpoints",
    "quarantined",
    "image",
    "load",
    "source",
    "missing",
    "schemasDigest",
];

type Fields = (
    Option<String>,
    Option<u64>,
    Option<String>,
    Option<String>,
    Option<u64>,
    Option<String>,
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

    /// Reads the schemas of a contract. None if it has none, or is not loaded.
    pub async fn schemas(&self, address: &ContractAddress) -> Result<Option<String>, QueueError> {
        let text: Option<String> = redis::cmd("HGET")
            .arg(self.keys().contract(address))
            .arg("schemas")
            .query_async(&mut self.pooled().await?)
            .await?;
        Ok(text.filter(|text| !text.is_empty()))
    }

    /// Looks up where the jobs of a contract with this record are sent.
    pub async fn route(&self, record: Option<ContractRecord>) -> Result<Route, QueueError> {
        let Some(record) = record else {
            return Ok(Route::NotLoaded);
        };
        match record.owner {
            _ if record.quarantined_until > self.clock().now_ms() => Ok(Route::Quarantined(record)),
            Some(worker) if self.fate(worker).await? == Fate::Lives => {
                Ok(Route::Assigned(worker, record))
            }
            _ => Ok(Route::Unassigned(record)),
        }
    }
}

/// Reads the [`FIELDS`] of a contract's record. None if it is not loaded.
pub(super) fn parse_record(
    address: &ContractAddress,
    (spec, generation, owner, endpoints, quarantined, image, load, source, missing, schemas): Fields,
) -> Result<Option<ContractRecord>, QueueError> {
    let (Some(spec), Some(generation)) = (spec, generation) else {
        return Ok(None);
    };
    let spec = serde_json::from_str(&spec).map_err(|e| unexpected(address, &e))?;
    let owner = parse_owner(address, owner)?;
    let endpoints = endpoints
        .and_then(|list| serde_json::from_str(&list).ok())
        .unwrap_or_default();
    let image = image.filter(|image| !image.is_empty());
    let source = source.filter(|source| !source.is_empty());
    Ok(Some(ContractRecord {
        spec,
        generation,
        owner,
        load: load.unwrap_or_default().into(),
        endpoints,
        quarantined_until: quarantined.unwrap_or_default(),
        image: image.map(|id| PinnedImage { id, source }),
        image_missing: missing.is_some(),
        schemas: schemas.filter(|digest| !digest.is_empty()),
    }))
}
