//! All keys in memory, as they were at most some seconds ago, so that a request costs no round trip
//! to Redis.
//!
//! The table asks each second for what has changed. A key that it does not know may be new, so it
//! asks at once; callers that wait for that share one question. If it could not ask for longer than
//! [`TRUSTED_FOR`], it decides nothing: so that is how long a revoked key may work at most.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use shared::queue::QueueError;
use shared::queue::key_store::{KeyRecord, KeyStore};
use shared::service::lifecycle::Lifecycle;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::caller::Caller;
use super::token::Hash;
use crate::limits::Meters;

/// The pause between two questions for changes.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// How long what Redis said last is relied on.
pub(crate) const TRUSTED_FOR: Duration = Duration::from_secs(5);

/// The pause between two questions because of unknown keys: whoever invents keys costs Redis no
/// more than this.
const ASK_AGAIN: Duration = Duration::from_millis(10);

/// How exactly the last use of a key is recorded.
const USE_RECORDED_EVERY: Duration = Duration::from_mins(1);

/// How often the whole table is read again, and keys are forgotten.
const REREAD_EVERY: Duration = Duration::from_hours(1);

/// How long a key is listed after it was revoked or has expired.
const LISTED_FOR: Duration = Duration::from_hours(30 * 24);

/// What Redis said last is too old, and it does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unknown;

/// A key.
#[derive(Debug)]
pub(crate) struct Key {
    pub(crate) id: String,
    pub(crate) record: KeyRecord,
    pub(crate) hash: Hash,
    pub(crate) caller: Arc<Caller>,
    /// When it was used last, in milliseconds since the epoch; 0: not since it was recorded.
    used: AtomicU64,
}

impl Key {
    fn new(id: String, record: KeyRecord, meters: &Meters) -> Option<Self> {
        let Some(hash) = Hash::from_hex(&record.sha256) else {
            tracing::warn!(key = id, "key ignored: its record is unreadable");
            return None;
        };
        let caller = Arc::new(Caller::of_key(&id, &record, meters));
        Some(Self {
            id,
            record,
            hash,
            caller,
            used: AtomicU64::new(0),
        })
    }

    /// Whether it can be used at a moment, in milliseconds since the epoch.
    pub(crate) fn is_valid(&self, now: u64) -> bool {
        self.ended().is_none_or(|end| now < end)
    }

    /// When it was revoked, expired or will expire.
    fn ended(&self) -> Option<u64> {
        let KeyRecord {
            expires, revoked, ..
        } = self.record;
        expires.into_iter().chain(revoked).min()
    }

    /// When it was used last, as far as this process knows and has not recorded.
    pub(crate) fn last_used(&self) -> Option<u64> {
        Some(self.used.load(Ordering::Relaxed)).filter(|used| *used > 0)
    }

    /// Notes that it was used.
    pub(crate) fn use_at(&self, now: u64) {
        // Mostly it is the same second, and then the cache line stays shared between the cores.
        if self.used.load(Ordering::Relaxed) / 1000 != now / 1000 {
            self.used.store(now, Ordering::Relaxed);
        }
    }
}

/// The table.
#[derive(Debug)]
pub(crate) struct KeyTable {
    store: KeyStore,
    meters: Arc<Meters>,
    keys: RwLock<HashMap<String, Arc<Key>>>,
    /// When the last successful question was asked, in milliseconds after `origin`, plus one.
    asked: AtomicU64,
    origin: Instant,
    progress: Mutex<Progress>,
}

/// How far the table was read.
#[derive(Debug, Default)]
struct Progress {
    version: u64,
    /// When the last question was asked, and whether Redis answered.
    last: Option<(Instant, bool)>,
}

impl KeyTable {
    pub(crate) fn new(store: KeyStore, meters: Arc<Meters>) -> Self {
        Self {
            store,
            meters,
            keys: RwLock::default(),
            asked: AtomicU64::new(0),
            origin: Instant::now(),
            progress: Mutex::default(),
        }
    }

    /// The store behind the table.
    pub(crate) fn store(&self) -> &KeyStore {
        &self.store
    }

    /// Finds a key.
    pub(crate) async fn find(&self, id: &str) -> Result<Option<Arc<Key>>, Unknown> {
        if self.is_trusted()
            && let Some(key) = self.get(id)
        {
            return Ok(Some(key));
        }
        self.ask_now().await?;
        Ok(self.get(id))
    }

