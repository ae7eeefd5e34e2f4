//! The Redis keys. No other file spells one.
//!
//! In the key names `W` is a worker and `A` an api. Keys that a script or a `MULTI` uses together
//! have the same hash tag (`{..}`), so that they are on one node of a Redis Cluster.

use crate::protocol::id::{ApiId, ContractAddress, JobId, WorkerId};
use crate::protocol::job::EngineKind;
use crate::protocol::tenant::Tenant;

/// Builds keys under one prefix.
#[derive(Debug, Clone)]
pub struct Keys {
    prefix: std::sync::Arc<str>,
}

impl Keys {
    /// Keys that begin with `prefix`.
    pub fn new(prefix: &str) -> Self {
        Self {
            prefix: prefix.into(),
        }
    }

    /// `{w:W}:lease`: string, 5 s. The worker is alive.
    pub fn lease(&self, worker: WorkerId) -> String {
        format!("{}{{w:{worker}}}:lease", self.prefix)
    }

    /// `{w:W}:in`: stream with the group `g`, 600 s. The worker's inbox; field `b` is a frame. It
    /// is created once for each worker id. While it exists, nobody may take the worker's contracts.
    pub fn inbox(&self, worker: WorkerId) -> String {
        format!("{}{{w:{worker}}}:in", self.prefix)
    }

    /// `{w:W}:dead`: the renamed inbox of a dead worker, the recovery record of its clean-up.
    /// Pending entries may have been started, later ones were not.
    pub fn dead_inbox(&self, worker: WorkerId) -> String {
        format!("{}{{w:{worker}}}:dead", self.prefix)
    }

    /// `{w:W}:reap`: string, 10 s. A random value of the process that cleans up after a dead
    /// worker. It only saves others the work: nothing depends on it.
    pub fn reap_lock(&self, worker: WorkerId) -> String {
        format!("{}{{w:{worker}}}:reap", self.prefix)
    }

    /// `{w:W}:alive`: a channel without messages. The worker subscribes to it. The subscription
    /// ends with the worker's connection, so others notice its death long before its lease lapses.
    pub fn alive_channel(&self, worker: WorkerId) -> String {
        format!("{}{{w:{worker}}}:alive", self.prefix)
    }

    /// `{w:W}:info`: string, 600 s. A `WorkerInfo` as JSON.
    pub fn info(&self, worker: WorkerId) -> String {
        format!("{}{{w:{worker}}}:info", self.prefix)
    }

    /// `{w:W}:own`: set, until it is empty. The contracts that the worker owns. It does not expire:
    /// however late a reaper cleans up after the worker, it must find them. Otherwise no worker
    /// would ever own them again.
    pub fn own(&self, worker: WorkerId) -> String {
        format!("{}{{w:{worker}}}:own", self.prefix)
    }

    /// `{a:A}:re`: stream, 60 s. Replies to one api; field `b` is a frame.
    pub fn replies(&self, api: ApiId) -> String {
        format!("{}{{a:{api}}}:re", self.prefix)
    }

    /// `{a:A}:b:ID`: string, the job's deadline + 30 s. An argument too large for a frame.
    pub fn body(&self, api: ApiId, job: JobId) -> String {
        format!("{}{{a:{api}}}:b:{}", self.prefix, job.0)
    }

    /// `{c:ADDRESS}`: hash, while the contract is loaded. The contract record: what the contract is
    /// and who owns it.
    pub fn contract(&self, address: &ContractAddress) -> String {
        format!("{}{{c:{address}}}", self.prefix)
    }

    /// `{c:ADDRESS}:past`: string, 2 h. The generation in which the contract was unloaded. A load
    /// that was asked for before is refused by it.
    pub fn past(&self, address: &ContractAddress) -> String {
        format!("{}{{c:{address}}}:past", self.prefix)
    }

    /// `{c:ADDRESS}:logs`, `{c:ADDRESS}:logs:bytes`: stream, number, 60 s or 7 days after the last
    /// line. What the contract writes to its console while somebody follows it, or if it was loaded
    /// so that it is kept: at most 1,000 entries, with the fields `r` (request), `m` (method), `t`
    /// (text); how many bytes they have.
    pub fn logs(&self, address: &ContractAddress) -> [String; 2] {
        ["logs", "logs:bytes"].map(|part| format!("{}{{c:{address}}}:{part}", self.prefix))
    }

