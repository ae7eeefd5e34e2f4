//! A farm for one test: a Redis, apis and workers that share nothing with other tests.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use redis_servers::Kind;
use tempfile::TempDir;

use super::client::Client;
use super::process::Process;
use super::processes::{self, ProcessInfo};
use super::redis_server::RedisServer;
use super::wait::{self, DEFAULT_LIMIT};
use super::{leftovers, programs};

/// The configuration of a farm; see [`Farm::builder`].
pub(crate) struct Builder {
    apis: usize,
    workers: usize,
    prefix: String,
    programs: PathBuf,
    env: Vec<(String, String)>,
    redis: Option<Kind>,
}

impl Builder {
    /// How Redis is run; one server by default.
    pub(crate) fn redis(self, kind: Kind) -> Self {
        Self {
            redis: Some(kind),
            ..self
        }
    }

    /// The number of apis; 1 by default.
    pub(crate) fn apis(self, apis: usize) -> Self {
        Self { apis, ..self }
    }

    /// The number of workers; 1 by default.
    pub(crate) fn workers(self, workers: usize) -> Self {
        Self { workers, ..self }
    }

    /// The prefix of every Redis key of the farm.
    pub(crate) fn prefix(self, prefix: &str) -> Self {
        Self {
            prefix: prefix.to_owned(),
            ..self
        }
    }

    /// Starts the programs in this folder, which may be of another version.
    pub(crate) fn programs(self, programs: &Path) -> Self {
        Self {
            programs: programs.to_owned(),
            ..self
        }
    }

    /// Sets an environment variable for every program.
    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_string()));
        self
    }

    /// Starts everything and waits until the farm can serve.
    pub(crate) async fn start(self) -> Farm {
        let folder = TempDir::with_prefix("execution-e2e-").expect("a folder can be made");
        // The browsers run as another user, who must be able to reach the profiles.
        let profiles = folder.path().join("profiles");
        fs::create_dir(&profiles).expect("the farm's folder can be written");
        open_to_all(folder.path(), 0o755);
        open_to_all(&profiles, 0o1777);
        let redis = match self.redis {
            Some(kind) => RedisServer::of_kind(kind).await,
            None => RedisServer::start(folder.path()).await,
        };
        let mut farm = Farm {
            redis,
            apis: Vec::new(),
            clients: Vec::new(),
            workers: Vec::new(),
            prefix: self.prefix,
            programs: self.programs,
            env: self.env,
            profiles,
            folder,
            ended: false,
        };
        for _ in 0..self.apis {
            farm.spawn_api(&[]);
        }
        for _ in 0..self.workers {
            farm.spawn_worker(&[]);
        }
        farm.serves(self.workers).await;
        farm
    }
}

fn open_to_all(folder: &Path, mode: u32) {
    fs::set_permissions(folder, Permissions::from_mode(mode)).expect("an own folder can be opened");
}

/// A running farm. End it with [`Farm::stop`].
pub(crate) struct Farm {
    pub(crate) redis: RedisServer,
    pub(crate) apis: Vec<Process>,
    /// One client for each api.
    pub(crate) clients: Vec<Client>,
    pub(crate) workers: Vec<Process>,
    prefix: String,
    programs: PathBuf,
    env: Vec<(String, String)>,
    profiles: PathBuf,
    folder: TempDir,
    ended: bool,
}

impl Farm {
    /// A farm of one api and one worker, unless configured otherwise.
    pub(crate) fn builder() -> Builder {
        Builder {
            apis: 1,
            workers: 1,
            prefix: "exec:".to_owned(),
            programs: programs::folder(),
            env: Vec::new(),
            redis: None,
        }
    }

    /// A farm of one api and one worker.
    pub(crate) async fn start() -> Self {
        Self::builder().start().await
    }

    /// A client of the first api.
    pub(crate) fn client(&self) -> &Client {
        &self.clients[0]
    }

    /// The folder of all files that the farm writes.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The prefix of every Redis key.
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Starts one more api, with extra environment variables.
    pub(crate) fn spawn_api(&mut self, env: &[(&str, &str)]) {
        let port = programs::free_port();
        let name = format!("api-{}", self.apis.len());
        self.apis.push(self.api_on(port, &name, env));
        self.clients.push(Client::new(port));
    }

    fn api_on(&self, port: u16, name: &str, env: &[(&str, &str)]) -> Process {
        let mut command = programs::api_in(&self.programs);
        command.env("EXECUTION_API_PORT", port.to_string());
        self.spawn(name, command, env)
    }

    /// Ends an api, and starts another one on its port.
    pub(crate) async fn replace_api(&mut self, number: usize) {
        self.apis[number].terminate().await;
        let client = self.clients[number].clone();
        let name = format!("{}-next", self.apis[number].name());
        self.apis[number] = self.api_on(client.port(), &name, &[]);
        self.api_answers(&client).await;
    }

    /// Programs that start from now on are those in this folder.
    pub(crate) fn use_programs(&mut self, programs: &Path) {
        programs.clone_into(&mut self.programs);
    }

