//! Applies the source maps of contracts to the stacks of errors.
//!
//! A map is part of the executable in the store. It is read when an error needs it for the first
//! time, and kept. Maps come from the authors of contracts: their size and number are bounded, and
//! one that cannot be read in time is not waited for.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use moka::sync::Cache;
use shared::protocol::reply::{Stack, StackEntry};
use shared::protocol::source_map;
use shared::queue::Queue;
use sourcemap::DecodedMap;
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// The largest map that is read, in bytes. Its parts take up to 14 times as much.
pub(crate) const MAP_LIMIT: usize = 8 << 20;

/// The maps that are kept, in bytes of their texts.
const KEPT: u64 = 16 << 20;

/// How long an error waits for its map.
const PATIENCE: Duration = Duration::from_secs(1);

/// The maps of all contracts.
#[derive(Clone)]
pub(crate) struct SourceMaps {
    queue: Queue,
    /// By the names of the executables. None: it has no map that can be read.
    maps: Cache<String, Option<Arc<Map>>>,
    /// One map at a time is read: it takes memory and processor time.
    reading: Arc<Semaphore>,
}

struct Map {
    decoded: DecodedMap,
    bytes: usize,
}

impl SourceMaps {
    pub(crate) fn new(queue: Queue) -> Self {
        let weight = |_: &String, map: &Option<Arc<Map>>| {
            let bytes = map.as_ref().map_or(100, |map| map.bytes);
            u32::try_from(bytes).unwrap_or(u32::MAX)
        };
        Self {
            queue,
            maps: Cache::builder().max_capacity(KEPT).weigher(weight).build(),
            reading: Arc::new(Semaphore::new(1)),
        }
    }

    /// The entries of a stack with the places in the sources, as far as there is a map.
    pub(crate) async fn apply(&self, stack: Stack) -> Vec<StackEntry> {
        let Stack {
            entries,
            source_map: Some(executable),
        } = stack
        else {
            return stack.entries;
        };
        let map = match self.maps.get(&executable) {
            Some(map) => map,
            None => timeout(PATIENCE, self.read(executable))
                .await
                .unwrap_or_default(),
        };
        let Some(map) = map else { return entries };
        let entries = entries.into_iter();
        entries.map(|entry| original(&map.decoded, entry)).collect()
    }

    async fn read(&self, executable: String) -> Option<Arc<Map>> {
        let place = self.reading.clone().acquire_owned().await.ok()?;
        if let Some(map) = self.maps.get(&executable) {
            return map;
        }
        let text = self.queue.fetch_blob(&executable).await.ok()??;
        let maps = self.maps.clone();
        // It goes on when nobody waits any more: the next error finds the map. A hostile map may
        // make the decoder panic; then it has none.
        let reading = tokio::task::spawn_blocking(move || {
            let decoding = std::panic::catch_unwind(|| decode(&text));
            let map = decoding.ok().flatten().map(Arc::new);
            maps.insert(executable, map.clone());
            drop(place);
            map
        });
        reading.await.ok()?
    }
}

/// The map in an executable.
fn decode(executable: &[u8]) -> Option<Map> {
    let executable = std::str::from_utf8(executable).ok()?;
    let (kind, data) = source_map::of(executable)?.split_once(',')?;
    if !kind.ends_with(";base64") || data.len() / 4 * 3 > MAP_LIMIT {
        return None;
    }
    let json = BASE64_STANDARD.decode(data).ok()?;
    let decoded = sourcemap::decode_slice(&json).ok()?;
    Some(Map {
        decoded,
        bytes: json.len(),
    })
}

/// The place in the source of an entry. A place that the map does not know stays as it is.
fn original(map: &DecodedMap, entry: StackEntry) -> StackEntry {
    let (line, column) = (entry.line.saturating_sub(1), entry.column.saturating_sub(1));
    let token = map.lookup_token(line, column);
    let Some(token) = token.filter(|token| token.get_dst_line() == line) else {
        return entry;
    };
    let Some(source) = token.get_source() else {
        return entry;
    };
    StackEntry {
        function: entry.function,
        line: token.get_src_line().saturating_add(1),
        column: token.get_src_col().saturating_add(1),
        source: Some(StackEntry::cut(source.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn executable(map: &str) -> Vec<u8> {
        let data = BASE64_STANDARD.encode(map);
        let comment = source_map::COMMENT;
        format!("{{ a() {{}} }}\n{comment}application/json;charset=utf-8;base64,{data}\n")
            .into_bytes()
    }

    /// As TypeScript writes it for two lines that lie one line further down in the source.
    const MAP: &str = r#"{"version":3,"sources":["src/a.ts"],"names":[],"mappings":"AACA;AACA"}"#;

    #[test]
    fn a_place_in_the_source_is_found() {
        let map = decode(&executable(MAP)).unwrap().decoded;
        let found = original(&map, StackEntry::new(Some("f".to_owned()), 2, 5));
        assert_eq!(found.function.as_deref(), Some("f"));
        assert_eq!((found.line, found.column), (3, 1));
        assert_eq!(found.source.as_deref(), Some("src/a.ts"));
        let beyond = StackEntry::new(None, 9, 1);
        assert_eq!(original(&map, beyond.clone()), beyond);
    }

    #[test]
    fn what_is_no_map_is_none() {
        for map in ["", "{", "[]", r#"{"version":3,"mappings":"!!"}"#] {
            assert!(decode(&executable(map)).is_none(), "{map}");
        }
        let large = format!(r#"{{"version":3,"mappings":"{}"}}"#, ";".repeat(MAP_LIMIT));
        assert!(decode(&executable(&large)).is_none());
        assert!(decode(b"{ a() {} }").is_none());
        assert!(decode(b"\xff").is_none());
    }
}
