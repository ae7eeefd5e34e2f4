//! The sweeper walks the registry and mends what no other process would find. Every process runs
//! one; a lock keeps them from sweeping at the same time.
//!
//! It removes entries of contracts that are not loaded, offers contracts without an owner, unloads
//! replicas without their contract (`surplus.rs`), adds references to executables that are missing
//! and removes stale ones, forgets the usage of workers that are gone, and bounds the lines that
//! contracts keep. Each step may be repeated, and may be interrupted anywhere.

use super::contracts::ContractRecord;
use super::lock::AdvisoryLock;
use super::references::Reference;
use super::registry::Entry;
use super::timing::{SWEEP_INTERVAL, SWEEP_LOCK, UNUSED_ENTRY};
use super::{Queue, QueueError};
use crate::protocol::id::ContractAddress;
use crate::service::lifecycle::Lifecycle;

/// Entries that are read at once.
const PAGE: usize = 100;

/// Sweeps from time to time until the process stops.
pub async fn run(queue: Queue, life: Lifecycle) {
    loop {
        // Jitter keeps the processes from trying at the same moment.
        let pause = SWEEP_INTERVAL.mul_f64(rand::random_range(0.9..1.1));
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = life.stopping() => return,
        }
        tokio::select! {
            swept = queue.sweep() => if let Err(error) = swept {
                tracing::debug!(%error, "cannot sweep the registry");
            },
            () = life.stopping() => return,
        }
    }
}

/// The entries of a list, read page by page.
struct Pages<'a> {
    queue: &'a Queue,
    list: String,
    last: Option<Entry>,
    begun: u64,
}

impl<'a> Pages<'a> {
    fn of(queue: &'a Queue, list: String) -> Self {
        Self {
            queue,
            list,
            last: None,
            begun: queue.clock().now_ms(),
        }
    }

    async fn next(&mut self) -> Result<Option<Vec<Entry>>, QueueError> {
        // What was loaded since the sweep began is left to the next one: loads move to the end, so
        // the walk might never reach it.
        if self
            .last
            .as_ref()
            .is_some_and(|last| last.loaded_at > self.begun)
        {
            return Ok(None);
        }
        let page = self
            .queue
            .entries(&self.list, self.last.as_ref(), PAGE)
            .await?;
        self.last = page.last().cloned();
        Ok(Some(page).filter(|page| !page.is_empty()))
    }
}

impl Queue {
    /// Sweeps the registry, unless another process does so or has just done so. Returns whether
    /// this process swept it.
    pub async fn sweep(&self) -> Result<bool, QueueError> {
        self.fill_registry().await?;
        // It is not released at the end: it then expires, shortly before the next sweep is due.
        let Some(lock) = self.try_lock(self.keys().sweep_lock(), SWEEP_LOCK).await? else {
            return Ok(false);
        };
        if !self.sweep_contracts(&lock).await? || !self.sweep_blobs(&lock).await? {
            return Ok(false);
        }
        self.sweep_executables().await?;
        self.sweep_usage().await?;
        self.sweep_logs().await?;
        Ok(true)
    }

    /// False if the lock was lost.
    async fn sweep_contracts(&self, lock: &AdvisoryLock) -> Result<bool, QueueError> {
        let mut pages = Pages::of(self, self.keys().contracts());
        while let Some(page) = pages.next().await? {
            if !self.renew_lock(lock).await? {
                return Ok(false);
            }
            self.sweep_contracts_of(page).await?;
        }
        Ok(true)
    }

    async fn sweep_contracts_of(&self, entries: Vec<Entry>) -> Result<(), QueueError> {
        let known = entries.into_iter().filter_map(|entry| {
            let address = ContractAddress::try_from(entry.name.clone()).ok()?;
            Some((entry, address))
        });
        let (entries, addresses): (Vec<_>, Vec<_>) = known.unzip();
        let (records, living) = self.contracts_and_workers(&addresses).await?;
        let old_replicas = entries
            .iter()
            .zip(&addresses)
            .filter(|(entry, address)| address.replica_number() > 1 && self.is_unused(entry));
        let old_replicas = old_replicas.map(|(_, address)| address).collect();
        let surplus = self.surplus_replicas(old_replicas).await?;
        let loaded = addresses
            .iter()
            .zip(&records)
            .filter_map(|(address, record)| {
                let record = record.as_ref()?;
                let reference = Reference::new(address, &record.load);
                Some((record.spec.digest.as_str(), reference))
            });
        self.add_references(&loaded.collect::<Vec<_>>()).await?;
        let mut waiting = Vec::new();
        for ((entry, address), record) in entries.into_iter().zip(addresses).zip(records) {
            match record {
                None => self.sweep_entry(entry, &address).await?,
                Some(record) if surplus.contains(&address) => {
                    self.unload_surplus(&address, &record, &living).await?;
                }
                Some(record) if record.owner.is_some_and(|owner| living.contains(&owner)) => {}
                Some(record) => waiting.push((address, record)),
            }
        }
        self.offer_all(waiting).await
    }

    /// Removes the entry of a contract that is not loaded.
    async fn sweep_entry(&self, entry: Entry, address: &ContractAddress) -> Result<(), QueueError> {
        if !self.is_unused(&entry) {
            return Ok(());
        }
        // A record that cannot be read, or is of another version, keeps its entry.
        let exists: bool = redis::cmd("EXISTS")
            .arg(self.keys().contract(address))
            .query_async(&mut self.pooled().await?)
            .await?;
        if exists {
            // A first load whose worker is gone.
            let standing = self.ownership(address).await?.standing;
            self.release_from_lost_owner(address, standing).await?;
        } else {
            self.delist(&self.keys().contracts(), Some(entry)).await;
        }
        Ok(())
    }

    /// Offers contracts that have no living owner to the workers.
    async fn offer_all(
        &self,
        contracts: Vec<(ContractAddress, ContractRecord)>,
    ) -> Result<(), QueueError> {
        if contracts.is_empty() {
            return Ok(());
        }
        let workers = self.workers().await?;
        let now = self.clock().now_ms();
        for (address, record) in contracts {
            if record.quarantined_until <= now && self.is_offerable(&address, &record).await? {
                self.offer_to(&workers, &address, &record).await?;
            }
        }
        Ok(())
    }

    /// False if the lock was lost.
    async fn sweep_blobs(&self, lock: &AdvisoryLock) -> Result<bool, QueueError> {
        let mut pages = Pages::of(self, self.keys().blobs());
        while let Some(page) = pages.next().await? {
            for entry in page {
                if !self.renew_lock(lock).await? {
                    return Ok(false);
                }
                let is_used = match self.sweep_blob(&entry.name).await {
                    Err(QueueError::Unexpected(reason)) => {
                        tracing::warn!(digest = entry.name, reason, "references not compared");
                        true
                    }
                    swept => swept?,
                };
                if is_used {
                    self.count_if_missing(&entry.name).await?;
                } else if self.is_unused(&entry) {
                    self.uncount_executable(&entry.name).await?;
                    self.delist(&self.keys().blobs(), Some(entry)).await;
                }
            }
        }
        Ok(true)
    }

    /// Whether an entry is so old that what it announces would exist by now.
    fn is_unused(&self, entry: &Entry) -> bool {
        self.clock().since(entry.loaded_at) > UNUSED_ENTRY
    }
}
