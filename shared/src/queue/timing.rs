//! Every time constant that two parts of the system must agree on, with the relations between them.
//!
//! Each constant states its reason and who relies on it. The assertions at the end tie the
//! constants together, so that a change that breaks a relation does not compile. A time that
//! matters to one module only stays in that module.
//!
//! "Reaper" means the task of every process that cleans up after dead workers.

use std::time::Duration;

// ---------------------------------------------------------------------------------------------
// Heartbeats, leases and the fence
// ---------------------------------------------------------------------------------------------

/// How often a process sends its heartbeat: 1 s.
///
/// A worker renews its lease with it, an api the life of its reply stream.
pub const HEARTBEAT: Duration = Duration::from_secs(1);

/// How soon a failed heartbeat is sent again: 150 ms.
///
/// Without it, a connection that breaks in the rhythm of the heartbeats would cost the lease.
pub const HEARTBEAT_RETRY: Duration = Duration::from_millis(150);

/// How long the renewal of a lease may take before it is sent again: 500 ms.
pub const RENEW_WITHIN: Duration = Duration::from_millis(500);

/// How long a worker trusts its lease: 3 s, counted from sending the last renewal that succeeded.
///
/// Afterwards the worker fences itself: it starts no call and sends no reply until it has renewed
/// the lease. It relies on this being shorter than [`LEASE`], so that it has stopped before a
/// reaper gives its contracts to another worker.
pub const FENCE_AFTER: Duration = Duration::from_secs(3);

/// How long a worker counts as alive after its last renewal: 5 s.
///
/// Reapers, route look-ups and listings of workers rely on it. A worker that looks for leftover
/// containers waits as long before it believes that their owner is dead.
pub const LEASE: Duration = Duration::from_secs(5);

/// How much of its last writes a failover of Redis may lose: 1 s.
///
/// It bounds what `appendfsync everysec` and the delay of a replica can lose. A worker id is used
/// in contract records only when its registration is older than this.
pub const LOSS: Duration = Duration::from_secs(1);

/// How often a worker compares its contracts with their records: 30 s.
///
/// It also does so after it could not reach Redis, and after it had to take a new id.
pub const COMPARE: Duration = Duration::from_secs(30);

/// How long Redis remembers the generation in which a contract was unloaded: 2 h.
///
/// It is longer than any load can wait, so a load that was asked for before the unload finds it.
pub const PAST: Duration = Duration::from_hours(2);

/// The longest deadline of a load: 1 h, the largest value of `LOAD_DEADLINE_MS`.
pub const LONGEST_LOAD_DEADLINE: Duration = Duration::from_hours(1);

/// How long the inbox and the description of a worker outlive its last renewal: 10 min.
///
/// They are the recovery record: a reaper reads in the inbox which jobs may have been started.
pub const WORKER_KEYS: Duration = Duration::from_mins(10);

/// How long the reply stream of an api outlives its last heartbeat: 1 min.
///
/// A shorter outage of Redis or of the api loses no replies. Reapers take an api off the list of
/// apis after the same time.
pub const API_KEYS: Duration = Duration::from_mins(1);

/// How long a worker waits for the server of a cluster that has its lease before it takes an id on
/// another server: 10 s, two leases.
///
/// Usually a replica takes the place of the server sooner, and the worker keeps its id.
pub const RELOCATE_AFTER: Duration = Duration::from_secs(10);

// ---------------------------------------------------------------------------------------------
// Cleaning up after dead workers
// ---------------------------------------------------------------------------------------------

/// How often a reaper looks for dead workers: 500 ms, with up to 20 % of jitter.
pub const REAP_INTERVAL: Duration = Duration::from_millis(500);

/// How long the clean-up of one worker may take before another reaper tries: 10 s.
///
/// A reaper whose clean-up fails removes the lock, so the next attempt need not wait for it.
pub const REAP_LOCK: Duration = Duration::from_secs(10);

/// How long Redis must have been running before a reaper acts: 10 s, two leases.
///
/// After a restart of Redis every lease has lapsed, although the workers live. After a restart of
/// the whole machine they are dead, and calls wait for this time: it is no longer than the default
/// of `EXECUTE_DEADLINE_MS`. This is the default of `REAP_GRACE_MS`.
pub const REAP_GRACE: Duration = Duration::from_secs(10);

/// How long Redis may leave a process without an answer before that counts as an outage: 2 s.
///
/// After an outage a reaper waits for [`LEASE`] before it acts, because nobody could renew a lease.
pub const OUTAGE_AFTER: Duration = Duration::from_secs(2);

/// How soon a server of Redis must answer a reaper: 500 ms.
///
/// While one server of a cluster does not answer, the others must not seem to pause.
pub const ANSWERS_WITHIN: Duration = Duration::from_millis(500);

