//! One Compose project with its own names, networks and volume, removed at the end of the test.

use std::cell::Cell;
use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::support::client::Client;

/// `no` skips the build of the images.
const BUILD: &str = "COMPOSE_TEST_BUILD";

/// The path of a file with `NAME=IMAGE` lines, as `scripts/base-images` prints them.
const BASE_IMAGES: &str = "COMPOSE_TEST_ENV_FILE";

/// The image names of the tests, so that the images of a running farm are not overwritten.
const API: &str = "execution-test/api";
const WORKER: &str = "execution-test/worker";

/// A Compose project. Dropping it removes its containers, networks and volumes.
pub(crate) struct Project {
    name: String,
    /// The port of the first api. The others have the ports after it.
    port: u16,
    apis: u16,
    workers: Cell<usize>,
    /// The tag of the images, after their names.
    version: Cell<&'static str>,
    files: Vec<&'static str>,
    /// Variables that only this project has.
    variables: Vec<(&'static str, PathBuf)>,
}

impl Project {
    /// Creates a project with a unique name. Nothing is started yet.
    pub(crate) fn new(files: &[&'static str], apis: u16, workers: usize) -> Self {
        Self {
            name: format!("execution-test-{}", std::process::id()),
            port: free_ports(apis),
            apis,
            workers: Cell::new(workers),
            version: Cell::new("latest"),
            files: files.to_vec(),
            variables: Vec::new(),
        }
    }

    /// Sets a variable to a path, for all that is started from now on.
    pub(crate) fn set(&mut self, name: &'static str, path: &Path) {
        self.variables.push((name, path.to_owned()));
    }

    /// How many workers it runs.
    pub(crate) fn workers(&self) -> usize {
        self.workers.get()
    }

    /// A client of each api of the project, with a new key that permits everything. An api must
    /// run.
    pub(crate) fn clients(&self) -> Vec<Client> {
        let create = "exec -T api execution-api keys create --admin";
        let create: Vec<_> = create.split(' ').collect();
        let key = self.compose(&create);
        let client = |port| Client::new(port).as_caller(key.trim());
        self.ports().map(client).collect()
    }

    fn ports(&self) -> std::ops::Range<u16> {
        self.port..self.port + self.apis
    }

    /// Runs docker-compose with these arguments.
    ///
    /// # Panics
    /// When the command fails, with its output.
    pub(crate) fn compose(&self, arguments: &[&str]) -> String {
        let mut command = self.command();
        output_of(command.args(arguments))
    }

    fn command(&self) -> Command {
        let mut command = Command::new("docker-compose");
        command
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
            .args(["--project-name", &self.name])
            .env("EXECUTION_API_PORT", self.port_setting())
            .env("APIS", self.apis.to_string())
            .env("WORKERS", self.workers.get().to_string())
            .env("API_TAG", format!("{API}:{}", self.version.get()))
            .env("WORKER_TAG", format!("{WORKER}:{}", self.version.get()))
            .env("DOCKER_GID", socket_group())
            .env("CONTAINER_IMAGES", "execution-test/*")
            .env("DOCKER_BUILDKIT", "0")
            .envs(self.variables.iter().cloned());
        if let Ok(file) = std::env::var(BASE_IMAGES) {
            command.args(["--env-file", &file]);
        }
        for file in &self.files {
            command.args(["--file", file]);
        }
        command
    }

    fn port_setting(&self) -> String {
        match self.apis {
            1 => self.port.to_string(),
            _ => format!("{}-{}", self.port, self.port + self.apis - 1),
        }
    }

    /// Builds the images and starts all services.
    pub(crate) fn build_and_start(&self) {
        let build = match std::env::var(BUILD).as_deref() {
            Ok("no") => "--no-build",
            _ => "--build",
        };
        self.compose(&["up", "--detach", build]);
    }

    /// Starts whatever does not run, as an operator does who is not sure.
    pub(crate) fn start(&self) {
        self.compose(&["up", "--detach"]);
    }

    /// Runs docker-compose with `input` for the command, and returns what it printed.
    pub(crate) fn compose_with(&self, arguments: &[&str], input: &[u8]) -> Vec<u8> {
        let mut command = self.command();
        command.args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("docker-compose can be run");
        let mut stdin = child.stdin.take().expect("it is piped");
        // The commands read all of their input before they print.
        stdin.write_all(input).expect("the command reads its input");
        drop(stdin);
        let output = child.wait_with_output().expect("docker-compose can be run");
        assert!(
            output.status.success(),
            "{arguments:?}: {:?}",
            output.status
        );
        output.stdout
    }

    /// Gives the images another version: the same programs under another tag and image id.
    pub(crate) fn release(version: &'static str) {
        for image in [API, WORKER] {
            let mut build = Command::new("docker");
            build
                .env("DOCKER_BUILDKIT", "0")
                .args([
                    "build",
                    "--quiet",
                    "--tag",
                    &format!("{image}:{version}"),
                    "-",
                ])
                .stdin(Stdio::piped())
                .stdout(Stdio::null());
            let mut build = build.spawn().expect("docker can be run");
            let recipe = format!("FROM {image}:latest\nLABEL version={version}\n");
            let mut stdin = build.stdin.take().expect("it is piped");
            stdin
                .write_all(recipe.as_bytes())
                .expect("docker reads the recipe");
            drop(stdin);
            assert!(
                build.wait().is_ok_and(|status| status.success()),
                "{image}:{version}"
            );
        }
    }

    /// Runs the images of a version from the next start on.
    pub(crate) fn use_version(&self, version: &'static str) {
        self.version.set(version);
    }

    /// Removes the images of a version.
    pub(crate) fn remove_release(version: &str) {
        for image in [API, WORKER] {
            output_of(Command::new("docker").args(["image", "rm", &format!("{image}:{version}")]));
        }
    }

    /// Sets the number of workers, without waiting until they are ready.
    pub(crate) fn scale(&self, workers: usize) {
        self.workers.set(workers);
        self.compose(&["up", "--detach", "--no-recreate"]);
    }

    /// Kills all containers at once, as the loss of power does.
    pub(crate) fn lose_power(&self) {
        let all = self.all_containers().into_iter().map(|each| each.id);
        output_of(Command::new("docker").arg("kill").args(all));
    }

    /// All containers that run.
    pub(crate) fn all_containers(&self) -> Vec<Container> {
        let ids = self.list(&["ps"], "com.docker.compose.service");
        ids.into_iter().map(|id| Container { id }).collect()
    }

    /// The running containers of a service.
    pub(crate) fn containers(&self, service: &str) -> Vec<Container> {
        let ids = self.list(&["ps"], &format!("com.docker.compose.service={service}"));
        ids.into_iter().map(|id| Container { id }).collect()
    }

    /// The containers, networks and volumes of the project that still exist.
    pub(crate) fn leftovers(&self) -> Vec<String> {
        let label = format!("com.docker.compose.project={}", self.name);
        let kinds: [&[&str]; 3] = [&["ps", "--all"], &["network", "ls"], &["volume", "ls"]];
        kinds
            .iter()
            .flat_map(|kind| self.list(kind, &label))
            .collect()
    }

    /// The gateway address of a network.
    pub(crate) fn gateway(&self, network: &str) -> String {
        let format = "{{(index .IPAM.Config 0).Gateway}}";
        let name = format!("{}_{network}", self.name);
        let mut docker = Command::new("docker");
        let found = output_of(docker.args(["network", "inspect", "--format", format, &name]));
        found.trim().to_owned()
    }

    /// Runs a script in a new container in a network. The script must succeed.
    pub(crate) fn run_in(&self, network: &str, script: &str) {
        let network = format!("{}_{network}", self.name);
        let mut docker = Command::new("docker");
        docker.args(["run", "--rm", "--network", &network, "--entrypoint", "bash"]);
        output_of(docker.args([WORKER, "-c", script]));
    }

    fn list(&self, what: &[&str], label: &str) -> Vec<String> {
        let mine = format!("label=com.docker.compose.project={}", self.name);
        let label = format!("label={label}");
        let mut docker = Command::new("docker");
        docker
            .args(what)
            .args(["--quiet", "--filter", &mine, "--filter", &label]);
        output_of(&mut docker).lines().map(str::to_owned).collect()
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let logs = self.command().args(["logs", "--tail", "50"]).output();
            eprintln!("{}", logs.map(both_streams).unwrap_or_default());
        }
        let down = ["down", "--volumes", "--remove-orphans", "--timeout", "10"];
        if let Err(error) = self.command().args(down).output() {
            eprintln!("docker-compose down: {error}");
        }
    }
}

/// One container.
pub(crate) struct Container {
    pub(crate) id: String,
}

impl Container {
    /// Runs a script in the container, as the container's user.
    pub(crate) fn run(&self, script: &str) -> Output {
        let mut docker = Command::new("docker");
        docker.args(["exec", &self.id, "bash", "-c", script]);
        docker.output().expect("docker can be run")
    }

