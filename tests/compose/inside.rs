//! Checks the confinement of containers and of the pages in them: by attempts from inside, and by
//! the state that the kernel reports for their processes.

use std::collections::BTreeMap;
use std::fs::{read_link, read_to_string};
use std::io::Read;
use std::net::TcpListener;
use std::path::PathBuf;

use serde_json::json;

use crate::project::{Container, Project};

const NO_CAPABILITIES: &str = "0000000000000000";

/// One process of a container, as `/proc` on the host shows it.
struct Process {
    folder: PathBuf,
    status: BTreeMap<String, String>,
}

impl Process {
    /// The processes of the container whose command line contains `part`.
    fn all(container: &Container, part: &str) -> Vec<Self> {
        let pids = container.processes().into_iter();
        let pids = pids.filter(|(_, command)| command.contains(part));
        pids.map(|(pid, _)| Self::read(pid)).collect()
    }

    fn read(pid: u32) -> Self {
        let folder = PathBuf::from(format!("/proc/{pid}"));
        let text = read_to_string(folder.join("status")).expect("a process has a status");
        let fields = text.lines().filter_map(|line| line.split_once(':'));
        let words = |value: &str| value.split_whitespace().collect::<Vec<_>>().join(" ");
        let status = fields.map(|(name, value)| (name.to_owned(), words(value)));
        Self {
            folder,
            status: status.collect(),
        }
    }

    /// It has no capabilities, cannot gain privileges, and is under a system call filter.
    fn is_unprivileged(&self) {
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert_eq!(self.status[set], NO_CAPABILITIES, "{:?}", self.status);
        }
        assert_eq!(self.status["NoNewPrivs"], "1", "{:?}", self.status);
        assert_eq!(self.status["Seccomp"], "2", "{:?}", self.status);
    }

    fn namespace(&self, kind: &str) -> PathBuf {
        read_link(self.folder.join("ns").join(kind)).expect("root may see namespaces")
    }

    /// The network interfaces in its namespace.
    fn interfaces(&self) -> Vec<String> {
        let table = read_to_string(self.folder.join("net/dev")).expect("a list of interfaces");
        let names = table.lines().filter_map(|line| line.split_once(':'));
        names.map(|(name, _)| name.trim().to_owned()).collect()
    }

    fn routes(&self) -> usize {
        let table = read_to_string(self.folder.join("net/route")).expect("a list of routes");
        table.lines().count().saturating_sub(1)
    }

    /// The number of system call filters that apply to it.
    fn filters(&self) -> u32 {
        self.status["Seccomp_filters"].parse().expect("a number")
    }

    /// The depth of nested process namespaces.
    fn depth(&self) -> usize {
        self.status["NSpid"].split(' ').count()
    }
}

/// The first process of the container is unprivileged, is not root, and cannot gain capabilities.
/// The same therefore holds for every process that it starts.
pub(crate) fn is_unprivileged(container: &Container) {
    let first = Process::read(container.inspect("State.Pid").parse().expect("a number"));
    first.is_unprivileged();
    assert_eq!(first.status["CapBnd"], NO_CAPABILITIES);
    let users = &first.status["Uid"];
    assert!(users.split(' ').all(|user| user != "0"), "{users}");
}

/// The processes of a worker's container run as an unprivileged user and cannot gain capabilities.
/// Only memory-backed folders are writable, and programs in them cannot be executed.
pub(crate) fn container_is_confined(container: &Container) {
    let programs = Process::all(container, "execution-worker");
    assert!(!programs.is_empty(), "no worker in {}", container.id);
    for program in &programs {
        program.is_unprivileged();
        assert_eq!(program.status["CapBnd"], NO_CAPABILITIES);
        assert_eq!(program.status["Uid"], "10001 10001 10001 10001");
        assert_eq!(program.interfaces(), ["lo", "eth0"]);
    }
    for refused in [
        "touch /nowhere",
        "cp /bin/true /tmp/true && /tmp/true",
        "mount -t tmpfs none /mnt",
        "timeout 3 getent hosts deb.debian.org",
    ] {
        let output = container.run(refused);
        assert!(!output.status.success(), "{refused}: {output:?}");
    }
    // Controls: these must succeed, so the failures above are not caused by the shell.
    for allowed in ["touch /tmp/x && rm /tmp/x", "getent hosts redis"] {
        let output = container.run(allowed);
        assert!(output.status.success(), "{allowed}: {output:?}");
    }
}

/// Checks that Chromium's sandbox is on, and returns the number of renderers. Each renderer has its
/// own namespaces and system call filter, no capabilities, and an empty network namespace.
pub(crate) fn renderers_are_sandboxed(container: &Container) -> usize {
    let worker = &Process::all(container, "execution-worker")[0];
    let renderers = Process::all(container, "--type=renderer");
    for renderer in &renderers {
        renderer.is_unprivileged();
        for kind in ["user", "pid", "net"] {
            assert_ne!(renderer.namespace(kind), worker.namespace(kind), "{kind}");
        }
        assert!(renderer.depth() > worker.depth());
        // A renderer has Chromium's filter in addition to the filter of the container.
        assert!(renderer.filters() > worker.filters());
        assert_eq!(renderer.interfaces(), ["lo"]);
        assert_eq!(renderer.routes(), 0);
    }
    renderers.len()
}

