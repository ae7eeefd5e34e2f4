//! What a worker answers. Which HTTP status an answer becomes is the api's business alone.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::protocol::id::ContractAddress;
use crate::protocol::job::EngineKind;

/// What a finished job gives back.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Output {
    /// An executed call: JSON text, passed on unparsed.
    Result(Box<RawValue>),
    /// A load or an unload.
    Done,
    /// An inspection.
    Contracts(Vec<ContractStatus>),
}

/// A job that gave nothing back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{}: {message}", code.name())]
pub struct Failure {
    /// What went wrong.
    pub code: FailureCode,
    /// The same for a person.
    pub message: String,
    /// False: the job was certainly never started, so repeating it is safe.
    pub started: bool,
}

impl Failure {
    /// A failure of a job that ran, or may have.
    pub fn started(code: FailureCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            started: true,
        }
    }

    /// A failure of a job that was never started.
    pub fn not_started(code: FailureCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            started: false,
        }
    }
}

/// The kinds of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureCode {
    /// The worker does not host the contract (any more): route again.
    NotHosted,
    /// The worker is on its way out: route again.
    Draining,
    /// The contract's queue is full.
    Rejected,
    /// The deadline passed before the job's turn came.
    Expired,
    /// No such method; the message names those that exist.
    EndpointNotFound,
    /// The executable is no contract.
    InvalidExecutable,
    /// The contract threw.
    ExecutionFailed,
    /// The call ran over its limit.
    ExecutionTimeout,
    /// The result has more bytes than allowed.
    ResultTooLarge,
    /// The result is nothing that JSON can express.
    ResultNotJson,
    /// The worker died; the job may have been started.
    WorkerLost,
    /// The contract's sandbox died under the call.
    ContractCrashed,
    /// The worker has no room for another contract.
    NoCapacity,
    /// The sandbox cannot be started at the moment.
    SandboxUnavailable,
    /// The executable is not in the store: stage it and try again.
    ExecutableMissing,
    /// The frame's version is not spoken here.
    UnsupportedVersion,
}

impl FailureCode {
    /// The name used on the wire and in logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::NotHosted => "not_hosted",
            Self::Draining => "draining",
            Self::Rejected => "rejected",
            Self::Expired => "expired",
            Self::EndpointNotFound => "endpoint_not_found",
            Self::InvalidExecutable => "invalid_executable",
            Self::ExecutionFailed => "execution_failed",
            Self::ExecutionTimeout => "execution_timeout",
            Self::ResultTooLarge => "result_too_large",
            Self::ResultNotJson => "result_not_json",
            Self::WorkerLost => "worker_lost",
            Self::ContractCrashed => "contract_crashed",
            Self::NoCapacity => "no_capacity",
            Self::SandboxUnavailable => "sandbox_unavailable",
            Self::ExecutableMissing => "executable_missing",
            Self::UnsupportedVersion => "unsupported_version",
        }
    }
}

/// The life of a hosted contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum ContractState {
    /// Its first sandbox is being made.
    Loading,
    /// It can be called.
    Ready,
    /// Its sandbox was lost and is being made anew; calls wait.
    Restarting,
    /// It broke what hosted it too often: nobody hosts it for a while.
    Quarantined,
    /// It is being closed.
    Unloading,
    /// No worker hosts it at the moment.
    Unplaced,
}

/// What is known of one contract: an entry of `GET /contracts`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct ContractStatus {
    /// The contract.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub contract_address: ContractAddress,
    /// Which sandbox runs it.
    pub engine: EngineKind,
    /// Where it stands.
    pub state: ContractState,
    /// The methods that can be called.
    pub endpoints: Vec<String>,
    /// The worker that hosts it, or its first replica.
    pub host: Option<String>,
    /// How many workers shall host it.
    pub replicas: u32,
    /// Those that do.
    pub hosts: Vec<String>,
    /// Raised by every fresh sandbox: another number means that the contract's state is new.
    pub generation: u64,
    /// SHA-256 of the executable.
    pub digest: String,
    /// The digest of the image that runs, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Calls that wait or run.
    pub queue_depth: u64,
    /// Calls answered since this worker hosts it.
    pub calls: u64,
    /// Those of them that failed.
    pub errors: u64,
}
