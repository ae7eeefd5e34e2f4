//! Finds the worker that a contract's jobs go to, and caches it.
//!
//! A stale entry is harmless: the worker refuses the job and the call is routed again. For a
//! contract with replicas, the less busy of two owners is chosen.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::FutureExt;
use moka::sync::Cache;
use shared::protocol::id::{ContractAddress, WorkerId};
use shared::protocol::job::{ContractSpec, EngineKind};
use shared::queue::contracts::Route;
use shared::queue::farm::Farm;
use shared::queue::ownership::Standing;
use shared::queue::timing::RESTORED_WITHIN;
use shared::queue::{Queue, QueueError, ServerName};

use crate::breaker::{Breaker, QueueState};
use crate::error::ApiError;
use crate::inboxes::Inboxes;
use crate::limits::{Meter, Meters};
use crate::metrics::DispatchMetrics;

/// How long an entry is used. A stale one only costs a second attempt, so this bounds the memory
/// spent on contracts that are no longer called.
const ENTRY_AGE: Duration = Duration::from_secs(30);

/// How many entries each cache holds at most.
const CAPACITY: u64 = 100_000;

/// How long a replica without an owner is skipped while others serve.
const UNASSIGNED_AGE: Duration = Duration::from_secs(1);

/// The owner of a contract or a replica, and what its jobs may do.
#[derive(Debug, Clone)]
pub(super) struct Assignment {
    /// The owning worker.
    pub(super) worker: WorkerId,
    /// Whether a call that may have been started may run again at another owner.
    pub(super) repeatable: bool,
    /// Whether it may also run again at the same owner.
    pub(super) idempotent: bool,
    /// The digest of the contract's schemas, if it has some.
    pub(super) schemas: Option<Arc<str>>,
    /// How many replicas the contract has.
    replicas: u32,
    /// What the contract may use, if that is limited or counted. All its replicas have the same.
    pub(super) meter: Option<Arc<Meter>>,
}

/// Where the jobs of a contract or a replica go.
#[derive(Debug, Clone)]
pub(super) enum Target {
    /// The contract is not loaded.
    NotLoaded,
    /// It is loaded and waits for a worker.
    Unassigned {
        /// How many replicas the contract has.
        replicas: u32,
    },
    /// The worker that owned it last could not get its image.
    WithoutImage {
        /// How many replicas the contract has.
        replicas: u32,
    },
    /// It crashed repeatedly and is not assigned for a while.
    Quarantined {
        /// How much longer.
        left: Duration,
        /// How many replicas the contract has.
        replicas: u32,
    },
    /// A worker owns it.
    Assigned(Assignment),
}

impl Target {
    fn replicas(&self) -> u32 {
        match self {
            Self::NotLoaded => 1,
            Self::Unassigned { replicas }
            | Self::WithoutImage { replicas }
            | Self::Quarantined { replicas, .. } => *replicas,
            Self::Assigned(owner) => owner.replicas,
        }
    }
}

/// A contract or one of its replicas, and where its jobs go.
#[derive(Debug)]
pub(super) struct Destination {
    pub(super) address: ContractAddress,
    pub(super) target: Target,
}

impl Destination {
    /// The address and its owner; `None` while it waits for one.
    pub(super) fn owner(self) -> Result<Option<(ContractAddress, Assignment)>, ApiError> {
        match self.target {
            Target::NotLoaded => Err(ApiError::ContractNotLoaded),
            Target::Quarantined { left, .. } => Err(ApiError::ContractQuarantined(left)),
            Target::WithoutImage { .. } => Err(ApiError::image_missing()),
            Target::Unassigned { .. } => Ok(None),
            Target::Assigned(owner) => Ok(Some((self.address, owner))),
        }
    }
}

/// A replica that a call may go to.
struct Candidate {
    in_flight: usize,
    address: ContractAddress,
    owner: Assignment,
}

/// The owners that this process has looked up.
pub(super) struct RouteCache {
    queue: Queue,
    inboxes: Arc<Inboxes>,
    breaker: Breaker,
    meters: Arc<Meters>,
    owners: Cache<ContractAddress, Assignment>,
    unassigned: Cache<ContractAddress, ()>,
    farm: Mutex<KnownFarm>,
    metrics: DispatchMetrics,
}

/// What a [`RouteCache`] is built from.
pub(super) struct RouteCacheParts {
    pub(super) queue: Queue,
    pub(super) inboxes: Arc<Inboxes>,
    pub(super) breaker: Breaker,
    pub(super) meters: Arc<Meters>,
    pub(super) farm: Farm,
    pub(super) metrics: DispatchMetrics,
}

