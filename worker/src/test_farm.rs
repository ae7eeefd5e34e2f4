//! A Redis for one unit test, and workers without engines on it, for tests of ownership.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use secrecy::ExposeSecret;
use shared::protocol::id::{ContractAddress, WorkerId};
use shared::protocol::job::{ContractSpec, EngineKind, Limits, Load};
use shared::queue::ownership::{LoadId, Sandbox, Standing};
use shared::queue::{Queue, RedisConfig};
use shared::service::lifecycle::Lifecycle;
use shared::service::moment::Moment;
use shared::service::telemetry::metrics::Registry;
use shared::service::telemetry::traces::{TraceConfig, Tracer};
use tempfile::TempDir;
use tokio::sync::Notify;
use tokio_util::task::TaskTracker;

use crate::cancelled::CancelledJobs;
use crate::contracts::{ContractHandle, Contracts, TaskEnds, Tenure};
use crate::fence::Fence;
use crate::identity::Identity;
use crate::log_writer::LogWriter;
use crate::metrics::Metrics;
use crate::settle::Settler;
use crate::worker::{CatchUpRequests, Worker};

/// Longer than any step takes on a slow and busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A Redis. It ends when this is dropped.
pub(crate) struct TestFarm {
    server: Child,
    config: RedisConfig,
    _folder: TempDir,
}

impl TestFarm {
    /// Starts a server that listens on a Unix socket only.
    pub(crate) fn start() -> Self {
        let folder = TempDir::new().unwrap();
        let socket = folder.path().join("redis.sock");
        let server = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--appendonly", "no"])
            .arg("--unixsocket")
            .arg(&socket)
            .arg("--dir")
            .arg(folder.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed by scripts/setup");
        let config = RedisConfig {
            files: shared::queue::RedisFiles::default(),
            url: format!("redis+unix://{}", socket.display()).into(),
            prefix: "test:".to_owned(),
        };
        Self {
            server,
            config,
            _folder: folder,
        }
    }

    /// Connects as soon as the server answers.
    pub(crate) async fn queue(&self) -> Queue {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match Queue::connect(&self.config).await {
                Ok(queue) => return queue,
                Err(error) => assert!(Instant::now() < deadline, "Redis does not answer: {error}"),
            }
        }
    }

    /// Sends a command and returns the answer.
    pub(crate) async fn command<T: redis::FromRedisValue>(&self, parts: &[&str]) -> T {
        let client = redis::Client::open(self.config.url.expose_secret()).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        let (name, arguments) = parts.split_first().unwrap();
        let command = redis::cmd(name).arg(arguments).to_owned();
        command.query_async(&mut connection).await.unwrap()
    }

    /// A registered worker without engines, which may own contracts.
    pub(crate) async fn worker(&self) -> Arc<Worker> {
        let queue = self.queue().await;
        let life = Lifecycle::new();
        let identity = Arc::new(Identity::new(WorkerId::random()));
        let (settler, _) = Settler::new(queue.clone(), identity.clone(), life.clone());
        let worker = Arc::new(Worker {
            identity,
            queue,
            contracts: Contracts::new(10, 10),
            settler,
            logs: LogWriter::new().0,
            life,
            comparison: Notify::new(),
            reconnected: Notify::new(),
            catch_up: CatchUpRequests::default(),
            placements: TaskTracker::new(),
            fence: Arc::new(Fence::new()),
            cancelled: CancelledJobs::default(),
            metrics: Metrics::new(Registry::default(), false),
            tracer: Tracer::start(&TraceConfig::default(), "test").unwrap(),
            quarantine_ms: 60_000,
            chromium: None,
            docker: None,
        });
        let id = worker.identity.usable().await;
        assert!(worker.queue.register_worker(id).await.unwrap());
        worker.announce().await;
        worker
    }

    /// Fences a worker id, as a reaper does when its lease has lapsed.
    pub(crate) async fn fence(&self, worker: &Worker, id: WorkerId) {
        let keys = worker.queue.keys();
        let (inbox, dead) = (keys.inbox(id), keys.dead_inbox(id));
        self.command::<()>(&["RENAME", &inbox, &dead]).await;
        self.command::<()>(&["DEL", &keys.lease(id)]).await;
    }

    /// What a contract's record says.
    pub(crate) async fn standing(&self, worker: &Worker, address: &ContractAddress) -> Standing {
        worker.queue.ownership(address).await.unwrap().standing
    }
}

impl Drop for TestFarm {
    fn drop(&mut self) {
        _ = self.server.kill();
        _ = self.server.wait();
    }
}

pub(crate) fn address(text: &str) -> ContractAddress {
    text.parse().unwrap()
}

pub(crate) fn spec() -> ContractSpec {
    ContractSpec {
        engine: EngineKind::Javascript,
        digest: "1".to_owned(),
        limits: Limits::default(),
        idempotent: false,
        replicas: 1,
        keep_logs: false,
    }
}

/// `worker` claims a contract. What it holds is in its table; the load is not recorded yet.
pub(crate) async fn claim(worker: &Worker, text: &str) -> (Arc<ContractHandle>, TaskEnds) {
    // Nothing renews the lease in most tests.
    worker.fence.lease_renewed(Moment::now());
    let load = Load {
        address: address(text),
        spec: spec(),
        seen: None,
    };
    let tenure = Tenure::claim(worker, &load).await.unwrap();
    let tenure = tenure.expect("the claim is granted");
    let permit = worker.contracts.capacity_permit().await;
    worker
        .contracts
        .insert(&load.address, load.spec, tenure, permit)
}

/// `worker` loads a contract, which enters service. Its task has ended, so that it can be closed.
pub(crate) async fn own(worker: &Worker, text: &str) -> Arc<ContractHandle> {
    let (handle, _) = claim(worker, text).await;
    let tenure = &handle.tenure;
    assert!(
        tenure
            .record_load(&spec(), &Sandbox::default())
            .await
            .unwrap()
    );
    assert!(tenure.enter_service(worker).await.unwrap());
    handle
}

/// A worker takes a contract and loads it.
pub(crate) async fn take(queue: &Queue, text: &str, thief: WorkerId) -> u64 {
    let address = address(text);
    let expected = queue.ownership(&address).await.unwrap().standing;
    let claimed = queue.claim(&address, expected, thief, Some(&spec())).await;
    let generation = claimed.unwrap().done().expect("the claim is granted");
    let load = LoadId::new(generation);
    let standing = Standing::of(thief, generation);
    let sandbox = Sandbox::default();
    let recorded = queue
        .record_load(&address, standing, (&load, &spec()), &sandbox)
        .await;
    assert!(recorded.unwrap().done().is_some());
    generation
}

/// Waits until a condition holds.
pub(crate) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
