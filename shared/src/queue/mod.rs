//! The queue: one inbox per worker, one reply stream per api.
//!
//! # The protocol
//!
//! A contract is hosted by one worker, so an api does not need a queue per contract: it looks up
//! the host ([`contracts`]), and appends the call to that worker's **inbox** ([`inbox`]), a stream
//! that only this worker reads. Reading one stream costs Redis the same whether a worker hosts one
//! contract or ten thousand.
//!
//! 1. The api appends a frame of jobs: `XADD in NOMKSTREAM`. Nil means that the worker is gone:
//!    the api looks the host up again.
//! 2. The worker reads it: `XREADGROUP .. >`. From now on the entry is *pending*: proof that its
//!    jobs may have been started.
//! 3. The worker appends a frame of replies to the **reply stream** of the api that asked
//!    ([`replies`]), then acknowledges (`XACK`, `XDEL`) the entries whose jobs are all answered.
//! 4. The api reads its reply stream and trims what it has read.
//!
//! Both directions batch without a timer: while one frame is under way, the next one gathers.
//!
//! A load has no host yet. It goes through the engine's **placement** stream ([`placement`]), that
//! workers read while they have room. The executable itself lies in Redis once per content
//! ([`blobs`]); jobs carry its digest.
//!
//! A worker lives as long as its **lease** does ([`leases`]); it renews it each second. What a
//! contract is and who hosts it stands in one hash, that only the claiming worker changes, by
//! compare-and-set; each fresh sandbox raises the contract's *generation* in it.
//!
//! Deadlines are in Redis' time ([`clock`]), so the hosts' clocks do not matter.
//!
//! # When a worker dies
//!
//! Its subscription ends at once ([`Queue::missing_workers`]): a hint to send it nothing. When its
//! lease has ended, any process clears up after it ([`reaper`]): the inbox is renamed, so that late
//! writers learn that it is gone; what the worker was given and did not acknowledge *may have been
//! started*, what it was not given *was not*, and the apis are told which; its contracts are
//! offered again, and so are the loads that it had taken. A worker that was only slow finds its lease
//! gone, claims again what nobody took, and starts nothing that it was given before, nor what comes again
//! that was sent before: a frame that got no answer tells when it was sent first. A worker that ends
//! without having handed everything over gives its lease up and leaves the rest to the others.
//!
//! What may have been started may be run again where the state that it worked on died with the worker,
//! so not by the same worker. The third death within an hour quarantines a contract that was running.
//!
//! # What does not belong here
//!
//! What a job means, and what is done when one cannot be delivered.

pub mod blobs;
pub mod clock;
mod config;
mod connection;
mod contact;
pub mod contracts;
mod counts;
pub mod dead_letters;
mod error;
pub mod farm;
mod hot;
pub mod inbox;
pub mod keys;
pub mod leases;
pub mod orphans;
pub mod placement;
pub mod reaper;
pub mod replies;
mod server;
mod stream;

pub use config::{QUEUE_SETTINGS, ReaperConfig, RedisConfig};
pub use connection::Queue;
pub use error::QueueError;
pub use server::Memory;