/// A worker cannot connect to the host, although the host listens and other networks reach it.
pub(crate) fn host_is_unreachable(project: &Project) {
    let listener = TcpListener::bind("0.0.0.0:0").expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    let greet = format!("exec 3<>/dev/tcp/$host/{port} && echo $host >&3");
    let gateways = ["edge", "backend"].map(|network| project.gateway(network));
    for worker in project.containers("worker") {
        for host in &gateways {
            let output = worker.run(&format!("export host={host}; timeout 2 bash -c '{greet}'"));
            assert!(
                !output.status.success(),
                "a worker reached {host}: {output:?}"
            );
        }
    }
    // Control: the same command reaches the host from the callers' network.
    let host = &gateways[0];
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("accept a connection");
        let mut received = String::new();
        stream.read_to_string(&mut received).expect("read the text");
        received
    });
    project.run_in(
        "edge",
        &format!("export host={host}; timeout 20 bash -c '{greet}'"),
    );
    assert_eq!(
        server.join().expect("the control reached the host").trim(),
        host
    );
}

/// A contract that tries to connect to everything that its worker can reach.
const PROBER: &str = r"
const tries = {
    fetch: (url) => fetch(`http://${url}/`).then(() => 'reached'),
    blind: (url) => fetch(`http://${url}/`, { mode: 'no-cors' }).then(() => 'reached'),
    socket: (url) => new Promise((resolve, reject) => {
        const socket = new WebSocket(`ws://${url}/`);
        socket.onopen = () => resolve('reached');
        socket.onerror = () => reject(new Error('closed'));
    }),
    image: (url) => new Promise((resolve, reject) => {
        const image = new Image();
        image.onload = () => resolve('reached');
        image.onerror = () => reject(new Error('no image'));
        image.src = `http://${url}/`;
    }),
};
const reach = async (urls) => {
    const found = {};
    for (const url of urls)
        for (const [way, reached] of Object.entries(tries))
            try { found[`${way} ${url}`] = await reached(url); }
            catch (error) { found[`${way} ${url}`] = 'refused'; }
    return found;
};
const init = () => ({ reach });
";

/// A page reaches neither Redis nor the api, by name or by address, although its worker does.
pub(crate) async fn page_has_no_network(project: &Project) {
    let workers = project.containers("worker");
    let address = workers[0]
        .run("getent hosts api | head -n1 | cut -d' ' -f1")
        .stdout;
    let address = String::from_utf8_lossy(&address);
    let targets = [
        "redis:6379".to_owned(),
        "api:9000".to_owned(),
        format!("{}:9000", address.trim()),
    ];
    for (worker, target) in workers
        .iter()
        .flat_map(|w| targets.iter().map(move |t| (w, t)))
    {
        let (host, port) = target.split_once(':').expect("a target has a port");
        let output = worker.run(&format!("exec 3<>/dev/tcp/{host}/{port}"));
        assert!(output.status.success(), "{target}: {output:?}");
    }
    let client = project.clients().remove(0);
    client.must_load("prober", PROBER).await;
    let found = client.execute("prober", "reach", &json!(targets)).await;
    let found = found.data();
    let found = found.as_object().expect("an object of outcomes");
    assert_eq!(found.len(), 12, "{found:?}");
    assert!(
        found.values().all(|outcome| outcome == "refused"),
        "{found:#?}"
    );
    client.unload("prober").await.is_no_content();
}

/// Whoever has no password may do nothing; the programs may not change the configuration.
pub(crate) fn redis_is_guarded(project: &Project) {
    let redis = &project.containers("redis")[0];
    let said = |command: &str| String::from_utf8_lossy(&redis.run(command).stdout).into_owned();
    for command in [
        "ping",
        "get exec:farm",
        "keys '*'",
        "config get maxmemory",
        "acl list",
    ] {
        let answer = said(&format!("redis-cli {command}"));
        assert!(answer.starts_with("NOAUTH"), "{command}: {answer}");
    }
    let as_program = "REDISCLI_AUTH=$(cat /run/redis-access/password) redis-cli --user execution";
    assert!(!said(&format!("{as_program} get exec:farm")).contains("NOPERM"));
    for command in [
        "get other",
        "config set maxmemory 0",
        "flushall",
        "keys '*'",
    ] {
        let answer = said(&format!("{as_program} {command}"));
        assert!(answer.starts_with("NOPERM"), "{command}: {answer}");
    }
    let as_operator = "REDISCLI_AUTH=$(cat /data/operator.password) redis-cli --user operator";
    assert!(!said(&format!("{as_operator} dbsize")).contains("NOPERM"));
    // Neither the images nor the environment have it.
    for container in ["api", "worker"]
        .iter()
        .flat_map(|name| project.containers(name))
    {
        let environment = container.inspect("Config.Env");
        assert!(
            environment.contains("redis://execution@redis:6379"),
            "{environment}"
        );
    }
}
