//! The jobs that an api sends to a worker, as data.
//!
//! The worker decides how a job is run; [`crate::protocol::frame`] defines how jobs are sent.
//!
//! ```
//! use shared::protocol::job::Limits;
//!
//! let limits: Limits = serde_json::from_str(r#"{"timeoutMs": 500, "memoryMb": 64}"#)?;
//! assert_eq!(limits.timeout_ms, Some(500));
//! assert_eq!(limits.concurrency, None, "the limit of the worker applies");
//! # Ok::<_, serde_json::Error>(())
//! ```

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::protocol::id::{ContractAddress, JobId};
use crate::protocol::quota::Quota;
use crate::protocol::rank::Top;

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
    /// All engines.
    pub const ALL: [Self; 2] = [Self::Javascript, Self::Docker];

    /// The name used in requests, keys and logs.
    ///
    /// ```
    /// use shared::protocol::job::EngineKind;
    ///
    /// assert_eq!(EngineKind::Docker.name(), "docker");
    /// assert_eq!("nodejs".parse(), Ok(EngineKind::Javascript));
    /// ```
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

/// The limits that a contract requests at load. They can only be lower than the limits of the
/// worker.
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
    /// How many calls may begin in a second, at all apis together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 1_000_000))]
    pub calls_per_second: Option<u32>,
    /// How many calls may wait or run at once, at all apis together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 1_000_000))]
    pub calls_in_flight: Option<u32>,
    /// How many milliseconds of processor time all calls may use in a minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 10_000_000))]
    pub cpu_ms_per_minute: Option<u32>,
}

impl Limits {
    /// The limits that the apis apply; the worker applies the others.
    pub fn quota(&self) -> Quota {
        Quota {
            calls_per_second: self.calls_per_second,
            calls_in_flight: self.calls_in_flight,
            cpu_ms_per_minute: self.cpu_ms_per_minute,
        }
    }
}

/// The limits that a contract runs with: what it asked for, as far as its worker allows it.
///
/// ```
/// use shared::protocol::job::{EffectiveLimits, Limits};
///
/// let highest = EffectiveLimits { timeout_ms: 2000, ..EffectiveLimits::default() };
/// let asked = Limits { timeout_ms: Some(5000), ..Limits::default() };
/// assert_eq!(highest.exceeded_by(&asked), [("timeoutMs", 2000)]);
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct EffectiveLimits {
    /// How long one call may run, in milliseconds.
    pub timeout_ms: u32,
    /// How many bytes of JSON one result may have.
    pub result_bytes: u32,
    /// How many MiB the contract may allocate outside its heap; of javascript contracts only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(nullable = false))]
    pub memory_mb: Option<u32>,
    /// How many calls may run at once; of docker contracts only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(nullable = false))]
    pub concurrency: Option<u32>,
    /// Whether the contract reaches the outside network; of docker contracts only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(nullable = false))]
    pub network: Option<bool>,
    /// How many calls may begin in a second; none if that is not limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(nullable = false))]
    pub calls_per_second: Option<u32>,
    /// How many calls may wait or run at once; none if that is not limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(nullable = false))]
    pub calls_in_flight: Option<u32>,
    /// The processor time of all calls in a minute, in milliseconds; none if that is not limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(nullable = false))]
    pub cpu_ms_per_minute: Option<u32>,
}

impl EffectiveLimits {
    /// These, with the quota that a contract asked for.
    #[must_use]
    pub fn with_quota(self, quota: Quota) -> Self {
        let Quota {
            calls_per_second,
            calls_in_flight,
            cpu_ms_per_minute,
        } = quota;
        Self {
            calls_per_second,
            calls_in_flight,
            cpu_ms_per_minute,
            ..self
        }
    }

    /// The limits that `asked` sets higher than these, the highest ones of a worker, allow: the
    /// name of each and the highest value.
    pub fn exceeded_by(&self, asked: &Limits) -> Vec<(&'static str, u32)> {
        let all = [
            ("timeoutMs", asked.timeout_ms, Some(self.timeout_ms)),
            ("resultBytes", asked.result_bytes, Some(self.result_bytes)),
            ("memoryMb", asked.memory_mb, self.memory_mb),
            ("concurrency", asked.concurrency, self.concurrency),
        ];
        all.into_iter()
            .filter_map(|(name, asked, highest)| Some((name, asked?, highest?)))
            .filter(|(_, asked, highest)| asked > highest)
            .map(|(name, _, highest)| (name, highest))
            .collect()
    }
}

