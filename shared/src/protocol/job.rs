//! What an api asks of a worker. Data only: how a job is run is the worker's business, how it
//! travels is [`crate::protocol::frame`]'s.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::protocol::id::{ContractAddress, JobId};

/// The kind of sandbox that runs a contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = Engine))]
#[serde(rename_all = "lowercase")]
pub enum EngineKind {
    /// Untrusted JavaScript in a Chromium page.
    #[serde(alias = "nodejs")]
    Javascript,
    /// A trusted image in a container.
    Docker,
}

impl EngineKind {
    /// Every engine that exists.
    pub const ALL: [Self; 2] = [Self::Javascript, Self::Docker];

    /// The name used in requests, keys and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Javascript => "javascript",
            Self::Docker => "docker",
        }
    }
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for EngineKind {
    type Err = String;

    /// `nodejs` is the original service's name for `javascript`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "javascript" | "nodejs" => Ok(Self::Javascript),
            "docker" => Ok(Self::Docker),
            _ => Err("must be javascript or docker".to_owned()),
        }
    }
}

/// What a contract asks for itself at load. A worker's own limits are the ceiling: a contract can
/// only lower them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Limits {
    /// How long one call may run, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1))]
    pub timeout_ms: Option<u32>,
    /// How many bytes of JSON one result may have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1))]
    pub result_bytes: Option<u32>,
    /// How many MiB the contract may allocate; of javascript contracts only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_mb: Option<u32>,
    /// How many calls may run at once; of docker contracts only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1))]
    pub concurrency: Option<u32>,
    /// Whether the contract reaches the outside network; of docker contracts only, and only where
    /// the operator allows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<bool>,
}

/// Everything that decides how a contract is run. Two loads with the same specification are the
/// same contract.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContractSpec {
    /// Which sandbox runs it.
    pub engine: EngineKind,
    /// SHA-256 of the executable, in lower-case hexadecimal: its name in the blob store.
    pub digest: String,
    /// The limits it was loaded with.
    #[serde(default)]
    pub limits: Limits,
    /// Whether a call whose worker died may be run again. JavaScript calls always may: a page
    /// reaches nothing outside itself, and its state died with it.
    #[serde(default)]
    pub idempotent: bool,
    /// How many workers host it at once, from 1 to [`ContractAddress::MAX_REPLICAS`].
    #[serde(default = "one")]
    pub replicas: u32,
}

fn one() -> u32 {
    1
}

/// Make a contract ready to be called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Load {
    /// The contract.
    pub address: ContractAddress,
    /// What to run.
    pub spec: ContractSpec,
}

/// Call a method of a contract.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Execute {
    /// The contract.
    pub address: ContractAddress,
    /// The endpoint, as the caller spelled it.
    pub method: String,
    /// The argument.
    pub argument: Argument,
}

/// The argument of a call.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Argument {
    /// The method is called without an argument.
    None,
    /// JSON text that was checked at the edge.
    Json(Box<RawValue>),
    /// The name of a stored body: JSON text too large for a frame.
    Stored(String),
}

/// Close a contract.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unload {
    /// The contract.
    pub address: ContractAddress,
}

/// Tell what a worker hosts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inspect {
    /// One contract, or all of them.
    pub address: Option<ContractAddress>,
}

/// Do not start a job that was sent before: its caller has left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cancel {
    /// The job, of the same api.
    pub job: JobId,
}

/// A request of an api to one worker.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Job {
    /// See [`Load`].
    Load(Load),
    /// See [`Execute`].
    Execute(Execute),
    /// See [`Unload`].
    Unload(Unload),
    /// See [`Inspect`].
    Inspect(Inspect),
    /// See [`Cancel`].
    Cancel(Cancel),
    /// Hand everything over and end.
    Drain,
}
