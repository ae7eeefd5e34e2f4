//! The interface between the worker and its sandboxes. `chromium` and `docker` implement it.
//!
//! An [`Engine`] starts instances of contracts. An [`Instance`] accepts calls and reports their
//! outcomes. Queues, replies, generations and re-runs belong to `crate::contracts`; an instance
//! has no knowledge of them. Only one task uses an instance, so it needs no locks.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;
use shared::protocol::id::ContractAddress;
use shared::protocol::image::PinnedImage;
use shared::protocol::job::{ContractSpec, EffectiveLimits, Limits};
use shared::protocol::reply::Failure;
use shared::protocol::schemas::SchemaText;

/// The limits that every sandbox applies to its calls.
#[derive(Debug, Clone, Copy)]
pub struct CallLimits {
    /// `EXECUTE_TIMEOUT_MS`: how long one call may run. The default is 2 s, as in the original
    /// service.
    pub time: Duration,
    /// `RESULT_LIMIT_BYTES`: the maximum size of one JSON result in bytes. The default is 1 MiB.
    pub result: u32,
}

impl CallLimits {
    /// The limits of a contract that asks for `limits`.
    pub(crate) fn lowered_by(&self, limits: &Limits) -> EffectiveLimits {
        let highest = u32::try_from(self.time.as_millis()).unwrap_or(u32::MAX);
        let timeout = limits.timeout_ms.map_or(highest, |own| own.min(highest));
        let result = limits.result_bytes;
        EffectiveLimits {
            timeout_ms: timeout.max(1),
            result_bytes: result.map_or(self.result, |own| own.min(self.result)),
            ..EffectiveLimits::default().with_quota(limits.quota())
        }
    }
}

/// Identifies one call within one instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CallId(pub u32);

/// One call, borrowed by an instance for [`Instance::submit`].
#[derive(Debug, Clone, Copy)]
pub struct Invocation<'a> {
    /// Identifies the call in its [`Event`].
    pub id: CallId,
    /// One of the instance's endpoints.
    pub method: &'a str,
    /// Valid JSON text, or none if the call has no argument.
    pub argument: Option<&'a RawValue>,
    /// How many lines of its output are kept, if the instance can tell whose a line is.
    pub logs: u32,
}

impl Invocation<'_> {
    /// The size of the argument, in bytes.
    pub fn size(&self) -> usize {
        self.argument.map_or(0, |json| json.get().len())
    }
}

/// Reads how many bytes of memory an instance holds.
#[derive(Clone)]
pub struct MemoryGauge(Arc<dyn Fn() -> u64 + Send + Sync>);

impl MemoryGauge {
    /// A gauge that calls `read`. Nothing is left to read once the instance has ended: then it
    /// is 0.
    pub fn new(read: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        Self(Arc::new(read))
    }

    /// Reads it.
    pub fn bytes(&self) -> u64 {
        (self.0)()
    }
}

impl fmt::Debug for MemoryGauge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MemoryGauge")
    }
}

/// What a call took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallTime {
    /// The time until the call ended, measured from its submission, or from the end of the work
    /// that ran before it.
    pub elapsed: Duration,
    /// The processor time that the sandbox used for the call, if the engine measures it.
    pub cpu: Option<Duration>,
}

/// The lines that a call has written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CallOutput {
    /// How many lines there were before these.
    pub dropped: u64,
    /// The last lines.
    pub lines: Vec<String>,
    /// How many more lines were written, meanwhile, of which it is not known which call wrote them.
    pub unknown: u64,
}

impl CallOutput {
    /// At most so many of the last lines, and before them how many are missing.
    pub fn last(mut self, lines: usize) -> Vec<String> {
        let surplus = self.lines.len().saturating_sub(lines);
        self.lines.drain(..surplus);
        self.dropped += surplus as u64;
        if self.dropped > 0 && lines > 0 {
            self.lines
                .insert(0, format!("({} lines dropped)", self.dropped));
        }
        self.lines
    }

    /// The same for the caller, who may not see what other calls have written: says how many lines
    /// may be missing because of that.
    pub fn last_for_caller(self, lines: usize) -> Vec<String> {
        let unknown = self.unknown;
        let mut last = self.last(lines);
        if unknown > 0 && lines > 0 {
            last.push(format!(
                "({unknown} lines left out: several calls were pending, and any may have written them)"
            ));
        }
        last
    }

    /// Whether there is nothing to say about it.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty() && self.unknown == 0
    }
}

/// The outcome of a call, or the loss of the whole instance.
#[derive(Debug)]
pub enum Event {
    /// The call ended.
    Done {
        /// The call that ended.
        call: CallId,
        /// Its result or its failure. A result is valid JSON text within the contract's limit.
        outcome: Result<Box<RawValue>, Failure>,
        /// What the call took.
        time: CallTime,
        /// What it has written, if it was asked for.
        output: CallOutput,
    },
    /// The instance returned the call without having started it.
    NotStarted(CallId),
    /// The contract has written lines, and it is not known during which call.
    Written(Vec<String>),
    /// The instance is gone. Every call without its own event ended with it. It is unknown whether
    /// such a call was started.
    Lost {
        /// What happened, for the log.
        reason: String,
        /// Whether the contract is to blame.
        cause: LossCause,
    },
}

