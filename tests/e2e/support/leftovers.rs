//! What a farm leaves behind when it has ended: nothing but what is documented.

use std::path::Path;

use super::processes::{self, Seen};
use super::redis_server::RedisServer;

/// How a placement stream's key begins, after the prefix. It belongs to no process and no
/// contract, and lasts.
const PLACEMENT: &str = "place:";

/// The farm's own name, which lasts as well.
const FARM: &str = "farm";

/// How an executable's key begins. One that no load took expires by itself.
const EXECUTABLE: &str = "{blob:";

/// The processes, of the ones seen before and of those that name the folder, that still run.
pub(crate) fn processes(before: &[Seen], folder: &Path) -> Vec<Seen> {
    let mut left = processes::of_folder(folder);
    left.extend(before.iter().filter(|process| process.runs()).cloned());
    left.sort_by_key(|process| process.pid);
    left.dedup();
    left
}

/// What is in `folder`, where the workers put the browsers' profiles.
pub(crate) fn files(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("the farm's folder can be read");
    entries
        .flatten()
        .map(|entry| entry.path().display().to_string())
        .collect()
}

/// The keys that nobody needs any more.
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