    /// The host process ids and the command lines of the container's processes.
    pub(crate) fn processes(&self) -> Vec<(u32, String)> {
        let table = output_of(Command::new("docker").args(["top", &self.id, "-eo", "pid,args"]));
        let rows = table.lines().skip(1);
        let rows = rows.filter_map(|row| row.trim().split_once(' '));
        rows.map(|(pid, command)| (pid.parse().expect("a number"), command.to_owned()))
            .collect()
    }

    /// Kills the container, as the loss of its machine would.
    pub(crate) fn kill(&self) {
        output_of(Command::new("docker").args(["kill", &self.id]));
    }

    /// One field of `docker inspect`, as JSON.
    pub(crate) fn inspect(&self, field: &str) -> String {
        let format = format!("{{{{json .{field}}}}}");
        let text =
            output_of(Command::new("docker").args(["inspect", "--format", &format, &self.id]));
        text.trim().to_owned()
    }
}

/// Runs a command that must succeed, and returns its output.
pub(crate) fn output_of(command: &mut Command) -> String {
    let output = command.output();
    let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}",
        both_streams(output)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn both_streams(output: Output) -> String {
    let both = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&both).into_owned()
}

/// The first of `count` ports in a row that are free.
fn free_ports(count: u16) -> u16 {
    // Below the range of ports that the system gives to clients.
    let mut firsts = (20_000 + u16::try_from(std::process::id() % 5_000).unwrap_or(0)..32_000)
        .step_by(usize::from(count));
    let is_free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
    firsts
        .find(|first| (*first..first + count).all(is_free))
        .expect("some ports are free")
}

/// The group of the Docker socket.
fn socket_group() -> String {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/var/run/docker.sock")
        .map(|socket| socket.gid().to_string())
        .expect("read the group of the Docker socket")
}