    /// `kept-logs`: sorted set, contract by its last line (ms, Redis' clock). The contracts whose
    /// lines are kept without a follower.
    pub fn kept_logs(&self) -> String {
        format!("{}kept-logs", self.prefix)
    }

    /// A glob pattern that matches every contract's key.
    pub fn contract_pattern(&self) -> String {
        format!("{}{{c:*}}", self.prefix)
    }

    /// The contract whose key this is.
    pub fn contract_of(&self, key: &str) -> Option<ContractAddress> {
        let address = key
            .strip_prefix(&*self.prefix)?
            .strip_prefix("{c:")?
            .strip_suffix('}')?;
        address.to_owned().try_into().ok()
    }

    /// `audit`: stream, about 10,000 entries. Who changed what.
    pub fn audit(&self) -> String {
        format!("{}audit", self.prefix)
    }

    /// `{keys}:all`, `:changed`, `:revoked`, `:used`: hash, sorted set, hash, hash, for ever. The
    /// keys of callers: records, the version in which each changed, revocations, last uses.
    pub fn caller_keys(&self) -> [String; 4] {
        ["all", "changed", "revoked", "used"].map(|part| format!("{}{{keys}}:{part}", self.prefix))
    }

    /// `{q:SUBJECT}:calls`, `:cpu`: string, one minute at most after it was used. How far the quota
    /// of a key (`k:ID`), tenant (`t:TENANT`) or contract (`c:ADDRESS`) is used up.
    pub fn allowance(&self, subject: &str, resource: &str) -> String {
        format!("{}{{q:{subject}}}:{resource}", self.prefix)
    }

    /// `{tenants}:limits`, `:version`: hash, number, for ever. What tenants may use, and how often
    /// that was changed.
    pub fn tenants(&self) -> [String; 2] {
        ["limits", "version"].map(|part| format!("{}{{tenants}}:{part}", self.prefix))
    }

    /// `{u:TENANT}:DAY`: hash, 35 days after its last change. What a tenant used on a day, which is
    /// counted from the epoch.
    pub fn usage(&self, tenant: &Tenant, day: u64) -> String {
        format!("{}{{u:{tenant}}}:{day}", self.prefix)
    }

    /// `{blob:SHA256}`: list, while a load refers to it and 600 s longer. The pieces of an
    /// executable, stored once per content.
    pub fn blob(&self, digest: &str) -> String {
        format!("{}{{blob:{digest}}}", self.prefix)
    }

    /// `{blob:SHA256}:new:N`: list, for as long as its load may take. An executable during its
    /// upload. N is random.
    pub fn incoming_blob(&self, digest: &str) -> String {
        let sender = uuid::Uuid::new_v4().simple();
        format!("{}{{blob:{digest}}}:new:{sender}", self.prefix)
    }

    /// `{blob:SHA256}:refs`: set of `ADDRESS@LOAD`. The loads that refer to the executable.
    pub fn blob_refs(&self, digest: &str) -> String {
        format!("{}{{blob:{digest}}}:refs", self.prefix)
    }

    /// A glob pattern that matches the references to every executable.
    pub fn blob_refs_pattern(&self) -> String {
        format!("{}{{blob:*}}:refs", self.prefix)
    }

