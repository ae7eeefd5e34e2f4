//! The settings of the JavaScript engine.

use std::path::PathBuf;

use shared::service::config::{Group, Reader, Setting};

use crate::chromium::{self, ChromiumConfig, Layers, Uids};
use crate::sandbox::CallLimits;

const CHROMIUM_PATH: Setting = Setting::optional(
    "CHROMIUM_PATH",
    "searched for in the usual places",
    "Chromium's executable itself, not a shell wrapper around it.",
);
const CHROMIUM_UIDS: Setting = Setting::new(
    "CHROMIUM_UIDS",
    "60800-61055",
    "The user ids that browsers run as when the worker is root, one for each browser of the host. \
     No account should have them.",
);
const CHROMIUM_PROCESSES: Setting = Setting::optional(
    "CHROMIUM_PROCESSES",
    "one for every 4 cores, at most 4",
    "Browsers that share the contracts.",
);
const CHROMIUM_SPARE_PAGES: Setting = Setting::new(
    "CHROMIUM_SPARE_PAGES",
    "1",
    "Pages that are created before a contract needs them. Each takes 13.5 MB; a load that finds \
     one takes 23 ms instead of 58.",
);
const LOAD_TIMEOUT_MS: Setting = Setting::new(
    "LOAD_TIMEOUT_MS",
    "5000",
    "How long the evaluation of an executable may take.",
);
const CHROMIUM_HEAP_MB: Setting = Setting::new(
    "CHROMIUM_HEAP_MB",
    "128",
    "The JavaScript heap of one contract.",
);
const CHROMIUM_CONTRACT_MB: Setting = Setting::new(
    "CHROMIUM_CONTRACT_MB",
    "512",
    "What one contract may allocate outside that heap.",
);
const CHROMIUM_BROWSER_MB: Setting = Setting::new(
    "CHROMIUM_BROWSER_MB",
    "1024",
    "What a browser's own process may hold for its contracts; beyond that, the busiest of them is \
     recreated.",
);
const CHROMIUM_CGROUP_MB: Setting = Setting::new(
    "CHROMIUM_CGROUP_MB",
    "4096",
    "The memory of a browser with all its contracts, where the system lets the worker create \
     memory cgroups. 0 creates none.",
);
const IDLE_CPU_MS: Setting = Setting::new(
    "IDLE_CPU_MS",
    "500",
    "Processor time that a contract may use while no call runs, beyond 5 % of a core. A contract \
     that uses more is recreated.",
);

/// The settings of the JavaScript engine.
pub(super) const SETTINGS: Group = Group {
    title: "JavaScript contracts (Chromium)",
    settings: &[
        CHROMIUM_PATH,
        CHROMIUM_UIDS,
        CHROMIUM_PROCESSES,
        CHROMIUM_SPARE_PAGES,
        LOAD_TIMEOUT_MS,
        CHROMIUM_HEAP_MB,
        CHROMIUM_CONTRACT_MB,
        CHROMIUM_BROWSER_MB,
        CHROMIUM_CGROUP_MB,
        IDLE_CPU_MS,
    ],
};

pub(super) fn read(reader: &mut Reader, calls: CallLimits) -> ChromiumConfig {
    let path = reader.text(&CHROMIUM_PATH);
    let executable = path.as_ref().map(PathBuf::from);
    if let Err(error) = chromium::find(executable.as_deref()) {
        reader.refuse(&CHROMIUM_PATH, &path.unwrap_or_default(), error);
    }
    let uids: Uids = reader.parse(&CHROMIUM_UIDS);
    let browsers = reader.number_or(&CHROMIUM_PROCESSES, browsers(), 1..=64);
    if let Err(error) = chromium::check_uids(uids, browsers) {
        reader.refuse(&CHROMIUM_UIDS, &uids.to_string(), error);
    }
    let layers = Layers::from_env(reader.env());
    ChromiumConfig {
        executable,
        uids,
        browsers,
        spare_pages: reader.number(&CHROMIUM_SPARE_PAGES, 0..=64),
        load_limit: reader.millis(&LOAD_TIMEOUT_MS, 100..=600_000),
        calls,
        heap_mb: reader.number(&CHROMIUM_HEAP_MB, 16..=4096),
        contract_mb: reader.number(&CHROMIUM_CONTRACT_MB, 16..=65_536),
        browser_mb: reader.number(&CHROMIUM_BROWSER_MB, 128..=65_536),
        cgroup_mb: reader.number(&CHROMIUM_CGROUP_MB, 0..=1_048_576),
        idle_cpu: reader.millis(&IDLE_CPU_MS, 10..=600_000),
        layers: reader.check(layers),
        ..ChromiumConfig::default()
    }
}

/// How many browsers share the contracts: more of them lose fewer pages at once, and each one has
/// a thread of its own for all the messages of its pages.
fn browsers() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    cores.div_ceil(4).min(4)
}
