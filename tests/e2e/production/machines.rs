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

/// Starts a program with the settings of the recipe.
fn start(
    name: &str,
    machine: &Namespace,
    mut program: Command,
    folder: &Path,
    env: &[(&str, &str)],
) -> Process {
    program.env("REDIS_URL", REDIS).envs(env.iter().copied());
    Process::start(name, machine.inside(&program), folder)
}

#[tokio::test]
async fn a_farm_on_several_machines_survives_the_loss_of_one() {
    let folder = TempDir::with_prefix("execution-machines-").expect("a folder can be made");
    let folder = folder.path();
    // The browsers run as another user, who must be able to reach the profiles.
    fs::set_permissions(folder, fs::Permissions::from_mode(0o1777)).expect("it is an own folder");
    let switch = Switch::new(folder).await;
    let [for_redis, for_api] = [
        switch.machine(10, folder).await,
        switch.machine(11, folder).await,
    ];
    let for_workers = [
        switch.machine(21, folder).await,
        switch.machine(22, folder).await,
    ];

    let mut redis = Command::new("redis-server");
    redis
        .arg(project("deploy/redis/redis.conf"))
        .args(["--bind", "10.77.0.10", "--dir"])
        .arg(folder);
    let mut redis = Process::start("redis", for_redis.inside(&redis), folder);
    wait::until_true("Redis to listen", DEFAULT_LIMIT, async || {
        assert!(redis.ended().is_none(), "{}", redis.log());
        redis.log().contains("Ready to accept connections")
    })
    .await;
    let of_api = [
        ("EXECUTION_API_HOST", "10.77.0.11"),
        ("AUTH", "keys"),
        ("EXECUTION_API_METRICS_HOST", "10.77.0.11"),
        ("EXECUTION_API_METRICS_PORT", "9101"),
    ];
    let mut keys = programs::api();
    keys.args(["keys", "create", "--admin"])
        .env("REDIS_URL", REDIS)
        .envs(of_api);
    let key = run(&mut for_api.inside(&keys)).stdout;
    let mut processes = vec![start("api", &for_api, programs::api(), folder, &of_api)];
    for (machine, address) in for_workers.iter().zip(["10.77.0.21", "10.77.0.22"]) {
        let of_worker = [
            ("WORKER_ENGINES", "javascript"),
            ("EXECUTION_WORKER_HOST", address),
            ("EXECUTION_WORKER_PORT", "9101"),
            ("TMPDIR", folder.to_str().expect("its name is text")),
            ("CHROMIUM_CGROUP_MB", "0"),
        ];
        let name = format!("worker-{address}");
        processes.push(start(
            &name,
            machine,
            programs::worker(),
            folder,
            &of_worker,
        ));
    }
    let caller = Caller {
        machine: switch.machine(99, folder).await,
        key: String::from_utf8_lossy(&key).trim().to_owned(),
    };
    wait::until_true("both workers", DEFAULT_LIMIT, async || {
        caller.workers().await == 2
    })
    .await;

    for number in 0..CONTRACTS {
        let load = json!({"contractAddress": format!("c{number}"), "executable": CONTRACT});
        let url = format!("{API}/loadSmartContract");
        assert_eq!(caller.send(&url, Some(load)).await.0, 204);
    }
    caller.call_all().await;
    for metrics in [
        "10.77.0.11:9101/metrics",
        "10.77.0.21:9101/metrics",
        "10.77.0.22:9101/metrics",
    ] {
        assert_eq!(caller.send(metrics, None).await.0, 200, "{metrics}");
    }

    // The machine is there, and nothing reaches it. Its worker does not know that.
    switch.connect(21, false);
    caller.call_all().await;
    wait::until_true("the lost worker to be removed", DEFAULT_LIMIT, async || {
        caller.workers().await == 1
    })
    .await;
    switch.connect(21, true);
    wait::until_true("the worker to be back", DEFAULT_LIMIT, async || {
        caller.workers().await == 2
    })
    .await;
    caller.call_all().await;

    for number in 0..CONTRACTS {
        let unload = json!({"contractAddress": format!("c{number}")});
        let url = format!("{API}/unloadSmartContract");
        assert_eq!(caller.send(&url, Some(unload)).await.0, 204);
    }
    for process in processes.iter_mut().chain([&mut redis]) {
        process.terminate().await;
    }
}
