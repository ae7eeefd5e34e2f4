//! The queue: Redis carries jobs to workers and replies to apis, and records who owns a contract.
//!
//! There is one inbox per worker and one reply stream per api. This page describes the protocol;
//! [`keys`] lists every Redis key, [`timing`] every time constant.
//!
//! # A call
//!
//! Each contract has one owner: the worker that runs its sandbox. An api looks up the owner
//! ([`contracts`]) and appends the call to the **inbox** of that worker ([`inbox`]), a stream that
//! only this worker reads. Reading one stream costs Redis the same whether a worker owns one
//! contract or ten thousand.
//!
//! 1. The api appends a frame of jobs: `XADD in NOMKSTREAM`. Redis answers nil if the worker is
//!    gone. The api then looks up the owner again.
//! 2. The worker reads the frame: `XREADGROUP .. >`. From now on the entry is *pending*, which
//!    proves that its jobs may have been started.
//! 3. The worker appends a frame of replies to the **reply stream** of the api ([`replies`]). Then
//!    it acknowledges (`XACK`, `XDEL`) the entries whose jobs all have replies.
//! 4. The api reads its reply stream and trims what it has read.
//!
//! Both directions batch without a timer: while one frame is in flight, the next one fills.
//!
//! Deadlines use the clock of Redis ([`clock`]), so the clocks of the machines do not matter.
//!
//! # Loads and placement
//!
//! A contract that is being loaded has no owner yet. Its load goes through the **placement** stream
//! of its engine ([`placement`]), which workers read while they have room. Redis stores each
//! executable once per content ([`blobs`]); jobs carry its digest.
//!
//! # Leases and ownership
//!
//! A worker counts as alive while it holds its **lease** ([`leases`]), which it renews each second.
//! One hash per contract, the **contract record**, states what the contract is and who owns it.
//! Scripts change it by compare-and-set on the owner. Each new sandbox raises the *generation* of
//! the contract in the record.
//!
//! The **registry** ([`registry`]) lists what exists: two sorted sets, of contracts and of executables.
//! Listings and the sweep ([`sweeper`]) read it by pages; nothing walks the key space.
//!
//! A worker that cannot hand everything over before it ends gives up its lease and leaves the rest
//! to the others.
//!
//! # When a worker dies
//!
//! - **Early sign.** The worker's subscription ends at once ([`Queue::missing_workers`]). Apis then
//!   stop sending to it, but nothing is taken from it yet.
//! - **Clean-up.** When the lease has lapsed, any process cleans up ([`reaper`]). It renames the
//!   inbox, so that late writers learn that the worker is gone.
//! - **Replies.** Jobs that were delivered and not acknowledged *may have been started*. Jobs that
//!   were not delivered *were not started*. The reaper sends the apis a reply that says which.
//! - **Failover.** The worker's contracts and the loads that it had received are offered again
//!   ([`failover`]).
//! - **A slow worker.** A worker that was only slow finds its lease gone. It confirms its ownership
//!   of the contracts that nobody took. It does not start jobs that it received before. A frame
//!   that got no answer states when it was first sent, so a job that is sent again is not started
//!   either.
//!
//! # What may be run again
//!
//! A job that may have been started may run again if the state that it worked on died with the
//! worker. Therefore it never runs again on the same worker. The third death of a worker within an
//! hour quarantines a contract that was running at each of them.
//!
//! # What does not belong here
//!
//! What a job means, and what happens when one cannot be delivered.

pub mod blobs;
pub mod clock;
mod config;
mod connection;
pub mod contracts;
mod counts;
pub mod dead_letters;
mod error;
pub mod failover;
pub mod farm;
pub mod inbox;
pub mod keys;
pub mod leases;
mod lock;
mod offers;
mod outage;
pub mod placement;
pub mod reaper;
mod redis_info;
pub mod registry;
pub mod replies;
mod shared_connection;
mod stream;
pub mod sweeper;
pub mod timing;

pub use config::{QUEUE_SETTINGS, ReaperConfig, RedisConfig};
pub use connection::Queue;
pub use error::QueueError;
pub use redis_info::Memory;
