//! The contracts that this worker owns, and the calls that wait for them.
//!
//! | file | holds |
//! |---|---|
//! | `table` | all owned contracts, the capacity permits, one lock per contract |
//! | `handle` | one contract as the rest of the worker uses it: queue a call, stop the task |
//! | `status` | the state and the counters of one contract |
//! | `tenure` | the ownership of one contract: its generation, every registry command of its task |
//! | `task` | the data of the task that runs one contract |
//! | `arguments` | fetches large arguments when it is their calls' turn |
//! | `lifecycle`, `serve`, `restart`, `refusal` | what that task does |
//! | `output` | what the contract writes: who wants it, and how it gets to Redis |
//! | `crash_loop` | when to restart a crashed sandbox, and when to quarantine its contract |
//!
//! The states of a contract, which its task moves through:
//!
//! ```text
//! Loading --> Ready <--> Restarting
//!     \          \          /    \
//!      `----------`--> Unloading   `--> Quarantined, ImageMissing (no worker owns the contract)
//! ```
//!
//! Calls are queued in every state except the last two. How a sandbox runs a call belongs to
//! [`crate::sandbox`].

mod arguments;
mod crash_loop;
mod handle;
mod lifecycle;
mod output;
mod refusal;
mod restart;
mod serve;
mod status;
mod table;
mod task;
mod tenure;

pub(crate) use self::handle::{Call, ContractHandle, TaskEnds};
pub(crate) use self::table::{CapacityPermit, Contracts};
pub(crate) use self::task::{Assignment, ContractTask};
pub(crate) use self::tenure::{Adopted, Comparison, Tenure};