/// How often a process tries to sweep the registry: 1 min.
///
/// The sweep removes what dead processes left behind: entries without a contract, references to
/// executables, contracts that nobody has offered.
pub const SWEEP_INTERVAL: Duration = Duration::from_mins(1);

/// How long the lock of the sweep outlives its last page: 45 s.
///
/// The process that sweeps keeps it, so that there is one sweep per [`SWEEP_INTERVAL`] in the farm
/// and not one per process.
pub const SWEEP_LOCK: Duration = Duration::from_secs(45);

/// How old an entry of the registry is when the sweep removes it, if nothing is loaded: 10 min.
///
/// An entry is made before its contract record. A load that is slower is registered again when a
/// worker claims the contract.
pub const UNUSED_ENTRY: Duration = Duration::from_mins(10);

/// How long a process may take to fill the registry before another one tries: 30 s.
pub const FILL_LOCK: Duration = Duration::from_secs(30);

/// How long an executable is kept after its last reference was removed: 10 min.
///
/// A load that is under way may count on it. So may a worker whose load Redis has lost: it adds the
/// reference again at its next comparison.
pub const UNREFERENCED_BLOB: Duration = Duration::from_mins(10);

/// How long after its last load an executable without references stays even if room is needed:
/// 60 s, twice the default of `LOAD_DEADLINE_MS`.
pub const RECLAIM_AFTER: Duration = Duration::from_mins(1);

/// How often room is made for executables at most: every 5 s.
pub const RECLAIM_LOCK: Duration = Duration::from_secs(5);

/// How long an executable that a worker stores may wait for its reference: 1 min.
pub const STAGED_BLOB: Duration = Duration::from_mins(1);

/// How long the death of a worker counts against the contracts that it was running: 1 h.
///
/// The third death within this time quarantines the contract. A worker that was only slow takes its
/// death back when it resumes its contracts.
pub const DEATHS_COUNT_FOR: Duration = Duration::from_hours(1);

// ---------------------------------------------------------------------------------------------
// Sending jobs
// ---------------------------------------------------------------------------------------------

/// How long an api sends a frame again while Redis does not answer: 10 s.
///
/// Callers who wait that long do not notice a shorter outage.
pub const RESEND_FOR: Duration = Duration::from_secs(10);

/// How long a worker remembers the jobs of an api after the last one: 15 s.
///
/// A frame that is sent again may already have arrived. The worker recognises its jobs and drops
/// them. The last attempt starts up to [`RESEND_FOR`] after the first one and may take some
/// seconds.
pub const REMEMBERED_FOR: Duration = RESEND_FOR.saturating_add(Duration::from_secs(5));

/// How long a worker may leave an entry of its inbox unacknowledged whose replies are stored: 20
/// ms.
///
/// Applies to a cluster, where both cannot be one transaction. It usually comes with the next
/// batch.
pub const ACKNOWLEDGE_AFTER: Duration = Duration::from_millis(20);

/// How long an api waits for the reaper to report on jobs whose inbox is gone: 5 s.
///
/// Applies to jobs that may have been in the inbox. Without a report their outcome is unknown.
pub const VERDICT_WAIT: Duration = Duration::from_secs(5);

/// How far the clocks of two processes may differ, although both follow the clock of Redis: 1 s.
///
/// A worker adds it when it decides whether a frame was first sent before it lost its lease.
pub const CLOCK_TOLERANCE: Duration = Duration::from_secs(1);

/// How much longer than a job's deadline an api waits for the reply: 500 ms.
///
/// The worker also replies to a job that has expired.
pub const REPLY_SLACK: Duration = Duration::from_millis(500);

/// How much longer than a job's deadline an api lets the request take, whatever Redis does: 750 ms.
///
/// Together with the removal of a stored argument, every request ends within 1 s of its deadline.
pub const REQUEST_OVERTIME: Duration = Duration::from_millis(750);

/// How long an api may take to remove the stored argument of a job before it answers: 100 ms.
pub const TIDY_WITHIN: Duration = Duration::from_millis(100);

/// How long a stored argument outlives its job's deadline: 30 s.
pub const BODY_SLACK: Duration = Duration::from_secs(30);

// ---------------------------------------------------------------------------------------------
// Placing contracts
// ---------------------------------------------------------------------------------------------

/// How long a read of a placement stream waits in Redis: 500 ms.
///
/// It is short because a draining worker waits for the read to end.
pub const PLACEMENT_BLOCK: Duration = Duration::from_millis(500);

/// After how long a contract without an owner may be offered again: 3 s.
///
/// A worker with room takes an offer sooner.
pub const OFFER_AGAIN: Duration = Duration::from_secs(3);

