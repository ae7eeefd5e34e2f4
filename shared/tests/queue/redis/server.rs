//! One redis-server or sentinel process.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{Client, TlsCertificates};

/// A process. It is killed when the value is dropped.
pub(super) struct Server {
    process: Child,
    client: Client,
    pub(super) port: u16,
}

impl Server {
    /// A server that listens on a Unix socket only.
    pub(super) fn on_socket(folder: &Path, socket: &Path) -> Self {
        let socket = socket.to_str().unwrap();
        let client = Client::open(format!("redis+unix://{socket}")).unwrap();
        let arguments = ["--port", "0", "--unixsocket", socket];
        Self::spawn(folder, client, 0, &arguments)
    }

    /// A server on a free port of the loopback interface, with its files in a folder of its own.
    pub(super) fn on_port(folder: &Path, more: &[&str]) -> Self {
        let port = free_port();
        let folder = folder.join(port.to_string());
        std::fs::create_dir(&folder).unwrap();
        let client = Client::open(format!("redis://127.0.0.1:{port}")).unwrap();
        let number = port.to_string();
        let listen = ["--bind", "127.0.0.1", "--port", &number];
        Self::spawn(&folder, client, port, &[&listen, more].concat())
    }

    /// As [`Self::on_port`], with TLS only.
    pub(super) fn encrypted(folder: &Path, trust: TlsCertificates, more: &[&str]) -> Self {
        let port = free_port();
        let client = encrypted_client(port, trust);
        let number = port.to_string();
        let listen = ["--bind", "127.0.0.1", "--port", "0", "--tls-port", &number];
        Self::spawn(folder, client, port, &[&listen, more].concat())
    }

    /// A sentinel, which keeps its state in its configuration file.
    pub(super) fn sentinel(folder: &Path, configuration: &str) -> Self {
        let port = free_port();
        let file = folder.join(format!("sentinel-{port}.conf"));
        let text = format!("port {port}\nbind 127.0.0.1\n{configuration}");
        std::fs::write(&file, text).unwrap();
        let client = Client::open(format!("redis://127.0.0.1:{port}")).unwrap();
        let mut command = Command::new("redis-server");
        command.arg(&file).arg("--sentinel");
        Self::run(command, client, port)
    }

    fn spawn(folder: &Path, client: Client, port: u16, arguments: &[&str]) -> Self {
        let mut command = Command::new("redis-server");
        command
            .args(arguments)
            .args(["--save", "", "--appendonly", "no"])
            .arg("--dir")
            .arg(folder);
        Self::run(command, client, port)
    }

    fn run(mut command: Command, client: Client, port: u16) -> Self {
        let process = command
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed by scripts/setup");
        Self {
            process,
            client,
            port,
        }
    }

    /// Connects as soon as the server answers.
    pub(super) async fn connection(&self) -> MultiplexedConnection {
        let deadline = Instant::now() + super::READY_WITHIN;
        loop {
            match self.client.get_multiplexed_async_connection().await {
                Ok(connection) => return connection,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// From now on the test trusts and shows other certificates.
    pub(super) fn trust(&mut self, trust: TlsCertificates) {
        self.client = encrypted_client(self.port, trust);
    }

    pub(super) fn signal(&self, name: &str) {
        let kill = Command::new("kill")
            .args([&format!("-{name}"), &self.process.id().to_string()])
            .status();
        assert!(kill.unwrap().success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn encrypted_client(port: u16, trust: TlsCertificates) -> Client {
    Client::build_with_tls(format!("rediss://localhost:{port}"), trust).unwrap()
}

/// A free port whose cluster bus port, 10,000 above, is free as well. Both are below the range from
/// which the system assigns ports.
fn free_port() -> u16 {
    const FIRST: u16 = 11_000;
    const COUNT: u16 = 9_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Two runs at the same time start at different ports.
    let start = u16::try_from(std::process::id().wrapping_mul(97) % u32::from(COUNT)).unwrap();
    let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    (0..COUNT)
        .map(|_| FIRST + (start + NEXT.fetch_add(1, Ordering::Relaxed) % COUNT) % COUNT)
        .find(|port| is_free(port) && is_free(&(port + 10_000)))
        .expect("one of 9,000 ports is free")
}
