//! The replies of a worker. Only the api decides which HTTP status a reply becomes.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::protocol::id::ContractAddress;
use crate::protocol::job::{EffectiveLimits, EngineKind, KeptLogs};
use crate::protocol::tenant::Tenant;

/// The result of a job that succeeded.
///
/// ```
/// use serde_json::value::RawValue;
/// use shared::protocol::reply::Output;
///
/// let result = Output::Result(RawValue::from_string("42".to_owned())?);
/// assert_eq!(serde_json::to_string(&result)?, r#"{"result":42}"#);
/// # Ok::<_, serde_json::Error>(())
/// ```
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Output {
    /// The result of a call: JSON text that is forwarded unparsed.
    Result(Box<RawValue>),
    /// A load or an unload succeeded.
    Done,
    /// The contracts that an inspection found.
    Contracts(Vec<ContractStatus>),
}

/// The failure of a job.
///
/// ```
/// use shared::protocol::reply::{Failure, FailureCode};
///
/// let failure = Failure::not_started(FailureCode::Draining, "The worker is draining");
/// assert!(!failure.started, "it is safe to send the job again");
/// assert_eq!(failure.to_string(), "draining: The worker is draining");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{}: {message}", code.name())]
pub struct Failure {
    /// The kind of failure.
    pub code: FailureCode,
    /// A description for people.
    pub message: String,
    /// False if the job was certainly never started, so that repeating it is safe.
    pub started: bool,
    /// Where in its executable the contract threw, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stack: Option<Stack>,
    /// Whether the sandbox is unavailable because its image is. Not a code of its own, which an api
    /// of an earlier version could not read.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lacks_image: bool,
    /// What the call has written to its console, if its caller has asked for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub logs: Vec<String>,
}

/// The calls in a contract's executable during which an error was thrown.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stack {
    /// Innermost first; at most [`Stack::MOST_ENTRIES`].
    pub entries: Vec<StackEntry>,
    /// The name of the executable in the store, if it has a source map.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_map: Option<String>,
}

/// One call in a contract's executable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct StackEntry {
    /// The function's name, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(nullable = false))]
    pub function: Option<String>,
    /// The line, counted from 1.
    pub line: u32,
    /// The column, counted from 1 in UTF-16 units.
    pub column: u32,
    /// The source that a source map names. The place is in it, not in the executable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(nullable = false))]
    pub source: Option<String>,
}

impl Stack {
    /// The most entries of a stack.
    pub const MOST_ENTRIES: usize = 20;
}

impl StackEntry {
    /// The most bytes of a name, of a function or of a source.
    pub const NAME_LIMIT: usize = 100;

    /// An entry in the executable. A longer name is cut.
    pub fn new(function: Option<String>, line: u32, column: u32) -> Self {
        Self {
            function: function.map(Self::cut),
            line,
            column,
            source: None,
        }
    }

    /// Cuts a name to its limit.
    pub fn cut(mut name: String) -> String {
        name.truncate(name.floor_char_boundary(Self::NAME_LIMIT));
        name
    }
}

/// The most bytes of a failure's message. A contract's error text has at most 2,000 characters,
/// which are at most three bytes each, and up to 200 bytes of explanation around it.
pub const MESSAGE_LIMIT: usize = 6200;

impl Failure {
    /// A failure of a job that ran or may have run.
    pub fn started(code: FailureCode, message: impl Into<String>) -> Self {
        Self::new(code, message.into(), true)
    }

    /// A failure of a job that was never started.
    pub fn not_started(code: FailureCode, message: impl Into<String>) -> Self {
        Self::new(code, message.into(), false)
    }

    /// The same failure, with the place where it happened.
    #[must_use]
    pub fn at(self, stack: Stack) -> Self {
        let stack = (!stack.entries.is_empty()).then_some(stack);
        Self { stack, ..self }
    }

    /// The same failure, because of the contract's image.
    #[must_use]
    pub fn for_lack_of_image(self) -> Self {
        Self {
            lacks_image: true,
            ..self
        }
    }

    /// Makes every failure. Cuts the message, whatever it consists of.
    fn new(code: FailureCode, mut message: String, started: bool) -> Self {
        message.truncate(message.floor_char_boundary(MESSAGE_LIMIT));
        Self {
            code,
            message,
            started,
            stack: None,
            lacks_image: false,
            logs: Vec::new(),
        }
    }
}

/// The kinds of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureCode {
    /// The worker does not own the contract (any more). The api looks up the owner again.
    NotHosted,
    /// The worker is draining. The api looks up the owner again.
    Draining,
    /// The contract's queue is full.
    Rejected,
    /// The deadline passed before the job could start.
    Expired,
    /// The method does not exist. The message names the methods that do.
    EndpointNotFound,
    /// The executable is not a contract.
    InvalidExecutable,
    /// The contract threw an error.
    ExecutionFailed,
    /// The call exceeded its time limit.
    ExecutionTimeout,
    /// The result is larger than allowed.
    ResultTooLarge,
    /// JSON cannot express the result.
    ResultNotJson,
    /// The worker died. The job may have been started.
    WorkerLost,
    /// The contract's sandbox died during the call.
    ContractCrashed,
    /// The worker has no room for another contract.
    NoCapacity,
    /// The sandbox cannot be started at present.
    SandboxUnavailable,
    /// The executable is not in the blob store: the api stores it and tries again. Or the stored
    /// argument of a call is gone before the call's deadline, because Redis has lost data.
    ExecutableMissing,
    /// The worker does not support the version of the frame.
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

