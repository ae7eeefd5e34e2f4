//! What a worker reports about itself with each heartbeat.

use serde::{Deserialize, Serialize};

use crate::protocol::job::{EffectiveLimits, EngineKind};

/// What a worker reports about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerInfo {
    /// The sandboxes it offers.
    pub engines: Vec<EngineKind>,
    /// How many contracts it may own.
    pub capacity: usize,
    /// How many it owns.
    pub used: usize,
    /// Whether it is draining.
    pub draining: bool,
    /// The version of its program.
    pub version: String,
    /// The highest limits that a contract can have there, for each engine. Older workers do not
    /// report them.
    #[serde(default)]
    pub highest_limits: Vec<(EngineKind, EffectiveLimits)>,
}

impl WorkerInfo {
    /// The highest limits that a contract of `engine` can have there, if it reports them.
    pub fn highest_limits(&self, engine: EngineKind) -> Option<&EffectiveLimits> {
        let of_engine = self.highest_limits.iter().find(|(kind, _)| *kind == engine);
        of_engine.map(|(_, limits)| limits)
    }

    /// How many more contracts of `engine` it would accept.
    pub fn free(&self, engine: EngineKind) -> usize {
        if self.draining || !self.engines.contains(&engine) {
            return 0;
        }
        self.capacity.saturating_sub(self.used)
    }
}
