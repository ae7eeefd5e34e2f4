//! How browsers are started, and the limits of the contracts in them.

use std::path::PathBuf;
use std::time::Duration;

use shared::protocol::job::{EffectiveLimits, Limits};

use super::isolation::layers::Layers;
use super::process::uids::Uids;
use crate::sandbox::CallLimits;

/// How browsers are started, and the limits of the contracts in them.
#[derive(Debug, Clone)]
pub struct ChromiumConfig {
    /// The browser's program (not a shell wrapper). None: the first known path that exists.
    pub executable: Option<PathBuf>,
    /// The user ids that browsers run as when the worker is root, one for each.
    pub uids: Uids,
    /// How many browser processes share the contracts; at least one.
    pub browsers: usize,
    /// How many pages are created ahead, so that a load does not wait for one.
    pub spare_pages: usize,
    /// The limits of calls. The original service's time limit is 2 seconds.
    pub calls: CallLimits,
    /// The time limit for creating a page, and again for evaluating an executable.
    pub load_limit: Duration,
    /// The heap of one contract's JavaScript, in MiB. A page that needs more crashes.
    pub heap_mb: u32,
    /// The limit for one contract's allocations outside that heap, in MiB.
    pub contract_mb: u32,
    /// The limit for the browser's own process, which holds some memory for its pages, in MiB.
    pub browser_mb: u32,
    /// The limit for a browser and all its pages together, in MiB, where the system allows the
    /// worker to create a cgroup. 0: no cgroup.
    pub cgroup_mb: u32,
    /// The processor time that an idle contract may use at once.
    pub idle_cpu: Duration,
    /// The protections that are on.
    pub layers: Layers,
    /// The program that calls [`super::run_if_asked`] first: this one, except in tests.
    pub guard: PathBuf,
}

/// With a lower limit for its memory, in MiB, a page cannot even start.
const MEMORY_MINIMUM: u32 = 16;

impl ChromiumConfig {
    /// The limits that a contract runs with which asks for `limits`. It can only lower those of the
    /// worker.
    pub(super) fn limits(&self, limits: &Limits) -> EffectiveLimits {
        let highest = self.contract_mb.max(MEMORY_MINIMUM);
        let memory = limits.memory_mb.unwrap_or(highest);
        EffectiveLimits {
            memory_mb: Some(memory.clamp(MEMORY_MINIMUM, highest)),
            ..self.calls.lowered_by(limits)
        }
    }
}

impl Default for ChromiumConfig {
    fn default() -> Self {
        Self {
            executable: None,
            uids: Uids::default(),
            browsers: 1,
            spare_pages: 0,
            calls: CallLimits {
                time: Duration::from_secs(2),
                result: 1 << 20,
            },
            load_limit: Duration::from_secs(5),
            heap_mb: 128,
            contract_mb: 512,
            browser_mb: 1024,
            cgroup_mb: 0,
            idle_cpu: Duration::from_millis(500),
            layers: Layers::default(),
            guard: "/proc/self/exe".into(),
        }
    }
}
