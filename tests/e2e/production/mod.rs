//! The recipes of docs/production.md, run: a proxy with TLS in front of two apis, a Redis with
//! users, the units for systemd, several machines.
//!
//! `make test-production` installs the proxy and runs this module; `make test` does not.

mod machines;

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::client::Client;
use crate::support::farm::Farm;
use crate::support::process::Process;
use crate::support::programs;
use crate::support::wait::{self, DEFAULT_LIMIT};

const CONTRACT: &str = "{ echo: (a) => a }";

fn project(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file)
}

/// Runs a command that must succeed.
fn run(command: &mut Command) -> Output {
    let output = command.output();
    let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {output:?}");
    output
}

/// The proxy with the configuration of this project.
struct Proxy {
    process: Process,
    folder: TempDir,
    callers: u16,
    operators: u16,
}

impl Proxy {
    async fn start(apis: &[Client]) -> Self {
        let folder = TempDir::with_prefix("execution-proxy-").expect("a folder can be made");
        let path = |name: &str| folder.path().join(name);
        let mut openssl = Command::new("openssl");
        openssl
            .args([
                "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
            ])
            .args([
                "-subj",
                "/CN=localhost",
                "-addext",
                "subjectAltName=DNS:localhost",
            ])
            .arg("-keyout")
            .arg(path("key.pem"))
            .arg("-out")
            .arg(path("certificate.pem"));
        run(&mut openssl);
        let parts = ["certificate.pem", "key.pem"].map(|name| fs::read_to_string(path(name)));
        let both = parts.map(|part| part.expect("openssl wrote it")).concat();
        fs::write(path("both.pem"), both).expect("the folder can be written");

        let (callers, operators) = (programs::free_port(), programs::free_port());
        let mut command = Command::new("haproxy");
        command
            .arg("-f")
            .arg(project("deploy/haproxy/haproxy.cfg"))
            .env("CERTIFICATE", path("both.pem"))
            .env("PUBLIC", format!("127.0.0.1:{callers}"))
            .env("OPERATORS", format!("127.0.0.1:{operators}"));
        for (number, api) in apis.iter().enumerate() {
            let address = format!("127.0.0.1:{}", api.port());
            command.env(format!("API_{}", number + 1), address);
        }
        let mut process = Process::start("haproxy", command, folder.path());
        wait::until_true("the proxy to listen", DEFAULT_LIMIT, async || {
            assert!(process.ended().is_none(), "{}", process.log());
            [callers, operators]
                .iter()
                .all(|port| TcpStream::connect(("127.0.0.1", *port)).is_ok())
        })
        .await;
        Self {
            process,
            folder,
            callers,
            operators,
        }
    }

    /// Sends a request as a caller outside does. Returns the status and the body.
    async fn send(&self, port: u16, path: &str, body: Option<Value>) -> (u16, String) {
        let mut curl = tokio::process::Command::new("curl");
        curl.args([
            "--silent",
            "--show-error",
            "--max-time",
            "30",
            "--noproxy",
            "*",
        ])
        .arg("--cacert")
        .arg(self.folder.path().join("certificate.pem"))
        .args(["--write-out", "\n%{http_code}"])
        .arg(format!("https://localhost:{port}{path}"));
        if let Some(body) = body {
            curl.args([
                "--header",
                "Content-Type: application/json",
                "--data-binary",
            ])
            .arg(body.to_string());
        }
        let output = curl.output().await.expect("curl can be started");
        assert!(output.status.success(), "{path}: {output:?}");
        let text = String::from_utf8(output.stdout).expect("answers are text");
        let (body, status) = text.rsplit_once('\n').expect("curl writes the status");
        (
            status.parse().expect("a status is a number"),
            body.to_owned(),
        )
    }

    async fn call(&self, body: Value) -> (u16, String) {
        self.send(self.callers, "/execute/abcd/echo", Some(body))
            .await
    }
}

