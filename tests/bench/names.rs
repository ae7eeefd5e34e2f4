//! The names of the figures, by which targets and plots find what the scenarios recorded.

pub(crate) const RAW: &str = "raw evaluate, one after the other";
pub(crate) const RAW_PIPELINED: &str = "raw evaluate, 64 under way";
pub(crate) const MANY: &str = "100 contracts evenly, c=256";
pub(crate) const MANY_BARE: &str = "bare echo, c=256, beside the 100 contracts";
pub(crate) const LOADS: &str = "loads, one after the other";
pub(crate) const CONCURRENT_LOADS: &str = "loads, 8 under way";
pub(crate) const COLD_ALONE: &str = "cold contract alone, c=1";
pub(crate) const COLD: &str = "cold contract, c=1, beside the hot one";
pub(crate) const HOT: &str = "hot contract, c=64, beside the cold one";
pub(crate) const COLD_AMONG_MANY: &str =
    "cold contract, 10 calls a second, beside 100 contracts, c=256";
pub(crate) const TIMER: &str = "a contract that awaits 5 ms, c=64";
pub(crate) const REGISTRY_EMPTY: &str = "one contract, c=64, alone in the registry";
pub(crate) const REGISTRY_FULL: &str = "one contract, c=64, 1,000 idle ones beside it";
pub(crate) const PACED: &str = "one contract, 1,000 calls a second";
pub(crate) const PACED_BARE: &str = "bare echo, 1,000 calls a second";
pub(crate) const OPEN: &str = "one contract, c=256, without keys";
pub(crate) const WITH_KEYS: &str = "one contract, c=256, with keys";
pub(crate) const WITH_MANY_KEYS: &str = "one contract, c=256, with 10,000 keys";
pub(crate) const KEY_ALONE: &str = "one key, c=4";
pub(crate) const KEY_BESIDE_FLOOD: &str = "one key, c=4, beside a flood by another key";
pub(crate) const PLAIN: &str = "one contract, c=256, without schemas and lines";
pub(crate) const WITH_SCHEMAS: &str = "one contract, c=256, with schemas";
pub(crate) const WITH_LINES: &str = "one contract, c=256, with a line that nobody reads";
pub(crate) const DOCKER: &str = "docker echo through the farm, c=64";
pub(crate) const DOCKER_DIRECT: &str = "docker echo directly, c=64";
pub(crate) const DOCKER_HALF: &str = "docker echo of half a core, through the farm, c=64";
pub(crate) const DOCKER_HALF_DIRECT: &str = "docker echo of half a core, directly, c=64";
pub(crate) const CONTRACT_MEMORY: &str = "memory of a loaded contract (PSS)";
pub(crate) const PAGE_MEMORY: &str = "memory of a fresh page (PSS)";
pub(crate) const CONNECTION_MEMORY: &str = "api, for each connection (RSS)";
pub(crate) const CALL_MEMORY: &str = "api, for each call in flight beside its connection (RSS)";
pub(crate) const API_MEMORY: &str = "api (RSS)";
pub(crate) const WORKER_MEMORY: &str = "worker without its browser (RSS)";

/// The name of this system among its peers.
pub(crate) const FARM: &str = "this farm";

/// Calls of a system with so many contracts.
pub(crate) fn peer(system: &str, contracts: usize, connections: u32) -> String {
    format!("{system}, contracts: {contracts}, c={connections}")
}

/// Loads of a system's contracts, one after the other.
pub(crate) fn peer_loads(system: &str, contracts: usize) -> String {
    format!("{system}, contracts: {contracts}, loads")
}

/// The memory of all processes of a system.
pub(crate) fn peer_memory(system: &str, contracts: usize) -> String {
    format!("{system}, contracts: {contracts}, memory (PSS)")
}

pub(crate) fn bare(connections: u32) -> String {
    format!("bare echo, c={connections}")
}

pub(crate) fn one(connections: u32) -> String {
    format!("one contract, c={connections}")
}

/// Messages to a hundred pages, with so many under way.
pub(crate) fn raw_many(under_way: usize) -> String {
    format!("raw messages to 100 pages, {under_way} under way")
}

/// The processor time of one kind of process, for a load with this name.
pub(crate) fn processor(load: &str, kind: &str) -> String {
    format!("{load}: {kind}")
}

pub(crate) fn bare_payload(size: usize) -> String {
    format!("bare echo, {}, c=8", bytes(size))
}

pub(crate) fn payload(size: usize) -> String {
    format!("echo contract, {}, c=8", bytes(size))
}

pub(crate) fn workers(count: usize) -> String {
    let workers = if count == 1 { "worker" } else { "workers" };
    format!("{count} {workers}, calls that wait 50 ms")
}

fn bytes(size: usize) -> String {
    if size < 1_000_000 {
        format!("{} KB", size / 1000)
    } else {
        format!("{} MB", size / 1_000_000)
    }
}
