//! What a farm leaves behind after it has ended: only what is documented.

use std::path::Path;

use super::processes::{self, ProcessInfo};
use super::redis_server::RedisServer;

/// The start of a placement stream's key, after the prefix. The stream belongs to no process and no
/// contract, and is kept.
const PLACEMENT: &str = "place:";

/// The keys of the farm as a whole, which are kept as well: who changed what, its name, and that
/// its registry is complete.
const FARM: [&str; 3] = ["audit", "farm", "registry"];

/// The registry, and the sizes of executables. An entry of a load that failed stays until a sweep
/// finds that it is old.
const REGISTRY: [&str; 3] = ["contracts", "blobs", "executables"];

/// The start of the keys that hold the keys of callers and the limits of tenants.
const ACCESS: [&str; 2] = ["{keys}:", "{tenants}:"];

/// The start of the keys that say how far quotas are used up, and what was used. They expire by
/// themselves.
const USE: [&str; 2] = ["{q:", "{u:"];

/// The start of the key of a lock, which expires by itself.
const LOCK: &str = "lock:";

/// The start of an executable's key. One that no load recorded expires by itself.
const EXECUTABLE: &str = "{blob:";

/// Part of the key of a call's large argument. An api does not wait for long to remove one while
/// its connections to Redis are busy: it expires by itself.
const ARGUMENT: &str = "}:b:";

/// The end of the key that remembers when a contract was unloaded. It expires by itself.
const UNLOADED: &str = "}:past";

/// The farm's processes that still run: those of `before`, and those that name the folder.
pub(crate) fn processes(before: &[ProcessInfo], folder: &Path) -> Vec<ProcessInfo> {
    let mut left = processes::of_folder(folder);
    left.extend(before.iter().filter(|process| process.runs()).cloned());
    left.sort_by_key(|process| process.pid);
    left.dedup();
    left
}

/// The files in `folder`, where the workers store the browsers' profiles.
pub(crate) fn files(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("the farm's folder can be read");
    entries
        .flatten()
        .map(|entry| entry.path().display().to_string())
        .collect()
}

/// The keys that should have been deleted.
pub(crate) async fn keys(redis: &RedisServer, prefix: &str) -> Vec<String> {
    let mut left = Vec::new();
    for key in redis.keys().await {
        let name = key.strip_prefix(prefix).unwrap_or(&key);
        let lasts = name.starts_with(PLACEMENT)
            || ACCESS.iter().any(|start| name.starts_with(start))
            || FARM.contains(&name)
            || REGISTRY.contains(&name);
        let expires = name.starts_with(EXECUTABLE)
            || name.starts_with(LOCK)
            || USE.iter().any(|start| name.starts_with(start))
            || name.contains(ARGUMENT)
            || name.ends_with(UNLOADED);
        let goes = expires && redis.expires(&key).await;
        if !lasts && !goes {
            left.push(key);
        }
    }
    left
}
