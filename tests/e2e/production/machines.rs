//! The recipe for several machines, each of which is a network namespace of its own: Redis, an api,
//! two with workers, and the caller. One machine is cut off while its contracts are called.
//!
//! ```text
//! redis .10   api .11   worker .21   worker .22   caller .99
//!   └──────────┴───── bridge in a sixth ┴────────────┘
//! ```

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use futures::future::join_all;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{project, run};
use crate::support::process::Process;
use crate::support::programs;
use crate::support::wait::{self, DEFAULT_LIMIT};

const REDIS: &str = "redis://execution:EXECUTION_PASSWORD@10.77.0.10:6379";
const API: &str = "http://10.77.0.11:9000";
const API_SETTINGS: [(&str, &str); 4] = [
    ("EXECUTION_API_HOST", "10.77.0.11"),
    ("AUTH", "keys"),
    ("EXECUTION_API_METRICS_HOST", "10.77.0.11"),
    ("EXECUTION_API_METRICS_PORT", "9101"),
];
const CONTRACTS: usize = 8;
const CONTRACT: &str = "{ echo: (a) => a }";

/// A network namespace. It ends with the process that holds it.
struct Namespace {
    holder: Process,
}

impl Namespace {
    async fn new(name: &str, folder: &Path) -> Self {
        let mut hold = Command::new("unshare");
        hold.args(["--net", "--", "sleep", "infinity"]);
        let holder = Process::start(name, hold, folder);
        let namespace = Self { holder };
        let own = fs::read_link("/proc/self/ns/net").expect("Linux has network namespaces");
        wait::until_true("the namespace", DEFAULT_LIMIT, async || {
            fs::read_link(namespace.path()).is_ok_and(|path| path != own)
        })
        .await;
        namespace
    }

    fn path(&self) -> String {
        format!("/proc/{}/ns/net", self.holder.pid())
    }

    /// The same command in the namespace.
    fn inside(&self, program: &Command) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", self.path()))
            .arg(program.get_program())
            .args(program.get_args())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default());
        for (name, value) in program.get_envs() {
            command.env(name, value.unwrap_or_default());
        }
        command
    }

    fn ip(&self, arguments: &str) {
        let mut ip = Command::new("ip");
        run(&mut self.inside(ip.args(arguments.split(' '))));
    }
}

/// The bridge that joins the machines.
struct Switch(Namespace);

impl Switch {
    async fn new(folder: &Path) -> Self {
        let namespace = Namespace::new("switch", folder).await;
        namespace.ip("link add bridge type bridge");
        namespace.ip("link set bridge up");
        Self(namespace)
    }

    /// A machine with the address `10.77.0.NUMBER`.
    async fn machine(&self, number: u8, folder: &Path) -> Namespace {
        let machine = Namespace::new(&format!("machine-{number}"), folder).await;
        let (switch, pid) = (&self.0, machine.holder.pid());
        switch.ip(&format!(
            "link add m{number} type veth peer name eth0 netns {pid}"
        ));
        switch.ip(&format!("link set m{number} master bridge"));
        self.connect(number, true);
        machine.ip("link set lo up");
        machine.ip(&format!("address add 10.77.0.{number}/24 dev eth0"));
        machine.ip("link set eth0 up");
        machine
    }

    /// Plugs the cable of a machine in, or pulls it.
    fn connect(&self, number: u8, connected: bool) {
        let state = if connected { "up" } else { "down" };
        self.0.ip(&format!("link set m{number} {state}"));
    }
}

/// A caller on a machine of its own.
struct Caller {
    machine: Namespace,
    key: String,
}

impl Caller {
    /// Sends a request. Returns the status and the answer.
    async fn send(&self, url: &str, body: Option<Value>) -> (u16, String) {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--max-time", "40", "--noproxy", "*"])
            .args(["--write-out", "\n%{http_code}"])
            .args([
                "--header",
                &format!("Authorization: Bearer {}", self.key),
                url,
            ]);
        if let Some(body) = body {
            let json = "Content-Type: application/json";
            curl.args(["--header", json, "--data-binary", &body.to_string()]);
        }
        let curl = self.machine.inside(&curl);
        let output = tokio::process::Command::from(curl).output().await;
        let output = output.expect("curl can be started");
        let text = String::from_utf8_lossy(&output.stdout);
        let (answer, status) = text.rsplit_once('\n').expect("curl writes the status");
        (status.parse().unwrap_or(0), answer.to_owned())
    }

    async fn get(&self, path: &str) -> Value {
        let (_, answer) = self.send(&format!("{API}{path}"), None).await;
        serde_json::from_str(&answer).unwrap_or_default()
    }

    async fn workers(&self) -> usize {
        let workers = self.get("/workers").await;
        let ready = |worker: &&Value| worker["state"] == "ready";
        workers
            .as_array()
            .map_or(0, |all| all.iter().filter(ready).count())
    }

