//! One redis-server or sentinel.

use std::net::TcpListener;
use std::path::Path;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, Cmd, FromRedisValue, RedisResult, TlsCertificates, Value,
};

use super::READY_WITHIN;
use super::process::Guarded;

/// What a server does with writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It accepts them.
    Primary,
    /// It gets them from a primary.
    Replica,
}

/// A server. Its process is killed when the value is dropped.
pub struct Server {
    /// None after [`Self::kill`].
    process: Option<Guarded>,
    arguments: Vec<String>,
    client: Client,
    port: u16,
}

impl Server {
    /// A server that listens on a Unix socket only.
    pub(crate) fn on_socket(folder: &Path, socket: &Path) -> Self {
        let socket = socket.to_str().unwrap();
        let client = Client::open(format!("redis+unix://{socket}")).unwrap();
        let arguments = ["--port", "0", "--unixsocket", socket];
        Self::spawn(folder, client, 0, &arguments)
    }

    /// A server on a free port of the loopback interface, with its files in a folder of its own.
    pub(crate) fn on_port(folder: &Path, more: &[&str]) -> Self {
        let port = free_port();
        let folder = folder.join(port.to_string());
        std::fs::create_dir(&folder).unwrap();
        let client = Client::open(format!("redis://127.0.0.1:{port}")).unwrap();
        let number = port.to_string();
        let listen = ["--bind", "127.0.0.1", "--port", &number];
        Self::spawn(&folder, client, port, &[&listen, more].concat())
    }

    /// As [`Self::on_port`], with TLS only.
    pub(crate) fn encrypted(folder: &Path, trust: TlsCertificates, more: &[&str]) -> Self {
        let port = free_port();
        let client = encrypted_client(port, trust);
        let number = port.to_string();
        let listen = ["--bind", "127.0.0.1", "--port", "0", "--tls-port", &number];
        Self::spawn(folder, client, port, &[&listen, more].concat())
    }

    /// A sentinel, which keeps its state in its configuration file.
    pub(crate) fn sentinel(folder: &Path, configuration: &str) -> Self {
        let port = free_port();
        let file = folder.join(format!("sentinel-{port}.conf"));
        let text = format!("port {port}\nbind 127.0.0.1\n{configuration}");
        std::fs::write(&file, text).unwrap();
        let client = Client::open(format!("redis://127.0.0.1:{port}")).unwrap();
        let file = file.to_str().unwrap().to_owned();
        Self::run(vec![file, "--sentinel".to_owned()], client, port)
    }

    fn spawn(folder: &Path, client: Client, port: u16, arguments: &[&str]) -> Self {
        let folder = folder.to_str().unwrap();
        let common = ["--save", "", "--appendonly", "no", "--dir", folder];
        let all = arguments.iter().chain(&common);
        let arguments = all.map(|&argument| argument.to_owned()).collect();
        Self::run(arguments, client, port)
    }

    fn run(arguments: Vec<String>, client: Client, port: u16) -> Self {
        let mut server = Self {
            process: None,
            arguments,
            client,
            port,
        };
        server.restart();
        server
    }

    /// Starts it again after [`Self::kill`], and waits until it answers.
    pub fn restart(&mut self) {
        self.process = Some(Guarded::start("redis-server", &self.arguments));
        let deadline = Instant::now() + READY_WITHIN;
        while let Err(error) = self.run_now::<()>(&["PING"]) {
            assert!(
                Instant::now() < deadline,
                "redis-server, which scripts/setup installs, does not answer: {error}"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Kills it (SIGKILL). Its port stays its own.
    pub fn kill(&mut self) {
        drop(self.process.take());
    }

    /// Whether it was not killed.
    pub fn runs(&self) -> bool {
        self.process.is_some()
    }

    /// Sends a signal, by its name without `SIG`.
    pub fn signal(&self, name: &str) {
        let process = self.process.as_ref();
        process.expect("it was not killed").signal(name);
    }

    /// What it does with writes at the moment. None if it does not say.
    pub async fn role(&self) -> Option<Role> {
        let role = self.try_command::<Vec<Value>>(&["ROLE"]).await.ok()?;
        match role.first()? {
            Value::BulkString(name) if name == b"master" => Some(Role::Primary),
            Value::BulkString(name) if name == b"slave" => Some(Role::Replica),
            _ => None,
        }
    }

    /// The port of its primary, if it is a replica.
    pub(crate) async fn primary_port(&self) -> Option<u16> {
        let role = self.try_command::<Vec<Value>>(&["ROLE"]).await.ok()?;
        match &role[..] {
            [Value::BulkString(name), _, Value::Int(port), ..] if name == b"slave" => {
                u16::try_from(*port).ok()
            }
            _ => None,
        }
    }

    /// Its port. 0 if it listens on a Unix socket.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Sends a command and returns the answer, without a runtime.
    pub(crate) fn run_now<T: FromRedisValue>(&self, parts: &[&str]) -> RedisResult<T> {
        let mut connection = self.client.get_connection_with_timeout(READY_WITHIN)?;
        connection.set_read_timeout(Some(READY_WITHIN))?;
        command(parts).query(&mut connection)
    }

    /// As [`Self::run_now`], for a command that does not fail.
    pub(crate) fn must(&self, parts: &[&str]) {
        self.run_now::<()>(parts)
            .unwrap_or_else(|error| panic!("{parts:?}: {error}"));
    }

    /// Sends a command and returns the answer.
    pub async fn try_command<T: FromRedisValue>(&self, parts: &[&str]) -> RedisResult<T> {
        let mut connection = self.connection().await?;
        command(parts).query_async(&mut connection).await
    }

    /// As [`Self::try_command`], for a command that does not fail.
    pub async fn command<T: FromRedisValue>(&self, parts: &[&str]) -> T {
        let answer = self.try_command(parts).await;
        answer.unwrap_or_else(|error| panic!("{parts:?}: {error}"))
    }

    /// The library's own limit of 500 ms is too short for `WAIT` and `MIGRATE`.
    async fn connection(&self) -> RedisResult<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(READY_WITHIN))
            .set_response_timeout(Some(READY_WITHIN));
        let client = &self.client;
        client
            .get_multiplexed_async_connection_with_config(&config)
            .await
    }

    /// Waits until the answer to a command contains all of these texts.
    pub(crate) fn wait_for(&self, parts: &[&str], texts: &[&str]) {
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            let answer = self.run_now::<String>(parts);
            if let Ok(answer) = &answer
                && texts.iter().all(|text| answer.contains(text))
            {
                return;
            }
            assert!(Instant::now() < deadline, "{texts:?} not in {answer:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// From now on the test trusts and shows other certificates.
    pub(crate) fn trust(&mut self, trust: TlsCertificates) {
        self.client = encrypted_client(self.port, trust);
    }
}

fn command(parts: &[&str]) -> Cmd {
    let (name, arguments) = parts.split_first().expect("a command has a name");
    redis::cmd(name).arg(arguments).to_owned()
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
