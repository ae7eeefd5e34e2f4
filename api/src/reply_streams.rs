//! The reply streams of this api: one on each server of Redis.
//!
//! A worker's replies go to the stream on the server of its inbox. So a server that is away takes
//! only the replies of its own workers with it, and the others reach this api.

use std::sync::{Arc, PoisonError, RwLock};

use futures::future::join_all;
use shared::protocol::id::{ApiId, ContractAddress, WorkerId};
use shared::protocol::job::EngineKind;
use shared::queue::timing::{HEARTBEAT, HEARTBEAT_RETRY};
use shared::queue::{Queue, QueueError, ServerName};
use shared::service::lifecycle::Lifecycle;

use crate::reply_router::{self, ReaderHealth, Waiters};

/// Ids that are tried to find one whose stream is on a given server. Of a hundred servers with
/// equal shares, all are missed with a probability below 10^-17.
const TRIES: usize = 4_000;

/// Streams at most. Slots that move to other servers leave some of them on the same server. What
/// has no stream on its own server then uses the first one.
const STREAMS: usize = 256;

/// The reply streams. Cheap to clone.
#[derive(Clone)]
pub(crate) struct ReplyStreams(Arc<Inner>);

struct Inner {
    queue: Queue,
    waiters: Arc<Waiters>,
    health: ReaderHealth,
    life: Lifecycle,
    /// Never empty once they are open.
    streams: RwLock<Vec<ApiId>>,
}

impl ReplyStreams {
    /// Creates a stream on each server that answers. Fails if there is none.
    pub(crate) async fn open(
        queue: Queue,
        waiters: Arc<Waiters>,
        health: ReaderHealth,
        life: Lifecycle,
    ) -> Result<Self, QueueError> {
        let streams = Self(Arc::new(Inner {
            queue,
            waiters,
            health,
            life,
            streams: RwLock::default(),
        }));
        let added = streams.add_missing().await;
        if streams.all().is_empty() {
            added?;
        }
        Ok(streams)
    }

    /// The stream for the replies of a worker.
    pub(crate) fn for_worker(&self, worker: WorkerId) -> ApiId {
        self.on(|queue| queue.server_of_inbox(worker))
    }

    /// The stream for the replies to loads that any worker may take.
    pub(crate) fn for_loads(&self, engine: EngineKind) -> ApiId {
        self.on(|queue| queue.server_of_placement(engine))
    }

    /// The stream on the server with the record of a contract.
    pub(crate) fn for_contract(&self, contract: &ContractAddress) -> ApiId {
        self.on(|queue| queue.server_of_contract(contract))
    }

    fn all(&self) -> Vec<ApiId> {
        let streams = self.0.streams.read();
        streams.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Keeps the streams until the process stops: without a heartbeat, each expires.
    pub(crate) async fn run(self) {
        let life = self.0.life.clone();
        let mut interval = tokio::time::interval(HEARTBEAT);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = interval.tick() => {}
                () = life.stopping() => return,
            }
            let beats = self.all().into_iter().map(|stream| self.beat(stream));
            if join_all(beats).await.contains(&false) {
                interval.reset_after(HEARTBEAT_RETRY);
            }
            if let Err(error) = self.add_missing().await {
                tracing::debug!(%error, "no reply stream on a server yet");
            }
        }
    }

    /// Removes the streams. Those that cannot be removed expire.
    pub(crate) async fn remove(&self) {
        let removing = self.all().into_iter().map(async |stream| {
            if let Err(error) = self.0.queue.remove_api(stream).await {
                tracing::warn!(%error, "cannot remove the keys of this api, they will expire");
            }
        });
        join_all(removing).await;
    }

    /// The stream on a server, or the first one while there is none.
    fn on(&self, server: impl FnOnce(&Queue) -> Option<ServerName>) -> ApiId {
        let streams = self.all();
        let [first, rest @ ..] = streams.as_slice() else {
            unreachable!("there is a first stream");
        };
        if rest.is_empty() {
            return *first;
        }
        let (queue, server) = (&self.0.queue, server(&self.0.queue));
        let found = streams
            .iter()
            .find(|stream| queue.server_of_replies(**stream) == server);
        *found.unwrap_or(first)
    }

    /// False if the heartbeat failed.
    async fn beat(&self, stream: ApiId) -> bool {
        match self.0.queue.api_heartbeat(stream).await {
            Ok(true) => true,
            Ok(false) => {
                // Redis has lost its data, including the jobs and replies in flight.
                let lost = self.0.waiters.lose(stream);
                tracing::warn!(lost, "reply stream was lost");
                true
            }
            Err(error) => {
                tracing::warn!(%error, "heartbeat failed");
                false
            }
        }
    }

    /// Creates a stream on each server without one: the server is new, or has taken the place of
    /// another one. Fails if one cannot be created.
    async fn add_missing(&self) -> Result<(), QueueError> {
        let mut ended = Ok(());
        for server in self.0.queue.server_names() {
            let streams = self.all();
            let on = |stream: &ApiId| self.0.queue.server_of_replies(*stream);
            let is_there = |stream: &ApiId| on(stream).as_ref() == Some(&server);
            if streams.len() >= STREAMS || streams.iter().any(is_there) {
                continue;
            }
            let mut ids = std::iter::repeat_with(ApiId::random).take(TRIES);
            // A server without slots has no keys.
            let Some(stream) = ids.find(is_there) else {
                continue;
            };
            match self.0.queue.api_heartbeat(stream).await {
                Ok(_) => self.add(stream),
                Err(error) => ended = Err(error),
            }
        }
        ended
    }

    fn add(&self, stream: ApiId) {
        let all = self.0.streams.write();
        all.unwrap_or_else(PoisonError::into_inner).push(stream);
        self.start_reader(stream);
    }

    fn start_reader(&self, stream: ApiId) {
        let Inner {
            queue,
            waiters,
            health,
            life,
            ..
        } = &*self.0;
        let reading = reply_router::read(
            queue.clone(),
            stream,
            waiters.clone(),
            health.clone(),
            life.clone(),
        );
        life.spawn("reply router", reading);
    }
}
