//! What a farm leaves behind after it has ended: only what is documented.

use std::path::Path;

use super::processes::{self, ProcessInfo};
use super::redis_server::RedisServer;

/// The start of a placement stream's key, after the prefix. The stream belongs to no process and no
/// contract, and is kept.
const PLACEMENT: &str = "place:";

/// The key of the farm's own name, which is kept as well.
const FARM: &str = "farm";

/// The start of an executable's key. One that no load recorded expires by itself.
const EXECUTABLE: &str = "{blob:";

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
        let lasts = name.starts_with(PLACEMENT) || name == FARM;
        let goes = name.starts_with(EXECUTABLE) && redis.expires(&key).await;
        if !lasts && !goes {
            left.push(key);
        }
    }
    left
}