    /// Calls all contracts at once. No call may fail.
    async fn call_all(&self) {
        let calls = (0..CONTRACTS).map(async |number| {
            let url = format!("{API}/execute/c{number}/echo");
            let answer = self.send(&url, Some(json!(number))).await;
            assert_eq!(answer, (200, json!({ "data": number }).to_string()));
        });
        join_all(calls).await;
    }
}

/// A farm whose processes are on machines of their own.
struct Machines {
    switch: Switch,
    processes: Vec<Process>,
    /// They end after their processes.
    _namespaces: Vec<Namespace>,
    caller: Caller,
    _folder: TempDir,
}

impl Machines {
    /// Starts what the recipe says, with its settings.
    async fn start() -> Self {
        let folder = TempDir::with_prefix("execution-machines-").expect("a folder can be made");
        let path = folder.path();
        // The browsers run as another user, who must be able to reach the profiles.
        fs::set_permissions(path, fs::Permissions::from_mode(0o1777)).expect("it is an own folder");
        let switch = Switch::new(path).await;
        let (for_redis, for_api) = (
            switch.machine(10, path).await,
            switch.machine(11, path).await,
        );
        let mut processes = vec![start_redis(&for_redis, path).await];
        let key = first_key(&for_api);
        processes.push(start("api", &for_api, programs::api(), path, &API_SETTINGS));
        let mut namespaces = vec![for_redis, for_api];
        for number in [21, 22] {
            let machine = switch.machine(number, path).await;
            processes.push(start_worker(&machine, number, path));
            namespaces.push(machine);
        }
        let machine = switch.machine(99, path).await;
        Self {
            switch,
            processes,
            _namespaces: namespaces,
            caller: Caller { machine, key },
            _folder: folder,
        }
    }

    async fn wait_for_workers(&self, count: usize) {
        let what = format!("{count} workers");
        wait::until_true(&what, DEFAULT_LIMIT, async || {
            self.caller.workers().await == count
        })
        .await;
    }

    /// Ends all programs, Redis last.
    async fn stop(mut self) {
        for process in self.processes.iter_mut().rev() {
            process.terminate().await;
        }
    }
}

async fn start_redis(machine: &Namespace, folder: &Path) -> Process {
    let mut redis = Command::new("redis-server");
    redis
        .arg(project("deploy/redis/redis.conf"))
        .args(["--bind", "10.77.0.10", "--dir"])
        .arg(folder);
    let mut redis = Process::start("redis", machine.inside(&redis), folder);
    wait::until_true("Redis to listen", DEFAULT_LIMIT, async || {
        assert!(redis.ended().is_none(), "{}", redis.log());
        redis.log().contains("Ready to accept connections")
    })
    .await;
    redis
}

fn first_key(machine: &Namespace) -> String {
    let mut keys = programs::api();
    keys.args(["keys", "create", "--admin"])
        .env("REDIS_URL", REDIS)
        .envs(API_SETTINGS);
    let key = run(&mut machine.inside(&keys)).stdout;
    String::from_utf8_lossy(&key).trim().to_owned()
}

fn start_worker(machine: &Namespace, number: u8, folder: &Path) -> Process {
    let address = format!("10.77.0.{number}");
    let settings = [
        ("WORKER_ENGINES", "javascript"),
        ("EXECUTION_WORKER_HOST", address.as_str()),
        ("EXECUTION_WORKER_PORT", "9101"),
        ("TMPDIR", folder.to_str().expect("its name is text")),
        ("CHROMIUM_CGROUP_MB", "0"),
    ];
    let name = format!("worker-{number}");
    start(&name, machine, programs::worker(), folder, &settings)
}

/// Starts a program with the settings of the recipe.
fn start(
    name: &str,
    machine: &Namespace,
    mut program: Command,
    folder: &Path,
    settings: &[(&str, &str)],
) -> Process {
    program
        .env("REDIS_URL", REDIS)
        .envs(settings.iter().copied());
    Process::start(name, machine.inside(&program), folder)
}

#[tokio::test]
async fn a_farm_on_several_machines_survives_the_loss_of_one() {
    let machines = Machines::start().await;
    machines.wait_for_workers(2).await;
    let caller = &machines.caller;
    for number in 0..CONTRACTS {
        let load = json!({"contractAddress": format!("c{number}"), "executable": CONTRACT});
        let url = format!("{API}/loadSmartContract");
        assert_eq!(caller.send(&url, Some(load)).await.0, 204);
    }
    caller.call_all().await;
    for number in [11, 21, 22] {
        let metrics = format!("10.77.0.{number}:9101/metrics");
        assert_eq!(caller.send(&metrics, None).await.0, 200, "{metrics}");
    }

    // The machine is there, and nothing reaches it. Its worker does not know that.
    machines.switch.connect(21, false);
    caller.call_all().await;
    machines.wait_for_workers(1).await;
    machines.switch.connect(21, true);
    machines.wait_for_workers(2).await;
    caller.call_all().await;

    for number in 0..CONTRACTS {
        let unload = json!({"contractAddress": format!("c{number}")});
        let url = format!("{API}/unloadSmartContract");
        assert_eq!(caller.send(&url, Some(unload)).await.0, 204);
    }
    machines.stop().await;
}