/// The farm's identity, which Redis holds with the rest of its data.
#[derive(Debug)]
struct KnownFarm {
    farm: Farm,
    /// When Redis was found to have lost its data.
    lost_at: Option<Instant>,
}

impl RouteCache {
    pub(super) fn new(parts: RouteCacheParts) -> Self {
        let RouteCacheParts {
            queue,
            inboxes,
            breaker,
            meters,
            farm,
            metrics,
        } = parts;
        Self {
            queue,
            inboxes,
            breaker,
            meters,
            owners: Cache::builder()
                .max_capacity(CAPACITY)
                .time_to_live(ENTRY_AGE)
                .build(),
            unassigned: Cache::builder()
                .max_capacity(CAPACITY)
                .time_to_live(UNASSIGNED_AGE)
                .build(),
            farm: Mutex::new(KnownFarm {
                farm,
                lost_at: None,
            }),
            metrics,
        }
    }

    /// Removes an entry that is, or may soon be, out of date.
    pub(super) fn invalidate(&self, address: &ContractAddress) {
        self.owners.invalidate(address);
        self.unassigned.invalidate(address);
    }

    /// Chooses where a contract's next call goes: with replicas, to the less busy of two owners.
    pub(super) async fn choose_replica(
        &self,
        contract: &ContractAddress,
    ) -> Result<Destination, ApiError> {
        let first = self.target(contract).await?;
        if first.replicas() == 1 {
            return Ok(Destination {
                address: contract.clone(),
                target: first,
            });
        }
        self.less_busy(contract, first).boxed().await
    }

    /// Chooses the less busy of two owners, which are picked at random.
    async fn less_busy(
        &self,
        contract: &ContractAddress,
        first: Target,
    ) -> Result<Destination, ApiError> {
        let replicas = first.replicas();
        let mut best: Option<Candidate> = None;
        let start = rand::random_range(0..replicas);
        let mut found = 0;
        for offset in 0..replicas {
            let number = (start + offset) % replicas + 1;
            let address = contract.replica(number);
            let Some(owner) = self.replica_owner(&address, number, &first).await? else {
                continue;
            };
            let in_flight = self.inboxes.in_flight(owner.worker);
            if best.as_ref().is_none_or(|best| in_flight < best.in_flight) {
                best = Some(Candidate {
                    in_flight,
                    address,
                    owner,
                });
            }
            found += 1;
            if found == 2 {
                break;
            }
        }
        Ok(match best {
            Some(Candidate { address, owner, .. }) => Destination {
                address,
                target: Target::Assigned(owner),
            },
            None => Destination {
                address: contract.clone(),
                target: first,
            },
        })
    }

    /// The owner of one replica, if it has one. `first` is the target of the first replica.
    async fn replica_owner(
        &self,
        replica: &ContractAddress,
        number: u32,
        first: &Target,
    ) -> Result<Option<Assignment>, ApiError> {
        if self.unassigned.contains_key(replica) || self.is_record_away(replica) {
            return Ok(None);
        }
        let target = if number == 1 {
            first.clone()
        } else {
            self.target(replica).await?
        };
        let Target::Assigned(owner) = target else {
            self.unassigned.insert(replica.clone(), ());
            return Ok(None);
        };
        Ok((!self.is_inbox_away(owner.worker)).then_some(owner))
    }

    /// Where the jobs of a contract or a replica go. One without an owner is offered to the
    /// workers again, in case an earlier offer was lost.
    pub(super) async fn target(&self, address: &ContractAddress) -> Result<Target, ApiError> {
        if let Some(owner) = self.cached_owner(address) {
            self.metrics.cache_hits.increment(1);
            return Ok(Target::Assigned(owner));
        }
        self.metrics.cache_misses.increment(1);
        // Boxed: rare, and larger than the rest of a call's future.
        Box::pin(self.look_up(address)).await
    }