    /// Starts one more worker, with extra environment variables.
    pub(crate) fn spawn_worker(&mut self, env: &[(&str, &str)]) {
        let name = format!("worker-{}", self.workers.len());
        let worker = self.spawn(&name, programs::worker_in(&self.programs), env);
        self.workers.push(worker);
    }

    fn spawn(&self, name: &str, mut command: Command, env: &[(&str, &str)]) -> Process {
        command
            .envs(self.redis.env())
            .env("REDIS_PREFIX", &self.prefix)
            .env("TMPDIR", &self.profiles)
            .env("RUST_LOG", "info")
            // Features that a test does not need are off, so that they cannot affect it.
            .env("WORKER_ENGINES", "javascript")
            .env("CHROMIUM_CGROUP_MB", "0")
            .env("NO_COLOR", "1")
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .envs(env.iter().copied());
        Process::start(name, command, self.folder.path())
    }

    /// Starts one more worker and waits until it has registered.
    pub(crate) async fn add_worker(&mut self) {
        let workers = self.redis.workers(&self.prefix).await.len() + 1;
        self.spawn_worker(&[]);
        self.serves(workers).await;
    }

    /// Restarts Redis on the same port, without data.
    pub(crate) async fn restart_redis(&mut self) {
        self.redis.process().kill().await;
        let port = self.redis.port();
        self.redis = RedisServer::start_on(port, "noeviction", self.folder.path()).await;
    }

    /// Waits until `workers` have registered and every api reports that it can serve.
    async fn serves(&mut self, workers: usize) {
        wait::until_true("the workers to register", DEFAULT_LIMIT, async || {
            self.all_run();
            self.redis.workers(&self.prefix).await.len() == workers
        })
        .await;
        // Without a worker an api says that it can run nothing. It is recovering while it waits for
        // a worker that the test has killed.
        let expected: &[&str] = match workers {
            0 => &["unavailable"],
            _ => &["ready", "recovering"],
        };
        wait::until_true("the apis to serve", DEFAULT_LIMIT, async || {
            self.all_run();
            for client in &self.clients {
                let status = client.farm_status().await.unwrap_or_default();
                if !expected.contains(&status.as_str()) {
                    return false;
                }
            }
            true
        })
        .await;
    }

    /// Fails if a program has ended without a signal from the test.
    pub(crate) fn all_run(&mut self) {
        for process in self.apis.iter_mut().chain(&mut self.workers) {
            if let Some(status) = process.ended_without_signal() {
                panic!("{} ended early: {status}", process.name());
            }
        }
    }

    /// The browsers of one worker.
    pub(crate) fn browsers(&self, worker: usize) -> Vec<ProcessInfo> {
        let mut all = processes::descendants(self.workers[worker].pid());
        all.retain(ProcessInfo::is_browser);
        all
    }

    /// The processes of one worker that run pages.
    pub(crate) fn renderers(&self, worker: usize) -> Vec<ProcessInfo> {
        let mut all = processes::descendants(self.workers[worker].pid());
        all.retain(ProcessInfo::is_renderer);
        all
    }

    /// The names of the workers' files in the folder for temporary files.
    pub(crate) fn profiles(&self) -> Vec<String> {
        leftovers::files(&self.profiles)
    }

    /// Unloads all contracts, ends all programs, and fails if anything is left.
    pub(crate) async fn stop(mut self) {
        if let Some(client) = self.clients.first() {
            for contract in client.contracts().await {
                let address = contract["contractAddress"]
                    .as_str()
                    .expect("an address is text");
                client.unload(address).await.is_no_content();
            }
        }
        let seen = self.end_programs().await;
        let keys = leftovers::keys(&self.redis, &self.prefix).await;
        assert!(keys.is_empty(), "keys are left: {keys:?}");
        self.end(&seen).await;
    }

    /// The same as [`Farm::stop`], but after a failure that may leave keys. A killed worker cannot
    /// delete its own keys, and a contract that cannot be reached cannot be unloaded.
    pub(crate) async fn stop_ignoring_keys(mut self) {
        let seen = self.end_programs().await;
        self.end(&seen).await;
    }

    /// Ends the programs that still run. Returns the processes that belonged to the farm before.
    async fn end_programs(&mut self) -> Vec<ProcessInfo> {
        let seen = processes::of_folder(self.folder.path());
        for process in self.workers.iter_mut().chain(&mut self.apis) {
            if process.ended().is_none() {
                process.terminate().await;
            }
        }
        seen
    }

    async fn end(&mut self, seen: &[ProcessInfo]) {
        self.redis.terminate().await;
        let processes = leftovers::processes(seen, self.folder.path());
        assert!(processes.is_empty(), "processes are left: {processes:#?}");
        let files = self.profiles();
        assert!(files.is_empty(), "files are left: {files:?}");
        self.ended = true;
    }
}

impl Drop for Farm {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        for process in processes::of_folder(self.folder.path()) {
            process.kill();
        }
        if std::thread::panicking() {
            for process in self.apis.iter().chain(&self.workers) {
                eprintln!("--- {}\n{}", process.name(), process.log());
            }
            eprintln!("--- redis\n{}", self.redis.log());
        } else {
            panic!("a farm was dropped without a call of stop()");
        }
    }
}
