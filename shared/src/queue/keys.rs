//! The only place that spells a Redis key.
//!
//! `W` is a worker, `A` an api. One hash tag (`{..}`) per slot, so that everything a script or a
//! `MULTI` touches lies on one node of a Redis Cluster.

use crate::protocol::id::{ApiId, ContractAddress, JobId, WorkerId};
use crate::protocol::job::EngineKind;

/// Spells keys under one prefix.
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

    /// `{w:W}:lease`: string, 5 s. The worker lives.
    pub fn lease(&self, worker: WorkerId) -> String {
        format!("{}{{w:{worker}}}:lease", self.prefix)
    }

    /// `{w:W}:in`: stream with the group `g`, 600 s. The worker's inbox; field `b` is a frame.
    pub fn inbox(&self, worker: WorkerId) -> String {
        format!("{}{{w:{worker}}}:in", self.prefix)
    }

    /// `{w:W}:dead`: a dead worker's inbox, renamed. Evidence until it is cleared up: pending
    /// entries may have been started, later ones were not.
    pub fn dead_inbox(&self, worker: WorkerId) -> String {
        format!("{}{{w:{worker}}}:dead", self.prefix)
    }

    /// `{w:W}:reap`: string, 10 s. Somebody clears up after a dead worker.
    pub fn reap_lock(&self, worker: WorkerId) -> String {
        format!("{}{{w:{worker}}}:reap", self.prefix)
    }

    /// `{w:W}:alive`: a channel without messages. The worker subscribes to it, and the subscription
    /// ends with the worker's connection, so others notice its death long before its lease ends.
    pub fn alive_channel(&self, worker: WorkerId) -> String {
        format!("{}{{w:{worker}}}:alive", self.prefix)
    }

    /// `{w:W}:info`: string, 600 s. A `WorkerInfo` as JSON.
    pub fn info(&self, worker: WorkerId) -> String {
        format!("{}{{w:{worker}}}:info", self.prefix)
    }

    /// `{w:W}:own`: set, until it is empty. The contracts that the worker hosts. It does not expire:
    /// however late somebody clears up after the worker, they must be found, or nobody ever hosts
    /// them again.
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

    /// `{c:ADDRESS}`: hash, while the contract is loaded. What it is and who hosts it.
    pub fn contract(&self, address: &ContractAddress) -> String {
        format!("{}{{c:{address}}}", self.prefix)
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

    /// `{blob:SHA256}`: list, while a contract refers to it. The pieces of an executable, once per
    /// content.
    pub fn blob(&self, digest: &str) -> String {
        format!("{}{{blob:{digest}}}", self.prefix)
    }

    /// `{blob:SHA256}:new:N`: list, for as long as its load may take. An executable on its way in;
    /// N is random.
    pub fn incoming_blob(&self, digest: &str) -> String {
        let sender = uuid::Uuid::new_v4().simple();
        format!("{}{{blob:{digest}}}:new:{sender}", self.prefix)
    }

    /// `{blob:SHA256}:refs`: set. The contracts that refer to the executable.
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

    /// `workers`: sorted set, worker by its last heartbeat (ms, Redis' clock).
    pub fn workers(&self) -> String {
        format!("{}workers", self.prefix)
    }

    /// `apis`: sorted set, api by its last heartbeat (ms, Redis' clock).
    pub fn apis(&self) -> String {
        format!("{}apis", self.prefix)
    }

    /// `farm`: string `NAME/DATA`, for ever; both are random. What the farm owns elsewhere carries its
    /// name; when the rest is another one, Redis has lost its data.
    pub fn farm(&self) -> String {
        format!("{}farm", self.prefix)
    }

    /// `dead-letters`: stream, about 10,000 entries. What needs a person to look at it.
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
    fn what_is_used_together_lies_in_one_slot() {
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
