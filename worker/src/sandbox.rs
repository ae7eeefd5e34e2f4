//! What the worker asks of a sandbox; `chromium` and `docker` answer it.
//!
//! An [`Engine`] makes instances of contracts. An [`Instance`] takes calls and tells what became
//! of them; it knows nothing of queues, replies, generations or re-runs: those are
//! [`crate::contracts`]'. It is used by one task only, so it needs no locks.

use std::future::Future;
use std::time::Duration;

use serde_json::value::RawValue;
use shared::protocol::id::ContractAddress;
use shared::protocol::job::ContractSpec;
use shared::protocol::reply::Failure;

/// Names one call within one instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CallId(pub u32);

/// One call, lent to an instance for [`Instance::submit`].
#[derive(Debug, Clone, Copy)]
pub struct Invocation<'a> {
    /// Comes back in the call's [`Event`].
    pub id: CallId,
    /// One of the instance's endpoints.
    pub method: &'a str,
    /// Valid JSON text, or no argument at all.
    pub argument: Option<&'a RawValue>,
}

/// What became of a call, or of the whole instance.
#[derive(Debug)]
pub enum Event {
    /// The call ended.
    Done {
        /// Which call.
        call: CallId,
        /// Its result, or how it failed. Valid JSON text within the contract's limit.
        outcome: Result<Box<RawValue>, Failure>,
        /// From its submission, or from the end of what ran before it, to its end.
        elapsed: Duration,
    },
    /// The instance handed the call back without having started it.
    NotStarted(CallId),
    /// The instance is gone. Every call without an event of its own ended with it; whether such a
    /// call was started is unknown.
    Lost {
        /// Why, for the log and for calls that cannot be run again.
        reason: String,
    },
}

/// Why an instance could not be made.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The executable is no contract; trying again is of no use.
    #[error("{0}")]
    Invalid(String),
    /// The sandbox itself failed; trying again later may succeed.
    #[error("{0}")]
    Unavailable(String),
}

/// What an instance is made of.
#[derive(Debug, Clone, Copy)]
pub struct Blueprint<'a> {
    /// Whose instance it is.
    pub address: &'a ContractAddress,
    /// The generation that it is meant for.
    pub generation: u64,
    /// How it is to be run.
    pub spec: &'a ContractSpec,
    /// The content of `spec.digest`.
    pub executable: &'a str,
    /// The [image](Instance::image) of the instance before it, whose successor is to be the same.
    pub image: Option<&'a str>,
}

/// How many instances of a contract may be lost within a time, before the contract is taken to be
/// broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RestartLimit {
    /// So many losses are too many.
    pub losses: usize,
    /// Within this time.
    pub within: Duration,
}

/// Makes instances of contracts in one kind of sandbox.
pub trait Engine: Clone + Send + Sync + 'static {
    /// What it makes.
    type Instance: Instance;

    /// Makes a fresh instance, ready to be called.
    ///
    /// Ends by itself within the engine's own load limit and leaves nothing behind when it fails.
    /// Await it to its end.
    fn start(
        &self,
        plan: Blueprint<'_>,
    ) -> impl Future<Output = Result<Self::Instance, StartError>> + Send;

    /// When a contract that loses its instances is to be quarantined.
    fn restart_limit(&self) -> RestartLimit;
}

/// One running contract.
pub trait Instance: Send + 'static {
    /// The methods that can be called, or none when only the contract itself knows.
    fn endpoints(&self) -> Option<&[String]>;

    /// What exactly runs, where the executable only names it: the digest of an image.
    fn image(&self) -> Option<&str> {
        None
    }

    /// Asks for room for calls: how many may be submitted now. Zero: wait for what happens
    /// [next](Self::next). What is reserved in vain is given back by submitting no call.
    fn reserve(&mut self) -> usize;

    /// Fewer calls than this had better wait for what is under way: started together they cost less.
    fn worthwhile(&self) -> usize {
        1
    }

    /// Starts the calls, at most as many as were [reserved](Self::reserve). Every one of them gets one event, unless
    /// the instance is lost first. Limits of time are the instance's to keep: a call that runs
    /// over its own gets a `Done` with a failure.
    fn submit(&mut self, calls: &[Invocation<'_>]);

    /// Waits for what happens next; pending for as long as nothing does. Without any event, it is
    /// [`Self::reserve`] or [`Self::worthwhile`] that may have changed. Cancel safe. Not to be called
    /// after [`Event::Lost`].
    fn next(&mut self) -> impl Future<Output = Vec<Event>> + Send;

    /// Ends the instance and everything that belongs to it.
    fn close(self) -> impl Future<Output = ()> + Send;
}

/// What every sandbox limits its calls to.
#[derive(Debug, Clone, Copy)]
pub struct CallLimits {
    /// `EXECUTE_TIMEOUT_MS`: how long one call may run.
    pub time: Duration,
    /// `RESULT_LIMIT_BYTES`: how many bytes of JSON one result may have.
    pub result: u32,
}
