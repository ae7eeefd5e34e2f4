//! Where a contract's jobs go: to the worker that hosts it, or to one of those that host its
//! replicas. What is known is kept for a while; a wrong route costs a second try.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::FutureExt;
use moka::sync::Cache;
use shared::protocol::id::{ContractAddress, WorkerId};
use shared::protocol::job::{ContractSpec, EngineKind, Load};
use shared::queue::contracts::{ContractRecord, Route};
use shared::queue::farm::Farm;
use shared::queue::timing::RESTORED_WITHIN;
use shared::queue::{Queue, QueueError};

use crate::error::ApiError;
use crate::inboxes::Inboxes;
use crate::metrics::DispatchMetrics;

/// How long a route is believed. A wrong one costs a second try, so this only bounds memory of
/// contracts that nobody calls.
const ROUTE_AGE: Duration = Duration::from_secs(30);

/// How many routes are remembered.
const ROUTES: u64 = 100_000;

/// How long a replica that nobody hosts is not looked for while others serve.
const ABSENT_FOR: Duration = Duration::from_secs(1);

/// A contract's host.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hosting {
    pub(super) worker: WorkerId,
    /// Whether its calls may be run again when it is unknown if they were run: by another host.
    pub(super) repeatable: bool,
    /// Whether they may by the same host, too.
    pub(super) idempotent: bool,
    /// How many hosts it shall have.
    replicas: u32,
}

/// Who hosts a contract, or a replica of one.
#[derive(Debug, Clone, Copy)]
pub(super) enum Host {
    /// It is not loaded.
    Nobody,
    /// It is loaded, and waits for a worker.
    NotNow {
        /// How many hosts it shall have.
        replicas: u32,
    },
    /// Nobody shall host it for so long.
    Quarantined {
        /// How much longer.
        left: Duration,
        /// How many hosts it shall have.
        replicas: u32,
    },
    /// This worker.
    Worker(Hosting),
}

impl Host {
    fn replicas(self) -> u32 {
        match self {
            Self::Nobody => 1,
            Self::NotNow { replicas } | Self::Quarantined { replicas, .. } => replicas,
            Self::Worker(hosting) => hosting.replicas,
        }
    }
}

/// The routes of this process.
pub(super) struct Routes {
    queue: Queue,
    inboxes: Arc<Inboxes>,
    known: Cache<ContractAddress, Hosting>,
    absent: Cache<ContractAddress, ()>,
    farm: Mutex<KnownFarm>,
    metrics: DispatchMetrics,
}

/// What is known of the farm, which Redis keeps with the rest of its data.
#[derive(Debug)]
struct KnownFarm {
    farm: Farm,
    /// When the data was found lost.
    lost: Option<Instant>,
}

impl Routes {
    pub(super) fn new(
        queue: Queue,
        inboxes: Arc<Inboxes>,
        farm: Farm,
        metrics: DispatchMetrics,
    ) -> Self {
        Self {
            queue,
            inboxes,
            known: Cache::builder()
                .max_capacity(ROUTES)
                .time_to_live(ROUTE_AGE)
                .build(),
            absent: Cache::builder()
                .max_capacity(ROUTES)
                .time_to_live(ABSENT_FOR)
                .build(),
            farm: Mutex::new(KnownFarm { farm, lost: None }),
            metrics,
        }
    }

    /// The route has turned out to be wrong, or may do so soon.
    pub(super) fn invalidate(&self, address: &ContractAddress) {
        self.known.invalidate(address);
        self.absent.invalidate(address);
    }

    /// Who takes a contract's next job: where it has replicas, the less busy of two hosts.
    pub(super) async fn pick(
        &self,
        contract: &ContractAddress,
    ) -> Result<(ContractAddress, Host), ApiError> {
        let first = self.host(contract).await?;
        match first.replicas() {
            1 => Ok((contract.clone(), first)),
            replicas => self.less_busy(contract, first, replicas).boxed().await,
        }
    }

    /// The less busy of two of its hosts, which are chosen at random.
    async fn less_busy(
        &self,
        contract: &ContractAddress,
        first: Host,
        replicas: u32,
    ) -> Result<(ContractAddress, Host), ApiError> {
        let mut best: Option<(usize, ContractAddress, Hosting)> = None;
        let start = rand::random_range(0..replicas);
        let mut found = 0;
        for offset in 0..replicas {
            let number = (start + offset) % replicas + 1;
            let replica = contract.replica(number);
            let Some(hosting) = self.present(&replica, number, first).await? else {
                continue;
            };
            let busy = self.inboxes.under_way(hosting.worker);
            if best.as_ref().is_none_or(|(least, ..)| busy < *least) {
                best = Some((busy, replica, hosting));
            }
            found += 1;
            if found == 2 {
                break;
            }
        }
        Ok(match best {
            Some((_, replica, hosting)) => (replica, Host::Worker(hosting)),
            None => (contract.clone(), first),
        })
    }