    async fn look_up(&self, address: &ContractAddress) -> Result<Target, ApiError> {
        let record = self.queue.contract(address).await?;
        let owner = record.as_ref().and_then(|record| record.owner);
        if owner.is_some_and(|owner| self.is_inbox_away(owner)) {
            return Err(ApiError::queue_unavailable());
        }
        Ok(match self.queue.route(record).await? {
            Route::NotLoaded if self.may_be_lost(address).await? => {
                Target::Unassigned { replicas: 1 }
            }
            Route::NotLoaded => Target::NotLoaded,
            Route::Quarantined(record) => Target::Quarantined {
                left: self.queue.clock().until(record.quarantined_until),
                replicas: record.spec.replicas,
            },
            Route::Unassigned(record) => {
                self.queue.offer_again(address, &record).await?;
                let replicas = record.spec.replicas;
                if record.image_missing {
                    Target::WithoutImage { replicas }
                } else {
                    Target::Unassigned { replicas }
                }
            }
            // A suspect worker is sent nothing until its lease decides whether it is dead.
            Route::Assigned(worker, record) if self.inboxes.is_suspect(worker) => {
                Target::Unassigned {
                    replicas: record.spec.replicas,
                }
            }
            Route::Assigned(worker, record) => {
                let owner = Assignment {
                    worker,
                    repeatable: is_repeatable(&record.spec),
                    idempotent: record.spec.idempotent,
                    schemas: record.schemas.map(Arc::from),
                    replicas: record.spec.replicas,
                    meter: self
                        .meters
                        .contract(&address.replica(1), record.spec.limits.quota()),
                };
                self.owners.insert(address.clone(), owner.clone());
                Target::Assigned(owner)
            }
        })
    }

    /// The owner of a contract, if this process knows it.
    pub(super) fn known_owner(&self, address: &ContractAddress) -> Option<WorkerId> {
        Some(self.cached_owner(address)?.worker)
    }

    /// Whether a cluster lacks the server with the inbox of a worker.
    fn is_inbox_away(&self, worker: WorkerId) -> bool {
        let server = || self.queue.server_of_inbox(worker);
        self.queue.is_cluster() && self.is_away(server().as_ref())
    }

    /// Whether a cluster lacks the server with the record of a replica whose owner is not known.
    fn is_record_away(&self, replica: &ContractAddress) -> bool {
        let server = || self.queue.server_of_contract(replica);
        self.queue.is_cluster()
            && self.known_owner(replica).is_none()
            && self.is_away(server().as_ref())
    }

    fn is_away(&self, server: Option<&ServerName>) -> bool {
        self.breaker.state_of(server) == QueueState::Unavailable
    }

    /// The cached owner, unless it is suspect, or the server with its inbox is away: then it may go
    /// on under another id.
    fn cached_owner(&self, address: &ContractAddress) -> Option<Assignment> {
        let owner = self.owners.get(address)?;
        if !self.inboxes.is_suspect(owner.worker) && !self.is_inbox_away(owner.worker) {
            return Some(owner);
        }
        // Another worker may own the contract by now.
        self.owners.invalidate(address);
        None
    }

    /// Whether a contract that Redis does not know may be one that its owner is about to restore.
    pub(super) async fn may_be_restored(
        &self,
        address: &ContractAddress,
        standing: Standing,
    ) -> Result<bool, QueueError> {
        Ok(standing == Standing::default() && self.may_be_lost(address).await?)
    }

    /// Whether Redis may have lost the record of a contract within [`RESTORED_WITHIN`]: it has lost
    /// all data, or the server of the record was away.
    async fn may_be_lost(&self, address: &ContractAddress) -> Result<bool, QueueError> {
        let server = self.queue.server_of_contract(address);
        let recovered = self.breaker.has_recovered(server.as_ref(), RESTORED_WITHIN);
        Ok(recovered || self.has_lost_data().await?)
    }

    /// Whether Redis lost its data within [`RESTORED_WITHIN`]: the workers are about to write their
    /// contracts again.
    async fn has_lost_data(&self) -> Result<bool, QueueError> {
        let before = self.known_farm().farm.clone();
        let farm = self.queue.farm(Some(&before)).await?;
        let mut known = self.known_farm();
        if known.farm.data != farm.data {
            *known = KnownFarm {
                farm,
                lost_at: Some(Instant::now()),
            };
        }
        let lost_at = known.lost_at;
        Ok(lost_at.is_some_and(|moment| moment.elapsed() < RESTORED_WITHIN))
    }

    fn known_farm(&self) -> MutexGuard<'_, KnownFarm> {
        // Every write replaces the whole value, so a poisoned lock holds a valid one.
        self.farm.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a call that may have been started may run again. A page cannot affect anything outside
/// itself, and its state died with it. The effects of a container remain.
fn is_repeatable(spec: &ContractSpec) -> bool {
    spec.engine == EngineKind::Javascript || spec.idempotent
}