/// Why an instance was lost. Only crashes count towards a contract's quarantine: the machine or a
/// caller may be the cause of everything else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LossCause {
    /// The contract broke its sandbox: it crashed, used too much memory, computed without a call,
    /// or tampered with what runs it.
    Crash,
    /// Calls ran longer than their limit. One argument or a busy machine may be the cause.
    Timeout,
    /// The sandbox or what hosts it did not respond in time.
    Unresponsive,
    /// The sandbox was lost while it read the arguments of calls, before any of them was started.
    /// They were too large for what the contract has left of its memory.
    Arguments,
}

impl LossCause {
    /// The value of the label `cause` in the metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Crash => "crash",
            Self::Timeout => "timeout",
            Self::Unresponsive => "unresponsive",
            Self::Arguments => "arguments",
        }
    }
}

/// Why an instance could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The executable is not a valid contract, or has broken its sandbox. A retry cannot succeed.
    /// When a contract that was loaded before is restarted, this counts as a crash.
    #[error("{0}")]
    Invalid(String),
    /// The contract was not ready in time, and it is not known whether it or the machine is the
    /// cause. The caller of a load is told so; a restart is retried.
    #[error("{0}")]
    NotReady(String),
    /// The sandbox could not be made, or did not respond in time. A later retry may succeed.
    #[error("{0}")]
    Unavailable(String),
    /// The image could not be pulled. A later retry may succeed.
    #[error("{0}")]
    ImageUnavailable(String),
    /// The machine does not have the image that the contract was loaded with, and cannot pull it.
    #[error("{0}")]
    ImageMissing(String),
}

/// Everything that an engine needs to start an instance.
#[derive(Debug, Clone, Copy)]
pub struct Blueprint<'a> {
    /// The contract's address.
    pub address: &'a ContractAddress,
    /// The generation in which the instance is started. A restarted one serves the next.
    pub generation: u64,
    /// The contract's engine, limits and options.
    pub spec: &'a ContractSpec,
    /// The content of `spec.digest`.
    pub executable: &'a str,
    /// The [image](Instance::image) that an earlier instance of the same load ran. The new instance
    /// must run the same image.
    pub image: Option<&'a PinnedImage>,
}

/// How many instances of a contract may be lost within a time before the contract counts as
/// crash-looping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RestartLimit {
    /// This number of losses is too many.
    pub losses: usize,
    /// Only losses within this time count.
    pub within: Duration,
}

/// Starts instances of contracts in one kind of sandbox.
pub trait Engine: Clone + Send + Sync + 'static {
    /// The instances that this engine starts.
    type Instance: Instance;

    /// Starts a new instance that is ready for calls.
    ///
    /// The future ends within the engine's own load limit. It leaves nothing behind when it fails.
    /// Callers must await it to its end.
    fn start(
        &self,
        plan: Blueprint<'_>,
    ) -> impl Future<Output = Result<Self::Instance, StartError>> + Send;

    /// The limits that a contract runs with which asks for `limits`.
    fn limits(&self, limits: &Limits) -> EffectiveLimits;

    /// The image that an executable stands for now. None if the executable is the contract itself.
    fn resolve(
        &self,
        _executable: &str,
    ) -> impl Future<Output = Result<Option<PinnedImage>, StartError>> + Send {
        std::future::ready(Ok(None))
    }

    /// The number of losses after which a contract is quarantined.
    fn restart_limit(&self) -> RestartLimit;
}

/// The room that an instance has for calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// How many calls may be submitted now.
    pub calls: usize,
    /// How many bytes the arguments of these calls may have together. A single call may have more.
    pub bytes: usize,
}

impl Room {
    /// No room at present.
    pub const NONE: Self = Self { calls: 0, bytes: 0 };
}

/// One running contract.
pub trait Instance: Send + 'static {
    /// The methods that can be called. None if only the contract itself knows them.
    fn endpoints(&self) -> Option<&[String]>;

    /// Reads how much memory the instance holds, if the engine can tell.
    fn memory(&self) -> Option<MemoryGauge> {
        None
    }

    /// The schemas that the contract has beside its endpoints.
    fn schemas(&self) -> Option<&SchemaText> {
        None
    }

    /// The running image, if the executable is an image.
    fn image(&self) -> Option<&PinnedImage> {
        None
    }

    /// Reserves room for calls and returns it. `next` is the size of the argument of the first one,
    /// in bytes. If there is no room, wait for the [next](Self::next) events. To release an unused
    /// reservation, submit no calls.
    fn reserve(&mut self, next: usize) -> Room;

    /// The smallest number of calls that is worth a submission now. With fewer waiting calls, it is
    /// cheaper to wait for the running ones and then to start more calls together. `next` is the
    /// size of the argument of the first one, in bytes.
    fn worthwhile(&self, _next: usize) -> usize {
        1
    }

    /// From now on, what the contract writes by itself is wanted, or not: as [`Event::Written`].
    /// What calls have written is in their outcomes, if they were submitted so.
    fn follow(&mut self, _wanted: bool) {}

    /// Starts the calls, at most as many and as large ones as were [reserved](Self::reserve) for.
    ///
    /// Every call gets exactly one event, unless the instance is lost first. The instance enforces
    /// the time limits: a call that exceeds its limit gets a `Done` event with a failure.
    fn submit(&mut self, calls: &[Invocation<'_>]);

    /// Waits for the next events.
    ///
    /// An empty list means that [`Self::reserve`] or [`Self::worthwhile`] may now return another
    /// value. Cancel safe. Must not be called after [`Event::Lost`].
    fn next(&mut self) -> impl Future<Output = Vec<Event>> + Send;

    /// Ends the instance and everything that belongs to it.
    fn close(self) -> impl Future<Output = ()> + Send;
}