    /// The digest of the executable whose references have this key.
    pub fn referred_blob<'a>(&self, key: &'a str) -> Option<&'a str> {
        key.strip_prefix(&*self.prefix)?
            .strip_prefix("{blob:")?
            .strip_suffix("}:refs")
    }

    /// `place:ENGINE`: stream with the group `workers`. Loads that wait for a worker with room.
    pub fn placement(&self, engine: EngineKind) -> String {
        format!("{}place:{engine}", self.prefix)
    }

    /// `used:ENGINE`: sorted set, worker by how used it is. Those that have room for loads.
    pub fn worker_usage(&self, engine: EngineKind) -> String {
        format!("{}used:{engine}", self.prefix)
    }

    /// `contracts`: sorted set, contract by its last load (ms, Redis' clock). What is loaded: every
    /// contract record has an entry. An entry without a record is removed by the sweep.
    pub fn contracts(&self) -> String {
        format!("{}contracts", self.prefix)
    }

    /// `blobs`: sorted set, digest of an executable by its last load (ms, Redis' clock).
    pub fn blobs(&self) -> String {
        format!("{}blobs", self.prefix)
    }

    /// `executables`: hash, digest of an executable to its size in bytes; `sum` is the sum of all.
    /// It bounds what executables may occupy.
    pub fn executables(&self) -> String {
        format!("{}executables", self.prefix)
    }

    /// `lock:reclaim`: string, 5 s. A process removes unused executables, or has just done so.
    pub fn reclaim_lock(&self) -> String {
        format!("{}lock:reclaim", self.prefix)
    }

    /// `registry`: string, without expiry. `contracts` and `blobs` are complete.
    pub fn registry(&self) -> String {
        format!("{}registry", self.prefix)
    }

    /// `lock:fill`: string, 30 s. A process fills `contracts` and `blobs`.
    pub fn fill_lock(&self) -> String {
        format!("{}lock:fill", self.prefix)
    }

    /// `lock:sweep`: string, 45 s. A process walks `contracts` and `blobs`, or has just done so.
    pub fn sweep_lock(&self) -> String {
        format!("{}lock:sweep", self.prefix)
    }

    /// `workers`: sorted set, worker by its last heartbeat (ms, Redis' clock).
    pub fn workers(&self) -> String {
        format!("{}workers", self.prefix)
    }

    /// `apis`: sorted set, api by its last heartbeat (ms, Redis' clock).
    pub fn apis(&self) -> String {
        format!("{}apis", self.prefix)
    }

    /// `farm`: string `NAME/DATA`, without expiry; both are random. What the farm owns outside
    /// Redis carries its name. A different `DATA` than before means that Redis has lost its data.
    pub fn farm(&self) -> String {
        format!("{}farm", self.prefix)
    }

    /// `dead-letters`: stream, about 10,000 entries. Records for an operator to check.
    pub fn dead_letters(&self) -> String {
        format!("{}dead-letters", self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The part of a key that Redis Cluster hashes.
    fn slot_tag(key: &str) -> Option<&str> {
        let (_, rest) = key.split_once('{')?;
        Some(rest.split_once('}')?.0)
    }

    #[test]
    fn keys_used_together_are_in_one_slot() {
        let keys = Keys::new("exec:");
        let (worker, api) = (WorkerId::random(), ApiId::random());
        let tag = format!("w:{worker}");
        for key in [
            keys.lease(worker),
            keys.inbox(worker),
            keys.info(worker),
            keys.own(worker),
            keys.dead_inbox(worker),
            keys.reap_lock(worker),
        ] {
            assert_eq!(slot_tag(&key), Some(tag.as_str()));
        }
        assert_eq!(
            slot_tag(&keys.replies(api)),
            slot_tag(&keys.body(api, JobId(7)))
        );
        for key in [
            keys.blob("ab"),
            keys.incoming_blob("ab"),
            keys.blob_refs("ab"),
        ] {
            assert_eq!(slot_tag(&key), Some("blob:ab"));
        }
        let address = "abc".parse().unwrap();
        for key in keys.logs(&address) {
            assert_eq!(slot_tag(&key), slot_tag(&keys.contract(&address)));
        }
        for key in keys.caller_keys() {
            assert_eq!(slot_tag(&key), Some("keys"));
        }
    }

    #[test]
    fn keys_are_as_documented() {
        let keys = Keys::new("exec:");
        assert_eq!(keys.contract(&"AbC".parse().unwrap()), "exec:{c:abc}");
        assert_eq!(keys.contract_of("exec:{c:abc}"), "abc".parse().ok());
        assert_eq!(
            keys.placement(EngineKind::Javascript),
            "exec:place:javascript"
        );
    }
}