    /// All keys by id, as they are now.
    pub(crate) async fn all(&self) -> Result<Vec<Arc<Key>>, Unknown> {
        self.ask_now().await?;
        let mut all: Vec<_> = self.read().values().cloned().collect();
        all.sort_unstable_by(|one, other| one.id.cmp(&other.id));
        Ok(all)
    }

    /// Asks for changes until the process stops.
    pub(crate) async fn run(self: Arc<Self>, life: Lifecycle) {
        let mut interval = tokio::time::interval(ASK_EVERY);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut recorded, mut reread) = (Instant::now(), Instant::now());
        loop {
            tokio::select! {
                _ = interval.tick() => {}
                () = life.stopping() => break,
            }
            if reread.elapsed() > REREAD_EVERY {
                reread = Instant::now();
                self.reread().await;
            }
            // A failure shows when a request needs a key, and in the breaker's log before.
            _ = self.ask_now().await;
            if recorded.elapsed() > USE_RECORDED_EVERY {
                recorded = Instant::now();
                self.record_use().await;
            }
        }
        self.record_use().await;
    }

    /// Asks for changes, unless somebody else does so after this was called.
    async fn ask_now(&self) -> Result<(), Unknown> {
        let called = Instant::now();
        let mut progress = self.progress.lock().await;
        if let Some((asked, is_answered)) = progress.last {
            if asked >= called {
                return if is_answered { Ok(()) } else { Err(Unknown) };
            }
            tokio::time::sleep_until(asked + ASK_AGAIN).await;
        }
        let asked = Instant::now();
        let read = self.read_changes(&mut progress.version).await;
        progress.last = Some((asked, read.is_ok()));
        match read {
            Ok(()) => {
                let moment = asked.duration_since(self.origin).as_millis();
                let moment = u64::try_from(moment).unwrap_or(u64::MAX - 1);
                self.asked.store(moment + 1, Ordering::Relaxed);
                Ok(())
            }
            Err(error) => {
                tracing::warn!(%error, "keys cannot be read");
                Err(Unknown)
            }
        }
    }

    async fn read_changes(&self, version: &mut u64) -> Result<(), QueueError> {
        loop {
            let changes = self.store.changes(*version).await?;
            if changes.is_older {
                tracing::warn!("redis has lost keys");
                self.write().clear();
                *version = 0;
                continue;
            }
            for (id, record) in changes.records {
                if let Some(key) = Key::new(id.clone(), record, &self.meters) {
                    self.write().insert(id, Arc::new(key));
                }
            }
            *version = changes.version;
            if !changes.has_more {
                return Ok(());
            }
        }
    }

    /// Forgets keys that ended long ago, and those that other apis have forgotten.
    async fn reread(&self) {
        let now = self.store.now_ms();
        let horizon = now.saturating_sub(u64::try_from(LISTED_FOR.as_millis()).unwrap_or(u64::MAX));
        let is_over = |key: &Key| !key.record.is_from_file && !key.is_valid(horizon);
        let over = self.ids(is_over);
        if let Err(error) = self.store.forget(&over).await {
            tracing::warn!(%error, "cannot forget old keys");
        }
        let mut progress = self.progress.lock().await;
        progress.version = 0;
        self.write().retain(|id, _| !over.contains(id));
    }

    async fn record_use(&self) {
        let keys: Vec<_> = self.read().values().cloned().collect();
        let used: Vec<_> = keys
            .iter()
            .map(|key| (key.id.clone(), key.used.swap(0, Ordering::Relaxed)))
            .filter(|(_, at)| *at > 0)
            .collect();
        if let Err(error) = self.store.record_use(&used).await {
            tracing::warn!(%error, "cannot record the use of keys");
        }
    }

    /// The ids of some keys.
    fn ids(&self, wanted: impl Fn(&Key) -> bool) -> Vec<String> {
        let keys = self.read();
        let wanted = keys.values().filter(|key| wanted(key));
        wanted.map(|key| key.id.clone()).collect()
    }

    fn is_trusted(&self) -> bool {
        let asked = Duration::from_millis(self.asked.load(Ordering::Relaxed));
        !asked.is_zero() && self.origin.elapsed() < asked + TRUSTED_FOR
    }

    fn get(&self, id: &str) -> Option<Arc<Key>> {
        self.read().get(id).cloned()
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, HashMap<String, Arc<Key>>> {
        // No holder of the lock can panic half-way.
        self.keys.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, HashMap<String, Arc<Key>>> {
        self.keys.write().unwrap_or_else(PoisonError::into_inner)
    }
}
