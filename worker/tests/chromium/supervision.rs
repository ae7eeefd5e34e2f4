//! Panics in the tasks of both engines, in a whole worker: it must end, with an error, instead of
//! staying in the farm without being able to start a sandbox.
//!
//! The panics are real, and in the real tasks: the test's subscriber of log messages panics at one
//! message, in the task that logs it.

use std::fmt::{Debug, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::get;
use execution_worker::chromium::ChromiumConfig;
use execution_worker::config::Config;
use execution_worker::docker::DockerConfig;
use execution_worker::sandbox::CallLimits;
use futures::future::{Either, select};
use shared::queue::{Queue, QueueError, ReaperConfig, RedisConfig};
use shared::service::config::{Env, Reader};
use shared::service::lifecycle::Lifecycle;
use shared::service::telemetry::traces::TraceConfig;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::time::timeout;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use crate::driver::{PATIENCE, config, eventually};
use crate::own_engine::{OwnEngine, Process};

/// Panics at this log message.
struct PanicAt(&'static str);

impl Subscriber for PanicAt {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut message = Message::default();
        event.record(&mut message);
        assert!(!message.0.contains(self.0), "on purpose: {}", message.0);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[derive(Default)]
struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            _ = write!(self.0, "{value:?}");
        }
    }
}

/// A Redis on a Unix socket. It ends when this is dropped.
struct Redis {
    server: Child,
    config: RedisConfig,
}

impl Redis {
    fn start(folder: &Path) -> Self {
        let socket = folder.join("redis.sock");
        let server = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--appendonly", "no"])
            .arg("--unixsocket")
            .arg(&socket)
            .arg("--dir")
            .arg(folder)
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed by scripts/setup");
        let config = RedisConfig {
            files: shared::queue::RedisFiles::default(),
            url: format!("redis+unix://{}", socket.display()).into(),
            prefix: "test:".to_owned(),
        };
        Self { server, config }
    }

    async fn queue(&self) -> Queue {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let connected: Result<Queue, QueueError> = Queue::connect(&self.config).await;
            match connected {
                Ok(queue) => return queue,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
        }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        _ = self.server.kill();
        _ = self.server.wait();
    }
}

/// A worker with its own Redis and engine, in this process.
struct WholeWorker {
    redis: Redis,
    /// The path by which the guard of its browser is started.
    program: PathBuf,
    life: Lifecycle,
    config: Config,
    _folder: TempDir,
}

impl WholeWorker {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("worker");
        symlink(config().guard, &program).unwrap();
        let redis = Redis::start(folder.path());
        let config = Config {
            redis: redis.config.clone(),
            host: "127.0.0.1".to_owned(),
            port: None,
            metrics_by_contract: false,
            capacity: 4,
            queue_limit: 16,
            shutdown_grace: PATIENCE,
            reaper: ReaperConfig {
                grace: Duration::ZERO,
                quarantine: PATIENCE,
            },
            traces: TraceConfig::default(),
            chromium: None,
            docker: None,
        };
        Self {
            redis,
            program,
            life: Lifecycle::new(),
            config,
            _folder: folder,
        }
    }

    fn with_chromium(chromium: ChromiumConfig) -> Self {
        let mut worker = Self::new();
        worker.config.chromium = Some(ChromiumConfig {
            guard: worker.program.clone(),
            ..chromium
        });
        worker
    }

    fn with_docker(host: String) -> Self {
        let calls = CallLimits {
            time: PATIENCE,
            result: 1024,
        };
        let defaults = &mut Reader::new(Env::table(|_| None));
        let mut worker = Self::new();
        worker.config.docker = Some(DockerConfig {
            host,
            ..DockerConfig::read(defaults, calls)
        });
        worker
    }

    /// Runs the worker, which must end by itself with an error, leave the farm, and leave no
    /// process. `disturb` runs once it is ready.
    async fn ends(self, disturb: impl AsyncFnOnce(&Path)) {
        let queue = self.redis.queue().await;
        let running = execution_worker::run(self.config, self.life.clone());
        let disturbing = async {
            while queue.workers().await.unwrap().is_empty() && !self.life.is_stopping() {
                tokio::task::yield_now().await;
            }
            disturb(&self.program).await;
        };
        let (running, disturbing) = (pin!(running), pin!(disturbing));
        let ended = timeout(PATIENCE * 4, async {
            match select(running, disturbing).await {
                Either::Left((ended, _)) => ended,
                Either::Right(((), running)) => running.await,
            }
        });
        ended.await.expect("the worker ends").unwrap();
        assert!(self.life.has_failed(), "the program exits with an error");
        let workers = queue.workers().await.unwrap();
        assert!(workers.is_empty(), "still in the farm: {workers:?}");
        // A guard ends its browser when it has lost its worker.
        let is_left = || OwnEngine::find_guard(&self.program).is_some();
        eventually("its browser is gone", || !is_left()).await;
    }
}

async fn kill_browser(program: &Path) {
    let guard = OwnEngine::find_guard(program).expect("the browser runs");
    let mut tree = Process::tree(guard.pid).into_iter();
    let browser = tree.find(|seen| seen.parent == guard.pid);
    browser.expect("the guard has a browser").kill();
}

/// On one thread, so that the subscriber gets the messages of every task of the worker.
#[tokio::test]
async fn a_panic_while_a_browser_is_replaced_ends_the_worker() {
    let worker = WholeWorker::with_chromium(config());
    let _panics = tracing::subscriber::set_default(PanicAt("browser died; restarting it"));
    Box::pin(worker.ends(kill_browser)).await;
}

/// A browser that ends while many pages are created in it.
#[tokio::test]
async fn a_panic_while_spare_pages_are_created_ends_the_worker() {
    let worker = WholeWorker::with_chromium(ChromiumConfig {
        // More than are created before the worker is ready.
        spare_pages: 500,
        ..config()
    });
    let _panics = tracing::subscriber::set_default(PanicAt("page could not be created"));
    Box::pin(worker.ends(kill_browser)).await;
}

/// A daemon that answers everything and closes each stream of events at once.
#[tokio::test]
async fn a_panic_while_docker_s_events_are_followed_ends_the_worker() {
    let version = r#"{"ApiVersion":"1.47","MinAPIVersion":"1.24","Version":"27.0.0"}"#;
    let daemon = Router::new()
        .route("/version", get(async move || version))
        .route("/{version}/events", get(async || ""))
        .fallback(async || "[]");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = format!("http://{}", listener.local_addr().unwrap());
    let serving = tokio::spawn(axum::serve(listener, daemon).into_future());
    let worker = WholeWorker::with_docker(host);
    let _panics = tracing::subscriber::set_default(PanicAt("docker event stream ended"));
    Box::pin(worker.ends(async |_: &Path| ())).await;
    serving.abort();
}