#[tokio::test]
async fn a_proxy_with_tls_serves_callers_and_operators() {
    let mut farm = Farm::builder().apis(2).start().await;
    let mut proxy = Proxy::start(&farm.clients).await;
    let load = json!({ "contractAddress": "abcd", "executable": CONTRACT });
    let (status, body) = proxy
        .send(proxy.callers, "/loadSmartContract", Some(load))
        .await;
    assert_eq!(status, 204, "{body}");
    assert_eq!(
        proxy.call(json!(1)).await,
        (200, r#"{"data":1}"#.to_owned())
    );
    for path in [
        "/workers",
        "/dead-letters",
        "/metrics",
        "/readyz",
        "/workers/x/drain",
    ] {
        assert_eq!(proxy.send(proxy.callers, path, None).await.0, 404, "{path}");
    }
    for path in ["/contracts", "/contracts/abcd", "/docs/", "/openapi.json"] {
        assert_eq!(proxy.send(proxy.callers, path, None).await.0, 200, "{path}");
    }
    for path in ["/workers", "/dead-letters", "/readyz"] {
        assert_eq!(
            proxy.send(proxy.operators, path, None).await.0,
            200,
            "{path}"
        );
    }

    // An api that is stopped takes no call with it.
    let calls = async {
        for number in 0..60 {
            let (status, body) = proxy.call(json!(number)).await;
            assert_eq!(status, 200, "{number}: {body}");
        }
    };
    tokio::join!(calls, farm.apis[1].terminate());

    // Without Redis the api answers, not the proxy.
    farm.redis.process().kill().await;
    wait::until_true("the api to notice", DEFAULT_LIMIT, async || {
        farm.client().farm_status().await.as_deref() == Some("unavailable")
    })
    .await;
    let (status, body) = proxy.call(json!(1)).await;
    assert_eq!(status, 503, "{body}");
    assert!(body.contains("queue_unavailable"), "{body}");
    proxy.process.kill().await;
    farm.restart_redis().await;
    farm.stop_ignoring_keys().await;
}

/// The programs need no other right than the file grants, and strangers have none.
#[tokio::test]
async fn a_farm_runs_on_a_redis_with_users() {
    let folder = TempDir::with_prefix("execution-redis-").expect("a folder can be made");
    let port = programs::free_port();
    let mut command = Command::new("redis-server");
    command
        .arg(project("deploy/redis/redis.conf"))
        .args(["--port", &port.to_string(), "--dir"])
        .arg(folder.path());
    let mut redis = Process::start("redis", command, folder.path());
    wait::until_true("Redis to listen", DEFAULT_LIMIT, async || {
        assert!(redis.ended().is_none(), "{}", redis.log());
        TcpStream::connect(("127.0.0.1", port)).is_ok()
    })
    .await;
    // The browsers run as another user, who must be able to reach the profiles.
    fs::set_permissions(
        folder.path(),
        std::os::unix::fs::PermissionsExt::from_mode(0o1777),
    )
    .expect("an own folder can be opened");
    let url = format!("redis://execution:EXECUTION_PASSWORD@127.0.0.1:{port}/");
    let api_port = programs::free_port();
    let start = |name: &str, mut command: Command| {
        command
            .env("REDIS_URL", &url)
            .env("EXECUTION_API_PORT", api_port.to_string())
            .env("WORKER_ENGINES", "javascript")
            .env("TMPDIR", folder.path())
            .env("CHROMIUM_CGROUP_MB", "0");
        Process::start(name, command, folder.path())
    };
    let mut programs = [
        start("worker", programs::worker()),
        start("api", programs::api()),
    ];
    let client = Client::new(api_port);
    wait::until_true("the farm to be ready", DEFAULT_LIMIT, async || {
        client.farm_status().await.as_deref() == Some("ready")
    })
    .await;
    client.must_load("abcd", CONTRACT).await;
    assert_eq!(client.execute("abcd", "echo", &json!(1)).await.data(), 1);
    let large = "x".repeat(100_000);
    assert_eq!(
        client.execute("abcd", "echo", &json!(large)).await.data(),
        large
    );
    assert_eq!(client.contracts().await.len(), 1);
    client.unload("abcd").await.is_no_content();
    for program in &mut programs {
        program.terminate().await;
        assert!(!program.log().contains("NOPERM"), "{}", program.log());
    }

    strangers_have_no_rights(port);
    redis.terminate().await;
}

fn strangers_have_no_rights(port: u16) {
    let ask = |words: &[&str]| {
        let mut command = Command::new("redis-cli");
        command.args(["-p", &port.to_string(), "--no-auth-warning"]);
        let answer = run(command.args(words)).stdout;
        String::from_utf8_lossy(&answer).into_owned()
    };
    let exporter = ["--user", "exporter", "--pass", "EXPORTER_PASSWORD"];
    assert!(ask(&["ping"]).contains("NOAUTH"));
    assert!(ask(&[&exporter[..], &["get", "exec:farm"]].concat()).contains("NOPERM"));
    assert!(ask(&[&exporter[..], &["info", "memory"]].concat()).contains("used_memory"));
}

/// As far as that can be known without booting a machine.
#[test]
fn the_units_for_systemd_are_valid() {
    let folder = TempDir::with_prefix("execution-units-").expect("a folder can be made");
    let bin = format!("{}/", programs::folder().display());
    let units = [
        ("execution-api.service", "execution-api.service"),
        ("execution-worker@.service", "execution-worker@1.service"),
    ];
    for (source, name) in units {
        let unit = fs::read_to_string(project("deploy/systemd").join(source));
        let unit = unit
            .expect("the unit is there")
            .replace("/usr/local/bin/", &bin);
        fs::write(folder.path().join(name), unit).expect("the folder can be written");
    }
    let paths = units.map(|(_, name)| folder.path().join(name));
    let mut verify = Command::new("systemd-analyze");
    let output = run(verify.arg("verify").args(paths));
    // Whatever it complains about is only printed.
    let said = String::from_utf8_lossy(&output.stderr);
    let ours = said.lines().filter(|line| line.contains("execution-"));
    assert_eq!(ours.collect::<Vec<_>>(), [""; 0]);
}
