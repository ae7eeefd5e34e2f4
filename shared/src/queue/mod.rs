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
//! 3. The worker appends a frame of replies to the **reply stream** of the api ([`replies`]). The
//!    same transaction acknowledges (`XACK`, `XDEL`) the entries whose jobs all have replies.
//! 4. The api reads its reply stream and trims what it has read.
//!
//! Redis may deliver an entry to a connection that is dead. So on each new connection a worker
//! lists its pending entries again, and takes those that it does not have in hand (`in_hand.rs`).
//!
//! Both directions batch without a timer: while one frame is in flight, the next one fills.
//!
//! Deadlines use the clock of Redis ([`clock`]), so the clocks of the machines do not matter.
//!
//! # Loads and placement
//!
//! A contract that is being loaded has no owner yet. Its load goes through the **placement** stream
//! of its engine ([`placement`]), which workers read while they have room. Redis stores each
//! executable once per content ([`blobs`]) while a load refers to it ([`references`]); jobs carry
//! its digest.
//!
//! # Leases and ownership
//!
//! A worker counts as alive while it holds its **lease** ([`leases`]), which it renews each second.
//! One hash per contract, the **contract record**, states what the contract is and who owns it.
//! Scripts change it ([`ownership`]), each by compare-and-set on the owner and the *generation*.
//! Each new sandbox raises the generation, which is made from the time of Redis and only grows.
//!
//! A worker lives as long as its **inbox**. A lapsed lease only permits others to *fence* the
//! worker:
//! to rename its inbox, for good. Only then may its contracts be taken. Until then the worker may
//! renew its lease and keeps everything.
//!
//! The **registry** ([`registry`]) lists what exists: two sorted sets, of contracts and of
//! executables.
//! Listings and the sweep ([`sweeper`]) read it by pages; nothing walks the key space.
//!
//! A worker that cannot hand everything over before it ends gives up its lease and leaves the rest
//! to the others.
//!
//! # Scripts
//!
//! These change who owns what. The model of the protocol has one step for each.
//!
//! | script | function | model |
//! |---|---|---|
//! | register, renew | [`Queue::register_worker`], [`Queue::renew_lease`] | `Renew` |
//! | fence, cleaned | in [`reaper`] | `Fence`, `Reap` |
//! | fate | [`Queue::fate`] | `fate` |
//! | claim | [`Queue::claim`] | `claim` |
//! | ready | [`Queue::record_load`] | `ready` |
//! | switch | [`Queue::switch_load`] | `switch` |
//! | raise | [`Queue::raise_generation`] | `raise` |
//! | drop | [`Queue::drop_ownership`] | `drop` |
//! | quarantine | [`Queue::quarantine`] | `quarantine` |
//! | orphan | [`Queue::fail_over`] | `orphan` |
//! | unload | [`Queue::unload`] | `unload` |
//! | resume | [`Queue::resume_ownership`] | `resume` |
//! | restore | [`Queue::restore_ownership`] | `restore` |
//! | keep | [`Queue::keep_blob`] | `keep` |
//! | release | [`Queue::release_blob`] | `release` |
//! | remove stale | [`Queue::sweep_blob`] | `sweep` |
//!
//! # When a worker dies
//!
//! - **Early sign.** The worker's subscription ends at once ([`Queue::missing_workers`]). Apis then
//!   stop sending to it, but nothing is taken from it yet.
//! - **Fence.** When the lease has lapsed, any process cleans up ([`reaper`]). It renames the
//!   inbox: the worker cannot renew its lease any more, and late writers learn that it is gone.
//! - **Replies.** Jobs that were delivered and not acknowledged *may have been started*. Jobs that
//!   were not delivered *were not started*. The reaper sends the apis a reply that says which.
//! - **Failover.** The worker's contracts and the loads that it had received are offered again
//!   ([`failover`]).
//! - **A slow worker.** A worker that was only slow finds that it was fenced. It goes on under its
//!   next id, with a new inbox, and resumes the contracts that nobody took. It does not start jobs
//!   that it received before.
//! - **Comparison.** Each worker compares its contracts with their records from time to time, so
//!   that no single lost write can strand a contract.
//!
//! # What may be run again
//!
//! A job that may have been started may run again if the state that it worked on died with the
//! worker. Therefore it never runs again on the same process, under whichever id. The third death
//! of a worker within an hour quarantines a contract that was running at each of them. A worker
//! that comes back under its next id takes its death back.
//!
//! # What does not belong here
//!
//! What a job means, and what happens when one cannot be delivered.

pub mod allowances;
mod apis;
pub mod audit;
pub mod blobs;
pub mod clock;
mod config;
mod connected;
mod connection;
pub mod contracts;
mod counts;
pub mod dead_letters;
mod error;
mod executables;
pub mod failover;
pub mod farm;
pub mod holdings;
mod in_hand;
pub mod inbox;
pub mod key_store;
pub mod keys;
pub mod leases;
pub mod listing;
mod lock;
pub mod logs;
mod nodes;
mod offers;
mod outage;
pub mod ownership;
pub mod placement;
pub mod reaper;
mod redis_info;
pub mod references;
pub mod registry;
pub mod replies;
mod servers;
pub mod settlement;
mod stream;
mod surplus;
pub mod sweeper;
pub mod tenants;
pub mod timing;
pub mod usage;
mod worker_info;
mod worker_usage;

pub use config::{QUEUE_SETTINGS, ReaperConfig, RedisConfig};
pub use connected::WorkerPresence;
pub use connection::Queue;
pub use error::QueueError;
pub use in_hand::{CatchUpRequest, EntryRef};
pub use nodes::{Files as RedisFiles, Presence};
pub use redis_info::Memory;
pub use servers::{ServerName, ServerProbe};