/// After how long a contract whose image its worker could not get may be offered again: 10 s.
///
/// Each attempt may ask a registry, so they are fewer than those of other contracts.
pub const RETRY_IMAGE: Duration = Duration::from_secs(10);

/// After how long a load that a worker received and did not settle goes to another worker: 1 min.
///
/// It is longer than a load takes. A load that runs twice finds the contract claimed. The loads of
/// a dead worker are offered again as soon as a reaper has found it.
pub const ABANDONED_LOAD: Duration = Duration::from_mins(1);

/// How long the workers take at most to write back what Redis has lost: 5 s.
///
/// They notice the loss at their next heartbeat. Until then an api reports a contract that Redis
/// does not know as temporarily unavailable, not as missing.
pub const RESTORED_WITHIN: Duration = Duration::from_secs(5);

// ---------------------------------------------------------------------------------------------
// Connections to Redis
// ---------------------------------------------------------------------------------------------

/// How long a connection attempt may take: 1 s.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a command may take before it counts as failed: 2 s.
///
/// Redis answers in well under a millisecond. This limit is for an overloaded machine.
pub const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a patient command may take before it counts as failed: 3 s.
///
/// Applies to the pool: commands that are not part of every call, such as storing an executable of
/// 50 MB or walking the key space. It is longer than [`RESPONSE_TIMEOUT`], because no call waits.
pub const PATIENT_RESPONSE_TIMEOUT: Duration = Duration::from_secs(3);

/// How long a blocking read waits in Redis: 2 s.
///
/// It is short, so that the read ends by itself when the process drains. (Dropping the future would
/// not cancel the read in Redis.)
pub const BLOCK: Duration = Duration::from_secs(2);

/// How long the answer to a blocking read may take: [`BLOCK`] and 1 s.
pub const BLOCKING_RESPONSE_TIMEOUT: Duration = BLOCK.saturating_add(Duration::from_secs(1));

/// The first pause before a process tries Redis again: 50 ms. Pauses double.
pub const RECONNECT_FIRST: Duration = Duration::from_millis(50);

/// The longest pause before a process tries Redis again: 2 s.
pub const RECONNECT_LONGEST: Duration = Duration::from_secs(2);

/// The shortest time between two looks at which node of a cluster serves which slot: 100 ms.
pub const REFRESH_PAUSE: Duration = Duration::from_millis(100);

/// How long after the first node of a cluster the others may take to say what they know: 50 ms.
///
/// The first one may have been cut off from the others, or just started.
pub const OTHER_VIEWS_WITHIN: Duration = Duration::from_millis(50);

/// The pause before a command is sent again whose keys are moving between two nodes: 20 ms.
pub const TRY_AGAIN_AFTER: Duration = Duration::from_millis(20);

/// How long sent bytes may stay unacknowledged before the connection counts as broken: 5 s.
///
/// Keepalive covers idle connections only, and by default the kernel retries for a quarter of an
/// hour.
pub const UNACKNOWLEDGED: Duration = Duration::from_secs(5);

/// How long a connection may be idle before TCP keepalive probes it: 5 s.
pub const KEEPALIVE_IDLE: Duration = Duration::from_secs(5);

/// The pause between two keepalive probes: 2 s. Three unanswered probes end the connection.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);

/// How old the last successful read of an api's replies may be while the api counts as ready: 10 s.
pub const REPLIES_STALE_AFTER: Duration = Duration::from_secs(10);

// ---------------------------------------------------------------------------------------------
// What must agree
// ---------------------------------------------------------------------------------------------

const fn ms(span: Duration) -> u128 {
    span.as_millis()
}

/// A span in milliseconds, as Redis takes it.
pub fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

// A fenced worker has stopped before a reaper can give its contracts away.
// That holds even if Redis loses the last renewal of the lease in a failover.
const _: () = assert!(ms(FENCE_AFTER) + ms(LOSS) < ms(LEASE));

// One renewal that gets no answer is repeated before the worker fences itself.
const _: () = assert!(ms(HEARTBEAT) + ms(HEARTBEAT_RETRY) + 2 * ms(RENEW_WITHIN) < ms(FENCE_AFTER));

// A worker acts under one id at a time: it has fenced itself before it takes another one.
const _: () = assert!(ms(FENCE_AFTER) + ms(LOSS) < ms(RELOCATE_AFTER));

// What a comparison repairs is repaired before an unused executable expires.
const _: () = assert!(2 * ms(COMPARE) < ms(UNREFERENCED_BLOB));

// So is what a sweep repairs.
const _: () = assert!(2 * ms(SWEEP_INTERVAL) < ms(UNREFERENCED_BLOB));

// A load that waited in the inbox of a dead worker still finds the generation of an unload.
const _: () = assert!(ms(LONGEST_LOAD_DEADLINE) + ms(WORKER_KEYS) < ms(PAST));