/// Everything that determines how a contract is run. Two loads with equal specifications load the
/// same contract.
///
/// ```
/// use shared::protocol::job::{ContractSpec, EngineKind};
///
/// let spec: ContractSpec = serde_json::from_str(r#"{"engine": "javascript", "digest": "ab12"}"#)?;
/// assert_eq!(spec.engine, EngineKind::Javascript);
/// assert_eq!((spec.idempotent, spec.replicas), (false, 1), "the defaults");
/// # Ok::<_, serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContractSpec {
    /// The kind of sandbox that runs it.
    pub engine: EngineKind,
    /// SHA-256 of the executable in lower-case hexadecimal, which is its key in the blob store.
    pub digest: String,
    /// The limits that it was loaded with.
    #[serde(default)]
    pub limits: Limits,
    /// Whether a call may be run again after its worker died. JavaScript calls always may: a page
    /// cannot reach anything outside itself, and its state died with it.
    #[serde(default)]
    pub idempotent: bool,
    /// How many workers run it at the same time, from 1 to [`ContractAddress::MAX_REPLICAS`].
    #[serde(default = "one")]
    pub replicas: u32,
    /// Whether the last lines that it writes to its console are kept while nobody follows it. Older
    /// workers keep none.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keep_logs: bool,
}

/// Which lines of a contract are kept while nobody follows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = KeptLogs))]
#[serde(rename_all = "lowercase")]
pub enum KeptLogs {
    /// The last ones.
    Keep,
}

fn one() -> u32 {
    1
}

/// Loads a contract, so that it can be called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Load {
    /// The contract.
    pub address: ContractAddress,
    /// How to run it.
    pub spec: ContractSpec,
    /// The generation of the contract that the api saw when it asked for the load. A worker refuses
    /// the load if the contract has changed since. Older apis do not send it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<u64>,
}

/// Calls a method of a contract.
///
/// ```
/// use shared::protocol::job::{Argument, Execute, Job};
///
/// let call = Job::Execute(Execute {
///     address: "shop.prices".parse()?,
///     method: "total".to_owned(),
///     argument: Argument::None,
///     schemas: None,
///     logs: None,
/// });
/// assert_eq!(
///     serde_json::to_string(&call)?,
///     r#"{"execute":{"address":"shop.prices","method":"total","argument":"none"}}"#
/// );
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Execute {
    /// The contract.
    pub address: ContractAddress,
    /// The endpoint as the caller wrote it.
    pub method: String,
    /// The argument.
    pub argument: Argument,
    /// The digest of the contract's schemas that the argument was checked by, and the result will
    /// be. Empty: the contract had none when the call was routed. A worker refuses the call if the
    /// contract has others by now. Missing: the api is of a version that checks nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schemas: Option<String>,
    /// How many lines of the call's output its reply has if it fails, at most [`MAX_LINES`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logs: Option<u32>,
}

/// The most lines of one call's output.
pub const MAX_LINES: u32 = 100;

/// The argument of a call.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Argument {
    /// The method is called without an argument.
    None,
    /// JSON text that the api has validated.
    Json(Box<RawValue>),
    /// The key of a stored argument: JSON text that is too large for a frame.
    Stored(String),
}

/// Unloads a contract.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unload {
    /// The contract.
    pub address: ContractAddress,
}

/// Asks which contracts a worker owns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inspect {
    /// One contract, or none for all contracts.
    pub address: Option<ContractAddress>,
    /// Only the first contracts of a ranking. Older workers report all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top: Option<Top>,
    /// For how many milliseconds these contracts' output is to be stored. Older workers store none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub follow_ms: Option<u32>,
}

/// Cancels a job that was sent before and has not started, because its caller has disconnected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cancel {
    /// The job. It is a job of the same api.
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
    /// Drain: hand every contract over and exit.
    Drain,
}
