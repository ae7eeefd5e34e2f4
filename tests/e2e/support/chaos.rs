//! Faults that a test injects into the farm's processes and its Redis. Faults on the network
//! between them are in [`super::proxy`].

use std::time::Duration;

use nix::sys::signal::Signal;
use redis::{FromRedisValue, Value};
use reqwest::Method;

use super::client::{Client, try_send};
use super::farm::Farm;
use super::process::Process;
use super::processes::ProcessInfo;
use super::redis_server::RedisServer;
use super::wait::{self, DEFAULT_LIMIT};

/// A worker that has registered, and the id that it registered with.
#[derive(Debug, Clone)]
pub(crate) struct JoinedWorker {
    /// Its index in [`Farm::workers`].
    pub(crate) index: usize,
    /// The id that it registered with.
    pub(crate) id: String,
}

/// Stops a process without ending it (SIGSTOP). When this returns, none of its threads runs.
pub(crate) fn freeze(process: &mut Process) {
    process.signal(Signal::SIGSTOP);
    process.wait_until_stopped();
}

/// Resumes a stopped process (SIGCONT).
pub(crate) fn thaw(process: &mut Process) {
    process.signal(Signal::SIGCONT);
}

impl Farm {
    /// Starts one more worker and waits until it has registered.
    pub(crate) async fn join(&mut self) -> JoinedWorker {
        self.join_with(&[]).await
    }

    /// The same as [`Farm::join`], with extra environment variables.
    pub(crate) async fn join_with(&mut self, env: &[(&str, &str)]) -> JoinedWorker {
        let prefix = self.prefix().to_owned();
        let before = self.redis.workers(&prefix).await;
        self.spawn_worker(env);
        let id = wait::until("a worker to join", DEFAULT_LIMIT, async || {
            self.all_run();
            let now = self.redis.workers(&prefix).await;
            now.into_iter().find(|id| !before.contains(id))
        })
        .await;
        JoinedWorker {
            index: self.workers.len() - 1,
            id,
        }
    }

    /// Starts one more api with extra environment variables, and waits until it answers.
    pub(crate) async fn join_api_with(&mut self, env: &[(&str, &str)]) {
        self.spawn_api(env);
        let client = self.clients.last().expect("one was just added").clone();
        self.api_answers(&client).await;
    }

    /// Waits until an api answers.
    pub(crate) async fn api_answers(&mut self, client: &Client) {
        wait::until_true("an api to answer", DEFAULT_LIMIT, async || {
            self.all_run();
            let answer = try_send(client.request(Method::GET, "/healthz")).await;
            answer.is_ok_and(|answer| answer.status == 200)
        })
        .await;
    }

    /// From now on Redis writes every command to its append-only file.
    pub(crate) async fn enable_append_only_file(&self) {
        self.config_set("appendonly", "yes").await;
        wait::until_true("the append-only file", DEFAULT_LIMIT, async || {
            let info: String = self.redis_command(&["INFO", "persistence"]).await;
            [
                "aof_enabled:1",
                "aof_rewrite_in_progress:0",
                "aof_rewrite_scheduled:0",
            ]
            .iter()
            .all(|line| info.contains(line))
        })
        .await;
    }

    /// Restarts Redis on the same port with the data of its append-only file.
    pub(crate) async fn restart_redis_with_data(&mut self) {
        self.redis.process().kill().await;
        let port = self.redis.port();
        self.redis = RedisServer::start_with_data(port, self.folder()).await;
    }

    /// Sends one command to Redis.
    pub(crate) async fn redis_command<T: FromRedisValue>(&self, words: &[&str]) -> T {
        self.redis.command(words).await
    }

    /// `CONFIG SET`
    pub(crate) async fn config_set(&self, name: &str, value: &str) {
        self.redis_command::<()>(&["CONFIG", "SET", name, value])
            .await;
    }

    /// Closes every connection to Redis.
    pub(crate) async fn client_kill(&self) {
        for kind in ["normal", "pubsub"] {
            self.redis_command::<Value>(&["CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes"])
                .await;
        }
    }

    /// How many bytes Redis uses.
    pub(crate) async fn used_memory(&self) -> u64 {
        let used = self.info("memory", "used_memory").await;
        used.parse().expect("a number of bytes")
    }

    /// Waits until Redis has run for longer than `age`.
    pub(crate) async fn redis_is_older_than(&self, age: Duration) {
        wait::until_true("Redis to grow older", DEFAULT_LIMIT, async || {
            let uptime = self.info("server", "uptime_in_seconds").await;
            uptime
                .parse::<u64>()
                .is_ok_and(|seconds| seconds > age.as_secs())
        })
        .await;
    }

    async fn info(&self, section: &str, name: &str) -> String {
        let info: String = self.redis_command(&["INFO", section]).await;
        let value = info
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value
            .unwrap_or_else(|| panic!("no {name} in {info}"))
            .to_owned()
    }

    /// The number of entries in the inboxes of all workers.
    pub(crate) async fn backlog(&self) -> usize {
        let mut entries = 0;
        for worker in self.redis.workers(self.prefix()).await {
            let inbox = format!("{}{{w:{worker}}}:in", self.prefix());
            entries += self.redis_command::<usize>(&["XLEN", &inbox]).await;
        }
        entries
    }

    /// Deletes all cached scripts in Redis (`SCRIPT FLUSH`).
    pub(crate) async fn script_flush(&self) {
        self.redis_command::<()>(&["SCRIPT", "FLUSH"]).await;
    }

    /// The process that runs a contract's page: the one that uses most CPU time during `work`.
    pub(crate) async fn busy_renderer(
        &self,
        worker: usize,
        work: impl Future<Output = ()>,
    ) -> ProcessInfo {
        let before: Vec<(ProcessInfo, u64)> = self
            .renderers(worker)
            .into_iter()
            .map(|seen| (seen.clone(), seen.ticks()))
            .collect();
        work.await;
        let busiest = before
            .into_iter()
            .max_by_key(|(seen, ticks)| seen.ticks().saturating_sub(*ticks));
        busiest.expect("a worker with contracts has renderers").0
    }
}
