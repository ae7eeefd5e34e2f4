//! One project of docker-compose: its own names, networks and volume, and nothing left of it at the
//! end.

use std::path::Path;
use std::process::{Command, Output};

use crate::support::client::Client;
use crate::support::programs::free_port;

/// A file of `NAME=IMAGE` lines, as `scripts/base-images` prints them.
const BASE_IMAGES: &str = "COMPOSE_TEST_ENV_FILE";

/// A project. Dropping it takes everything down.
pub(crate) struct Project {
    name: String,
    port: u16,
    files: Vec<&'static str>,
}

impl Project {
    /// Names a project that nothing runs of yet.
    pub(crate) fn new(files: &[&'static str]) -> Self {
        Self {
            name: format!("execution-test-{}", std::process::id()),
            port: free_port(),
            files: files.to_vec(),
        }
    }

    /// Its api, as a caller on this machine reaches it.
    pub(crate) fn client(&self) -> Client {
        Client::new(self.port)
    }

    /// Runs docker-compose.
    ///
    /// # Panics
    /// When that fails, with what was said.
    pub(crate) fn compose(&self, arguments: &[&str]) -> String {
        let mut command = self.command();
        done(command.args(arguments))
    }

    fn command(&self) -> Command {
        let mut command = Command::new("docker-compose");
        command
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
            .args(["--project-name", &self.name])
            .env("EXECUTION_API_PORT", self.port.to_string())
            // Images of its own, so that those that somebody uses stay theirs.
            .env("API_TAG", "execution-test/api")
            .env("WORKER_TAG", "execution-test/worker")
            .env("DOCKER_GID", socket_group())
            .env("DOCKER_BUILDKIT", "0");
        if let Ok(file) = std::env::var(BASE_IMAGES) {
            command.args(["--env-file", &file]);
        }
        for file in &self.files {
            command.args(["--file", file]);
        }
        command
    }

    /// Has so many workers run, and waits for nothing.
    pub(crate) fn scale(&self, workers: usize) {
        let workers = format!("worker={workers}");
        self.compose(&["up", "--detach", "--no-recreate", "--scale", &workers]);
    }

    /// The running containers of a service.
    pub(crate) fn containers(&self, service: &str) -> Vec<Container> {
        let ids = self.list(&["ps"], &format!("com.docker.compose.service={service}"));
        ids.into_iter().map(|id| Container { id }).collect()
    }

    /// What Docker knows of the project: containers, networks and volumes.
    pub(crate) fn leftovers(&self) -> Vec<String> {
        let label = format!("com.docker.compose.project={}", self.name);
        let kinds: [&[&str]; 3] = [&["ps", "--all"], &["network", "ls"], &["volume", "ls"]];
        kinds
            .iter()
            .flat_map(|kind| self.list(kind, &label))
            .collect()
    }

    fn list(&self, what: &[&str], label: &str) -> Vec<String> {
        let mine = format!("label=com.docker.compose.project={}", self.name);
        let label = format!("label={label}");
        let mut docker = Command::new("docker");
        docker
            .args(what)
            .args(["--quiet", "--filter", &mine, "--filter", &label]);
        done(&mut docker).lines().map(str::to_owned).collect()
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let logs = self.command().args(["logs", "--tail", "50"]).output();
            eprintln!("{}", logs.map(said).unwrap_or_default());
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
    /// Runs a script in it as whoever it runs as.
    pub(crate) fn run(&self, script: &str) -> Output {
        self.exec(&[], script)
    }

    /// Runs a script in it as root with every capability, to see what there is.
    pub(crate) fn look(&self, script: &str) -> String {
        let output = self.exec(&["--user", "0", "--privileged"], script);
        assert!(output.status.success(), "{script}: {}", said(output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn exec(&self, options: &[&str], script: &str) -> Output {
        let mut docker = Command::new("docker");
        docker
            .arg("exec")
            .args(options)
            .args([&self.id, "bash", "-c", script]);
        docker.output().expect("docker can be run")
    }

    /// Kills it, as when its machine was lost.
    pub(crate) fn kill(&self) {
        done(Command::new("docker").args(["kill", &self.id]));
    }

    /// One field of what Docker knows of it.
    pub(crate) fn inspect(&self, field: &str) -> String {
        let format = format!("{{{{json .{field}}}}}");
        let text = done(Command::new("docker").args(["inspect", "--format", &format, &self.id]));
        text.trim().to_owned()
    }
}

/// Runs a command that must succeed; gives what it printed.
pub(crate) fn done(command: &mut Command) -> String {
    let output = command.output();
    let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", said(output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn said(output: Output) -> String {
    let both = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&both).into_owned()
}

/// The group that may use the daemon's socket.
fn socket_group() -> String {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/var/run/docker.sock")
        .map(|socket| socket.gid().to_string())
        .expect("the daemon's socket is there")
}
