//! What one would pick instead of the farm, as running systems: see `peers/`. Their packages are in
//! `target/peers`.

use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::unistd::{Uid, User};
use tempfile::TempDir;

use crate::support::client::{Client, try_send};
use crate::support::process::Process;
use crate::support::programs::{self, free_port};
use crate::support::redis_server::RedisServer;
use crate::support::wait::{self, DEFAULT_LIMIT};

const CHROMIUM: &str = "/usr/lib/chromium/chromium-headless-shell";
/// In the folder of the packages.
const WORKERD: &str = "node_modules/@cloudflare/workerd-linux-64/bin/workerd";

/// A kind of system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// express and puppeteer-core in one process: the architecture that the farm replaces.
    Express,
    /// `BullMQ` between an express server and a worker with puppeteer-core.
    Bullmq,
    /// workerd, whose contracts are known at its start.
    Workerd,
}

impl Kind {
    pub(crate) const ALL: [Self; 3] = [Self::Express, Self::Bullmq, Self::Workerd];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Express => "express + puppeteer-core",
            Self::Bullmq => "BullMQ + puppeteer-core",
            Self::Workerd => "workerd",
        }
    }

    /// Whether contracts are loaded while it runs.
    pub(crate) fn loads(self) -> bool {
        self != Self::Workerd
    }
}

/// A running system. End it with [`Peer::stop`].
pub(crate) struct Peer {
    pub(crate) client: Client,
    /// `HOST:PORT`
    pub(crate) at: String,
    /// The first one serves HTTP.
    processes: Vec<Process>,
    redis: Option<RedisServer>,
    folder: TempDir,
}

/// The folder of the packages. None if they are not installed.
fn packages() -> Option<PathBuf> {
    let folder = programs::folder().with_file_name("peers");
    folder.join("node_modules").is_dir().then_some(folder)
}

/// Whether the packages are installed.
pub(crate) fn are_installed() -> bool {
    packages().is_some()
}

impl Peer {
    /// Starts a system whose browser gets these arguments. `contracts` are those that it must know
    /// at its start.
    pub(crate) async fn start(kind: Kind, browser: &[String], contracts: &[String]) -> Self {
        let folder = TempDir::with_prefix("execution-bench-").expect("a folder can be made");
        let port = free_port();
        let mut redis = None;
        let mut processes = Vec::new();
        let mut run = |name: &str, command| {
            processes.push(Process::start(name, command, folder.path()));
        };
        match kind {
            Kind::Express => run(
                "express",
                with_browser(folder.path(), "express.js", port, browser),
            ),
            Kind::Bullmq => {
                let server = RedisServer::start(folder.path()).await;
                let mut api = node(folder.path(), "bullmq-api.js");
                api.arg(port.to_string()).arg(server.port().to_string());
                run("api", api);
                let queue = server.port();
                let worker = with_browser(folder.path(), "bullmq-worker.js", queue, browser);
                run("worker", worker);
                redis = Some(server);
            }
            Kind::Workerd => {
                let mut server = node(folder.path(), "workerd.js");
                server.arg(port.to_string()).arg(WORKERD);
                server.arg(folder.path()).args(contracts);
                run("workerd", server);
            }
        }
        let peer = Self {
            client: Client::new(port),
            at: format!("127.0.0.1:{port}"),
            processes,
            redis,
            folder,
        };
        peer.wait_until_ready().await;
        peer
    }

    async fn wait_until_ready(&self) {
        wait::until_true("the peer to answer", DEFAULT_LIMIT, async || {
            let asked = self.client.request(reqwest::Method::GET, "/healthz");
            // Whatever it answers: workerd knows only contracts.
            try_send(asked).await.is_ok()
        })
        .await;
    }

    /// Ends it.
    pub(crate) async fn stop(mut self) {
        for process in self.processes.iter_mut().rev() {
            process.terminate().await;
        }
        drop(self.redis);
        self.folder.close().expect("its folder can be removed");
    }
}

/// A script in Node.js, run where its packages are.
fn node(home: &Path, script: &str) -> Command {
    let packages = packages().expect("the packages are installed");
    let mut command = Command::new("node");
    command
        .current_dir(packages)
        .env("HOME", home)
        .env("NODE_ENV", "production")
        .arg(script);
    command
}

/// A script that starts a browser, as an unprivileged user: Chromium has no sandbox for root.
fn with_browser(home: &Path, script: &str, port: u16, browser: &[String]) -> Command {
    let mut command = node(home, script);
    let chromium = std::env::var_os("CHROMIUM_PATH").unwrap_or_else(|| CHROMIUM.into());
    command.arg(port.to_string()).arg(chromium).args(browser);
    if Uid::effective().is_root() {
        let user = User::from_name("nobody").expect("users can be looked up");
        let user = user.expect("every system has this user");
        let (uid, gid) = (user.uid.as_raw(), user.gid.as_raw());
        chown(home, Some(uid), Some(gid)).expect("root can give a folder away");
        command.uid(uid).gid(gid);
    }
    command
}
