//! `scripts/farm`, which `make run` starts: it keeps its processes running, and leaves none behind.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::client::Client;
use crate::support::process::Process;
use crate::support::processes::{self, ProcessInfo};
use crate::support::programs;
use crate::support::wait;

/// The time limit for a step, also on a busy machine. A worker that is drained with its browsers
/// takes some seconds.
const PATIENCE: Duration = Duration::from_mins(1);

/// A farm of two workers in a folder of its own, with the script and the programs of this project.
struct LocalFarm {
    script: Process,
    client: Client,
    folder: TempDir,
}

impl LocalFarm {
    fn start() -> Self {
        Self::start_on("one")
    }

    /// A farm on a Redis of its own: `one` server, or a `cluster`.
    fn start_on(redis: &str) -> Self {
        let folder = TempDir::with_prefix("execution-local-").expect("a folder can be made");
        let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        for name in ["scripts", "examples"] {
            fs::create_dir(folder.path().join(name)).expect("the folder can be written");
        }
        for file in ["scripts/farm", "examples/guessing-game.js"] {
            fs::copy(project.join(file), folder.path().join(file)).expect("it can be copied");
        }
        fs::create_dir(folder.path().join("target")).expect("the folder can be written");
        let programs = folder.path().join("target/release");
        symlink(programs::folder(), programs).expect("the folder can be written");
        let port = programs::free_port();
        // Without a terminal, the shell that runs the tests may have them ignore Ctrl-C.
        let mut command = Command::new("env");
        command
            .arg("--default-signal=INT")
            .arg(folder.path().join("scripts/farm"))
            .env("WORKERS", "2")
            .env("REDIS", redis)
            .env("EXECUTION_API_PORT", port.to_string())
            .env("WORKER_ENGINES", "javascript");
        Self {
            script: Process::start("farm", command, folder.path()),
            client: Client::new(port),
            folder,
        }
    }

    /// The ids of the workers, once exactly two are ready.
    async fn workers(&self) -> Vec<String> {
        wait::until("two workers", PATIENCE, async || {
            if self.client.farm_status().await.as_deref() != Some("ready") {
                return None;
            }
            let workers = self.client.workers().await;
            let ready = workers.iter().filter(|worker| worker["state"] == "ready");
            let ids: Vec<_> = ready.filter_map(|worker| text(&worker["id"])).collect();
            (workers.len() == 2 && ids.len() == 2).then_some(ids)
        })
        .await
    }

    /// Waits until two workers are ready, and `gone` is not one of them.
    async fn replaced(&self, gone: &str) -> Vec<String> {
        let what = format!("another worker than {gone}");
        wait::until(&what, PATIENCE, async || {
            let ids = self.workers().await;
            (!ids.iter().any(|id| id == gone)).then_some(ids)
        })
        .await
    }

    /// Waits until the script has run its example. From then on it starts a process again that fails.
    async fn started(&self) {
        wait::until_true("the example to have run", PATIENCE, async || {
            self.script.log().contains("Press Ctrl-C")
        })
        .await;
    }

    /// The servers of its Redis.
    fn servers(&self) -> Vec<ProcessInfo> {
        let mut all = processes::descendants(self.script.pid());
        all.retain(|process| process.command.starts_with("redis-server"));
        all
    }

    /// Ends the script as Ctrl-C does. Nothing that it has started is left.
    async fn end(mut self) {
        let seen = processes::descendants(self.script.pid());
        self.script.signal(Signal::SIGINT);
        let ended = self.script.end(PATIENCE).await;
        assert!(ended.success(), "{}", self.script.log());
        let left: Vec<_> = seen.iter().filter(|process| process.runs()).collect();
        assert!(left.is_empty(), "{left:#?}");
        drop(self.folder);
    }

    /// The processes of a program.
    fn running(&self, program: &str) -> Vec<ProcessInfo> {
        let mut all = processes::descendants(self.script.pid());
        all.retain(|process| process.command.ends_with(program));
        all
    }
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

#[tokio::test]
async fn a_local_farm_keeps_its_processes_running() {
    let farm = LocalFarm::start();
    let before = farm.workers().await;
    // The script may still be starting the farm.
    assert_eq!(farm.client.drain(&before[0]).await.status, 202);
    let drained = farm.replaced(&before[0]).await;
    assert!(drained.contains(&before[1]), "{drained:?} after {before:?}");

    farm.started().await;
    farm.running("execution-worker")[0].kill();
    wait::until_true("a fresh worker", PATIENCE, async || {
        let now = farm.workers().await;
        now.iter().any(|id| !drained.contains(id))
    })
    .await;
    farm.running("execution-api")[0].kill();
    farm.workers().await;
    // The example that the script has loaded.
    let answer = farm.client.call("guessing-game", "initialise").await;
    assert_eq!(answer.status, 200, "{answer:?}");

    let log = farm.script.log();
    for told in [
        "exited with status 0",
        "exited with status 137",
        "/docs",
        "/metrics",
        ".farm/",
    ] {
        assert!(log.contains(told), "{told:?} is not in {log}");
    }
    farm.end().await;
}

#[tokio::test]
async fn a_local_farm_runs_on_a_cluster_of_its_own() {
    let farm = LocalFarm::start_on("cluster");
    farm.workers().await;
    farm.started().await;
    let servers = farm.servers();
    assert_eq!(servers.len(), 3, "{servers:#?}");
    // A primary that is killed comes back with its slots and its data.
    for server in &servers {
        server.kill();
    }
    wait::until_true("the example to answer again", PATIENCE, async || {
        farm.servers()
            .iter()
            .all(|server| !servers.contains(server))
            && farm.client.call("guessing-game", "initialise").await.status == 200
    })
    .await;
    assert_eq!(farm.servers().len(), 3);
    farm.end().await;
}