/// The state of a loaded contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum ContractState {
    /// Its first sandbox is being started.
    Loading,
    /// It can be called.
    Ready,
    /// Its sandbox was lost and is being replaced. Calls wait.
    Restarting,
    /// It crashed too often and is not run for some time.
    Quarantined,
    /// No worker owns it, because the last one could not get its image.
    ImageMissing,
    /// It is being unloaded.
    Unloading,
    /// No worker owns it at the moment.
    Unplaced,
}

/// The last call of a contract that failed because of the contract.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct LastError {
    /// The endpoint, at most 256 bytes of its name.
    pub method: String,
    /// When the call ended, in milliseconds since the epoch by the clock of Redis.
    pub at: u64,
    /// What happened, for programs: the same as in the answer of the call.
    pub code: String,
    /// What happened, for a person.
    pub error: String,
    /// Where the contract threw, if it is known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "openapi", schema(required = false))]
    pub stack: Vec<StackEntry>,
    /// The name of the executable whose source map applies to the stack. Only workers send it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(ignore))]
    pub source_map: Option<String>,
}

impl LastError {
    /// Of a call of `method` that ended `at` this time. None if the contract is not to blame.
    pub fn of(method: &str, at: u64, failure: &Failure) -> Option<Self> {
        let is_own = matches!(
            failure.code,
            FailureCode::ExecutionFailed
                | FailureCode::ExecutionTimeout
                | FailureCode::ResultTooLarge
                | FailureCode::ResultNotJson
                | FailureCode::ContractCrashed
        );
        let Stack {
            entries,
            source_map,
        } = failure.stack.clone().unwrap_or_default();
        is_own.then(|| Self {
            method: method[..method.floor_char_boundary(256)].to_owned(),
            at,
            code: failure.code.name().to_owned(),
            error: failure.message.clone(),
            stack: entries,
            source_map,
        })
    }
}

/// The status of one contract. What only its owner knows is missing where the owner was not asked
/// or did not answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct ContractStatus {
    /// The contract.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub contract_address: ContractAddress,
    /// The tenant that it belongs to, if that is another one than the caller's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = String, required = false))]
    pub tenant: Option<Tenant>,
    /// The kind of sandbox that runs it.
    pub engine: EngineKind,
    /// Its state.
    pub state: ContractState,
    /// The methods that can be called.
    pub endpoints: Vec<String>,
    /// The worker that owns it, or that owns its first replica.
    pub host: Option<String>,
    /// How many workers should run it.
    pub replicas: u32,
    /// The workers that run it.
    pub hosts: Vec<String>,
    /// Raised by every new sandbox. A different number means that the contract's state was reset.
    pub generation: u64,
    /// SHA-256 of the executable.
    pub digest: String,
    /// The id of the image that the contract runs, if the executable is an image. A name is
    /// resolved at each load; every sandbox of the load runs the image that it stood for then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The reference by digest from which the image can be pulled, if it came from a registry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_source: Option<String>,
    /// The limits that it runs with. Not in the list of contracts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(nullable = false))]
    pub limits: Option<EffectiveLimits>,
    /// Whether the last lines that it writes to its console are kept while nobody follows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(nullable = false))]
    pub logs: Option<KeptLogs>,
    /// The schemas of arguments and results by which every call is checked, by endpoint. Not in the
    /// list of contracts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Object, required = false))]
    pub schemas: Option<serde_json::Value>,
    /// Calls that are waiting or running. Not in the list of contracts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(nullable = false))]
    pub queue_depth: Option<u64>,
    /// Calls completed since this worker became the owner. Not in the list of contracts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(nullable = false))]
    pub calls: Option<u64>,
    /// Completed calls that failed. Not in the list of contracts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(nullable = false))]
    pub errors: Option<u64>,
    /// How long the completed calls ran, in milliseconds. Not in the list of contracts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(nullable = false))]
    pub ran_ms: Option<u64>,
    /// The processor time that the completed calls used, in milliseconds. Measured for JavaScript
    /// contracts. Not in the list of contracts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(nullable = false))]
    pub cpu_ms: Option<u64>,
    /// Sandboxes that were lost since this worker became the owner. Not in the list of contracts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(nullable = false))]
    pub losses: Option<u64>,
    /// How many bytes of memory its page holds, of JavaScript contracts. Not in the list of
    /// contracts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(nullable = false))]
    pub memory_bytes: Option<u64>,
    /// The last call that failed because of the contract, since this worker became the owner. Not
    /// in the list of contracts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(nullable = false))]
    pub last_error: Option<LastError>,
}
