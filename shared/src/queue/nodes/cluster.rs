//! A Redis Cluster: its nodes, and which of them serves which slot.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use redis::cluster_routing::Slot;
use redis::{RedisError, RedisResult, Value};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout, timeout_at};

use super::Node;
use super::address::{Address, Endpoint};
use super::connector::Connector;
use super::slots::{Range, View};
use crate::queue::timing::{CONNECT_TIMEOUT, OTHER_VIEWS_WITHIN, REFRESH_PAUSE};

/// The nodes of a cluster. Cheap to clone.
#[derive(Debug, Clone)]
pub(in crate::queue) struct Cluster(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    address: Address,
    seeds: Vec<Endpoint>,
    map: RwLock<Map>,
    /// When the map was last read. Locked while it is being read.
    refreshed: Mutex<Option<Instant>>,
}

/// What is known of the cluster.
#[derive(Debug, Default)]
struct Map {
    /// Nodes that serve slots, or to which a command was redirected.
    nodes: HashMap<Endpoint, Arc<Node>>,
    owners: HashMap<Slot, Arc<Node>>,
}

impl Cluster {
    /// Finds the nodes. Fails if no seed knows them.
    pub(super) async fn connect(address: &Address, seeds: &[Endpoint]) -> RedisResult<Self> {
        let cluster = Self(Arc::new(Inner {
            address: address.clone(),
            seeds: seeds.to_vec(),
            map: RwLock::default(),
            refreshed: Mutex::default(),
        }));
        cluster.read_map().await?;
        Ok(cluster)
    }

    /// The node that serves a slot. None if no node does, as far as is known.
    pub(super) fn owner(&self, slot: Slot) -> Option<Arc<Node>> {
        self.map().owners.get(&slot).cloned()
    }

    /// A node that is connected, else any other.
    pub(super) fn any(&self) -> Option<Arc<Node>> {
        let primaries = self.primaries();
        let connected = primaries.iter().find(|node| node.peek().is_some());
        connected.or(primaries.first()).cloned()
    }

    /// The nodes that serve slots, by name.
    pub(super) fn primaries(&self) -> Vec<Arc<Node>> {
        let mut primaries: Vec<_> = self.map().nodes.values().cloned().collect();
        primaries.sort_by(|one, other| one.name().cmp(other.name()));
        primaries
    }

    /// The node at an endpoint.
    pub(super) fn node(&self, at: &Endpoint) -> Arc<Node> {
        self.0.node(&mut self.map_mut(), at)
    }

    /// Notes that a slot is now served by another node.
    pub(super) fn moved(&self, slot: Slot, to: &Endpoint) {
        let mut map = self.map_mut();
        let node = self.0.node(&mut map, to);
        map.owners.insert(slot, node);
    }

    /// Reads again which node serves which slot, unless that was just done or is being done.
    pub(super) async fn refresh(&self) {
        let Ok(mut refreshed) = self.0.refreshed.try_lock() else {
            return;
        };
        if refreshed.is_some_and(|last| last.elapsed() < REFRESH_PAUSE) {
            return;
        }
        if let Err(error) = self.read_map().await {
            tracing::debug!(%error, "cannot read the slots of the cluster");
        }
        *refreshed = Some(Instant::now());
    }

    /// Asks all nodes at once, because some of them may be away, and takes the answer of the one
    /// that knows most.
    async fn read_map(&self) -> RedisResult<()> {
        let mut known: BTreeSet<_> = self.map().nodes.keys().cloned().collect();
        known.extend(self.0.seeds.iter().cloned());
        let asked = known
            .iter()
            .map(|endpoint| timeout(CONNECT_TIMEOUT, self.ask(endpoint)));
        let mut asked: FuturesUnordered<_> = asked.collect();
        let mut failure: Option<RedisError> = None;
        let mut best: Option<View> = None;
        let mut until = Instant::now() + CONNECT_TIMEOUT;
        while let Ok(Some(answer)) = timeout_at(until, asked.next()).await {
            match answer {
                Ok(Ok(view)) if !view.ranges.is_empty() => {
                    until = until.min(Instant::now() + OTHER_VIEWS_WITHIN);
                    let knows_more = |best: &View| view.rank() > best.rank();
                    if best.as_ref().is_none_or(knows_more) {
                        best = Some(view);
                    }
                }
                Ok(Err(error)) => failure = Some(error),
                // It serves nothing, or does not answer.
                Ok(Ok(_)) | Err(_) => {}
            }
        }
        let nobody = || std::io::Error::other("no node of the cluster serves a slot").into();
        let best = best.ok_or_else(|| failure.unwrap_or_else(nobody))?;
        self.apply(&best.ranges);
        Ok(())
    }

    /// Nodes that serve nothing any more are forgotten.
    fn apply(&self, ranges: &[Range]) {
        let mut map = self.map_mut();
        let nodes = ranges
            .iter()
            .map(|range| self.0.node(&mut map, &range.primary));
        let nodes: Vec<_> = nodes.collect();
        drop(map);
        // Thousands of slots: nobody waits for the lock meanwhile.
        let of_range = |(range, node): (&Range, Arc<Node>)| {
            range.slots().map(move |slot| (slot, node.clone()))
        };
        let mut owners = ranges.iter().zip(nodes).flat_map(of_range).collect();
        let mut map = self.map_mut();
        std::mem::swap(&mut map.owners, &mut owners);
        map.nodes
            .retain(|endpoint, _| ranges.iter().any(|range| range.primary == *endpoint));
        drop(map);
    }

    async fn ask(&self, endpoint: &Endpoint) -> RedisResult<View> {
        let connected = self.map().nodes.get(endpoint).and_then(|node| node.peek());
        let mut connection = if let Some(connection) = connected {
            connection
        } else {
            let connector = Connector::to(&self.0.address, endpoint);
            connector.connect(CONNECT_TIMEOUT).await?
        };
        let mut questions = redis::pipe();
        questions.cmd("CLUSTER").arg("INFO");
        questions.cmd("CLUSTER").arg("SLOTS");
        let (info, slots): (String, Value) = questions.query_async(&mut connection).await?;
        Ok(View::parse(&info, &slots, endpoint))
    }

    fn map(&self) -> RwLockReadGuard<'_, Map> {
        // No code that holds the lock can panic half-way.
        self.0.map.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn map_mut(&self) -> RwLockWriteGuard<'_, Map> {
        self.0.map.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn node(&self, map: &mut Map, at: &Endpoint) -> Arc<Node> {
        let make = || Arc::new(Node::new(Connector::to(&self.address, at)));
        map.nodes.entry(at.clone()).or_insert_with(make).clone()
    }
}