// A retry that was slower than the heartbeat would delay the next renewal.
const _: () = assert!(ms(HEARTBEAT_RETRY) < ms(HEARTBEAT));

// A reaper that saw no outage knows that the workers could renew their leases.
const _: () = assert!(ms(OUTAGE_AFTER) + ms(HEARTBEAT) < ms(LEASE));

// The pause between two looks, with 20 % of jitter, does not itself count as an outage: not even if
// one server of a cluster does not answer, and its successor is looked for.
const _: () = assert!(ms(REAP_INTERVAL) * 12 / 10 + 2 * ms(ANSWERS_WITHIN) < ms(OUTAGE_AFTER));

// After a restart of Redis the slowest worker has reconnected and renewed its lease in time.
const _: () = assert!(
    ms(LEASE) + ms(RECONNECT_LONGEST) + ms(CONNECT_TIMEOUT) + ms(HEARTBEAT) < ms(REAP_GRACE)
);
const _: () = assert!(ms(REAP_GRACE) == 2 * ms(LEASE));

// The inbox still exists when a reaper may act, and the clean-up has time to read it.
const _: () = assert!(ms(LEASE) + ms(REAP_GRACE) + ms(REAP_LOCK) < ms(WORKER_KEYS));

// The inbox of a dead worker also outlives every attempt of an api to send to it.
const _: () = assert!(ms(RESEND_FOR) + ms(VERDICT_WAIT) < ms(WORKER_KEYS));

// A reaper's report still finds the reply stream of an api that missed heartbeats.
const _: () = assert!(ms(LEASE) + ms(REAP_INTERVAL) + ms(REAP_LOCK) < ms(API_KEYS));
const _: () = assert!(ms(RESEND_FOR) + ms(VERDICT_WAIT) < ms(API_KEYS));

// A clean-up that failed is tried again, and can report, before the api stops waiting for it.
const _: () =
    assert!(ms(REAP_INTERVAL) * 12 / 10 + ms(PATIENT_RESPONSE_TIMEOUT) < ms(VERDICT_WAIT));

// A worker still knows a job when the last attempt to send it arrives.
const _: () =
    assert!(ms(RESEND_FOR) + ms(RECONNECT_LONGEST) + ms(RESPONSE_TIMEOUT) < ms(REMEMBERED_FOR));

// Expired jobs are answered by the worker, not by the end of the request.
const _: () = assert!(ms(REPLY_SLACK) < ms(REQUEST_OVERTIME));

// Every request ends within a second of its deadline.
const _: () = assert!(ms(REQUEST_OVERTIME) + ms(TIDY_WITHIN) < 1000);

// A stored argument outlives every wait for its job, even between clocks that differ.
const _: () = assert!(ms(REQUEST_OVERTIME) + ms(CLOCK_TOLERANCE) < ms(BODY_SLACK));

// A patient command may take longer than one on the way of a call.
const _: () = assert!(ms(RESPONSE_TIMEOUT) < ms(PATIENT_RESPONSE_TIMEOUT));

// The answer to a blocking read is awaited longer than the read may block.
const _: () = assert!(ms(BLOCK) < ms(BLOCKING_RESPONSE_TIMEOUT));
const _: () = assert!(ms(PLACEMENT_BLOCK) < ms(BLOCKING_RESPONSE_TIMEOUT));

// A reader of replies that lost one connection is back before the api counts as not ready.
const _: () = assert!(
    ms(BLOCKING_RESPONSE_TIMEOUT) + ms(RECONNECT_LONGEST) + ms(CONNECT_TIMEOUT)
        < ms(REPLIES_STALE_AFTER)
);

// The next sweep finds the lock free. A page, even one that Redis is slow to serve, keeps it.
const _: () = assert!(ms(SWEEP_LOCK) < ms(SWEEP_INTERVAL));
const _: () = assert!(10 * ms(RESPONSE_TIMEOUT) < ms(SWEEP_LOCK));

// What a sweep finds unused was already there at several sweeps before.
const _: () = assert!(2 * ms(SWEEP_INTERVAL) < ms(UNUSED_ENTRY));

// An offer is repeated only after every waiting worker has read the stream at least once.
const _: () = assert!(ms(PLACEMENT_BLOCK) < ms(OFFER_AGAIN));

// The loads of a dead worker are offered again by its reaper, not because they are old.
const _: () = assert!(ms(LEASE) + ms(REAP_INTERVAL) + ms(REAP_LOCK) < ms(ABANDONED_LOAD));

// The heartbeat that notices lost data, and one repetition of it, come before apis give up on it.
const _: () =
    assert!(ms(HEARTBEAT) + ms(RESPONSE_TIMEOUT) + ms(HEARTBEAT_RETRY) < ms(RESTORED_WITHIN));