    /// The host of one replica, if it has one.
    async fn present(
        &self,
        replica: &ContractAddress,
        number: u32,
        first: Host,
    ) -> Result<Option<Hosting>, ApiError> {
        if self.absent.contains_key(replica) {
            return Ok(None);
        }
        let host = if number == 1 {
            first
        } else {
            self.host(replica).await?
        };
        let Host::Worker(hosting) = host else {
            self.absent.insert(replica.clone(), ());
            return Ok(None);
        };
        Ok(Some(hosting))
    }

    /// Who hosts the contract, or the replica. One that is free is offered to the workers again,
    /// should that have been lost.
    pub(super) async fn host(&self, address: &ContractAddress) -> Result<Host, ApiError> {
        if let Some(hosting) = self.remembered(address) {
            self.metrics.cache_hits.increment(1);
            return Ok(Host::Worker(hosting));
        }
        self.metrics.cache_misses.increment(1);
        // Seldom needed, and larger than all the rest of a call.
        Box::pin(self.look_up(address)).await
    }

    async fn look_up(&self, address: &ContractAddress) -> Result<Host, ApiError> {
        Ok(match self.queue.route(address).await? {
            Route::NotLoaded if self.has_lost_data().await? => Host::NotNow { replicas: 1 },
            Route::NotLoaded => Host::Nobody,
            Route::Quarantined(record) => Host::Quarantined {
                left: self.queue.clock().until(record.quarantined_until),
                replicas: record.spec.replicas,
            },
            Route::Unassigned(record) => {
                self.offer(address, &record).await?;
                Host::NotNow {
                    replicas: record.spec.replicas,
                }
            }
            // A worker that seems to be gone is sent nothing until that is certain.
            Route::Assigned(worker, record) if self.inboxes.is_suspect(worker) => Host::NotNow {
                replicas: record.spec.replicas,
            },
            Route::Assigned(worker, record) => {
                let hosting = Hosting {
                    worker,
                    repeatable: is_repeatable(&record.spec),
                    idempotent: record.spec.idempotent,
                    replicas: record.spec.replicas,
                };
                self.known.insert(address.clone(), hosting);
                Host::Worker(hosting)
            }
        })
    }

    /// What is known of where it is hosted, if that may still be true.
    fn remembered(&self, address: &ContractAddress) -> Option<Hosting> {
        let hosting = self.known.get(address)?;
        if !self.inboxes.is_suspect(hosting.worker) {
            return Some(hosting);
        }
        // It may be another worker's by now.
        self.known.invalidate(address);
        None
    }

    /// Offers a free contract to the workers again, unless that has been done lately. Where none has
    /// room the first offer still waits for one, and others would only pile up behind it.
    async fn offer(
        &self,
        address: &ContractAddress,
        record: &ContractRecord,
    ) -> Result<(), QueueError> {
        if let Some(owner) = record.owner
            && !self
                .queue
                .release_from_unknown_owner(address, owner)
                .await?
        {
            return Ok(());
        }
        if !self.queue.is_offer_due(address).await? {
            return Ok(());
        }
        let (address, spec) = (address.clone(), record.spec.clone());
        let workers = self.queue.workers().await?;
        if workers.iter().all(|(_, info)| info.free(spec.engine) == 0) {
            return Ok(());
        }
        self.queue.offer(Load { address, spec }).await
    }

    /// Whether Redis lost its data a moment ago: workers are about to say again what is loaded.
    async fn has_lost_data(&self) -> Result<bool, QueueError> {
        let before = self.known_farm().farm.clone();
        let farm = self.queue.farm(Some(&before)).await?;
        let mut known = self.known_farm();
        if known.farm.data != farm.data {
            *known = KnownFarm {
                farm,
                lost: Some(Instant::now()),
            };
        }
        let lost = known.lost;
        Ok(lost.is_some_and(|moment| moment.elapsed() < RESTORED_WITHIN))
    }

    fn known_farm(&self) -> MutexGuard<'_, KnownFarm> {
        // It is written whole.
        self.farm.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A page reaches nothing outside itself, and its state died with it; what a container did stays
/// done.
fn is_repeatable(spec: &ContractSpec) -> bool {
    spec.engine == EngineKind::Javascript || spec.idempotent
}
