//! The servers of Redis one by one: which of them has which keys, and whether each answers.
//!
//! There is one server, or one for each part of a cluster. A process that knows which server a
//! request needs can refuse it at once while that server is away, and serve all others.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{OptionFuture, join_all, try_join_all};

use super::redis_info::Memory;
use super::timing::ANSWERS_WITHIN;
use super::{Queue, QueueError};
use crate::protocol::id::{ApiId, ContractAddress, WorkerId};
use crate::protocol::job::{ContractSpec, EngineKind};

/// Ids that are tried to find one on another server. With one server they are all on the same.
const EPOCHS: usize = 64;

/// The name of a server: its host and port, or the name under which sentinels watch it. Cheap to
/// clone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServerName(Arc<str>);

impl From<&str> for ServerName {
    fn from(name: &str) -> Self {
        Self(name.into())
    }
}

impl fmt::Display for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a probe of one server found.
#[derive(Debug, Clone)]
pub struct ServerProbe {
    /// The server.
    pub server: ServerName,
    /// Whether it answered in time.
    pub answers: bool,
    /// Its memory, if that was measured.
    pub memory: Option<Memory>,
}

impl Queue {
    /// Probes all servers at once, for `limit` at most. If one does not answer, it also finds out
    /// whether another one has taken its place.
    pub async fn probe_servers(&self, limit: Duration, measures: bool) -> Vec<ServerProbe> {
        let servers = self.servers();
        let probes = servers.iter().map(async |server| {
            let probing = async {
                // Of one server, the measurement is as good as a check.
                if !measures || self.is_cluster() {
                    self.check(server).await?;
                }
                let measuring = measures.then(|| self.memory_of(server));
                OptionFuture::from(measuring).await.transpose()
            };
            let found = tokio::time::timeout(limit, probing).await;
            ServerProbe {
                server: server.name().clone(),
                answers: matches!(found, Ok(Ok(_))),
                memory: found.ok().and_then(Result::ok).flatten(),
            }
        });
        let probes = join_all(probes).await;
        if probes.iter().any(|probe| !probe.answers) {
            // A look that is not finished in time is repeated after the next probe.
            _ = tokio::time::timeout(limit, self.find_servers()).await;
        }
        probes
    }

    /// The servers that answer soon.
    pub(super) async fn servers_that_answer(&self) -> Vec<ServerName> {
        let probes = self.probe_servers(ANSWERS_WITHIN, false).await.into_iter();
        let answers = probes.filter(|probe| probe.answers);
        answers.map(|probe| probe.server).collect()
    }

    /// Checks that Redis answers: every server of it.
    pub async fn ping(&self) -> Result<(), QueueError> {
        let servers = self.servers();
        try_join_all(servers.iter().map(|server| self.check(server))).await?;
        Ok(())
    }

    /// The names of all servers, sorted.
    pub fn server_names(&self) -> Vec<ServerName> {
        let servers = self.servers();
        servers.iter().map(|server| server.name().clone()).collect()
    }

    /// The server that has the record of a contract. None if no server is known to have it.
    pub fn server_of_contract(&self, address: &ContractAddress) -> Option<ServerName> {
        self.server_name(|| self.keys().contract(address))
    }

    /// The server that has the inbox of a worker.
    pub fn server_of_inbox(&self, worker: WorkerId) -> Option<ServerName> {
        self.server_name(|| self.keys().inbox(worker))
    }

    /// The next id of a worker whose inbox is on another server of a cluster. None if there is
    /// none.
    pub fn id_elsewhere(&self, worker: WorkerId) -> Option<WorkerId> {
        let away = self.server_of_inbox(worker);
        let next = |id: &WorkerId| Some(id.next_epoch());
        let ids = std::iter::successors(Some(worker.next_epoch()), next).take(EPOCHS);
        let mut elsewhere = ids.filter(|id| {
            let server = self.server_of_inbox(*id);
            server.is_some() && server != away
        });
        elsewhere.next()
    }

    /// The server that has the reply stream of an api.
    pub fn server_of_replies(&self, api: ApiId) -> Option<ServerName> {
        self.server_name(|| self.keys().replies(api))
    }

    /// The server that has the placement stream of an engine.
    pub fn server_of_placement(&self, engine: EngineKind) -> Option<ServerName> {
        self.server_name(|| self.keys().placement(engine))
    }

    /// The servers that have what a load needs.
    pub fn servers_of_load(
        &self,
        address: &ContractAddress,
        spec: &ContractSpec,
    ) -> [Option<ServerName>; 7] {
        let keys = self.keys();
        [
            keys.contract(address),
            keys.blob(&spec.digest),
            keys.placement(spec.engine),
            keys.workers(),
            keys.contracts(),
            keys.blobs(),
            keys.executables(),
        ]
        .map(|key| self.server_name(|| key))
    }
}
