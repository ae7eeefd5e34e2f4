//! A TCP proxy between one program and Redis that cuts, delays or swallows the traffic.
//!
//! A program holds several connections for different uses. The proxy tells them apart by the
//! commands on them ([`Role`]).

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use super::wait::{self, DEFAULT_LIMIT};

/// What happens to the bytes on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Condition {
    /// They pass.
    Healthy,
    /// They pass after this delay.
    Delayed(Duration),
    /// They do not pass and no error is reported, as in a black hole. They arrive once it ends.
    Silent,
    /// What the program sends passes; what Redis sends is lost.
    RepliesLost,
    /// What Redis sends passes; what the program sends is lost, as is the end of its connection.
    RequestsLost,
    /// The program's connection is closed, but Redis does not notice it. What Redis sends is lost.
    HalfOpen,
    /// The connection is closed, as is every new one.
    Cut,
}

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    /// From the program to Redis.
    Up,
    /// From Redis to the program.
    Down,
}

/// What happens to bytes that go one way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    Pass(Duration),
    Hold,
    Lose,
    End,
}

impl Condition {
    fn flow(self, direction: Direction) -> Flow {
        match (self, direction) {
            (Self::Healthy, _)
            | (Self::RepliesLost, Direction::Up)
            | (Self::RequestsLost, Direction::Down) => Flow::Pass(Duration::ZERO),
            (Self::Delayed(time), _) => Flow::Pass(time),
            (Self::Silent, _) => Flow::Hold,
            (Self::RepliesLost | Self::HalfOpen, Direction::Down)
            | (Self::RequestsLost, Direction::Up) => Flow::Lose,
            (Self::HalfOpen, Direction::Up) | (Self::Cut, _) => Flow::End,
        }
    }

    /// Whether Redis does not notice that the program has closed the connection.
    fn hides_the_end(self) -> bool {
        matches!(self, Self::RequestsLost | Self::HalfOpen)
    }
}

/// What a program uses a connection for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Role {
    /// An api reads its replies.
    Replies,
    /// A worker reads its inbox.
    Inbox,
    /// Frames are appended: jobs by an api, replies by a worker.
    Append,
}

/// A running proxy. It ends when it is dropped.
pub(crate) struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    links: Mutex<Vec<Arc<Link>>>,
    rules: Mutex<Rules>,
    /// Whether a command was held back.
    held: watch::Sender<bool>,
}

struct Rules {
    all: Condition,
    role: Option<(Role, Condition)>,
    hold: Option<&'static str>,
}

struct Link {
    roles: Mutex<HashSet<Role>>,
    condition: watch::Sender<Condition>,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            all: Condition::Healthy,
            role: None,
            hold: None,
        }
    }
}

impl Proxy {
    /// Starts a proxy to `target` on the loopback interface.
    pub(crate) async fn start(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("the loopback interface has a free port");
        let port = listener
            .local_addr()
            .expect("a bound listener has an address")
            .port();
        let shared = Arc::new(Shared::default());
        let accepting = tokio::spawn(accept(listener, target, shared.clone()));
        Self {
            port,
            shared,
            accepting,
        }
    }

    /// The value of `REDIS_URL` for a program behind this proxy.
    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    /// Sets the condition of every connection, present and future.
    pub(crate) fn set_all(&self, condition: Condition) {
        lock(&self.shared.rules).all = condition;
        self.shared.spread(|_| true, condition);
    }

    /// Sets the condition of every connection of this role, present and future.
    pub(crate) fn set_role(&self, role: Role, condition: Condition) {
        lock(&self.shared.rules).role = Some((role, condition));
        self.shared.spread(|link| link.has(role), condition);
    }

    /// Sets the condition of the present connections of this role and returns their number. New
    /// connections are healthy.
    pub(crate) fn set_present(&self, role: Role, condition: Condition) -> usize {
        self.shared.spread(|link| link.has(role), condition)
    }

    /// Ends every fault.
    pub(crate) fn heal(&self) {
        *lock(&self.shared.rules) = Rules::default();
        self.shared.spread(|_| true, Condition::Healthy);
    }

    /// Lets everything pass up to the next command of this name. From then on nothing passes on its
    /// connection.
    pub(crate) fn hold_before(&self, command: &'static str) {
        lock(&self.shared.rules).hold = Some(command);
    }

    /// Waits until such a command was held.
    pub(crate) async fn wait_until_held(&self) {
        wait::until_true("a command to be held", DEFAULT_LIMIT, async || {
            *self.shared.held.borrow()
        })
        .await;
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Shared {
    fn spread(&self, concerns: impl Fn(&Link) -> bool, condition: Condition) -> usize {
        let mut links = lock(&self.links);
        // A link without receivers has ended.
        links.retain(|link| link.condition.receiver_count() > 0);
        let concerned = links.iter().filter(|link| concerns(link));
        concerned.fold(0, |count, link| {
            link.condition.send_replace(condition);
            count + 1
        })
    }

    /// Inspects what a program sends and returns how many bytes of it pass.
    fn inspect(&self, link: &Link, bytes: &[u8]) -> usize {
        link.learn(bytes);
        let mut rules = lock(&self.rules);
        if let Some(start) = rules.hold.and_then(|name| find_command(bytes, name)) {
            rules.hold = None;
            link.condition.send_replace(Condition::Silent);
            self.held.send_replace(true);
            return start;
        }
        // The bytes that identified a new connection still pass: the program cannot know whether
        // they did.
        if let Some((role, condition)) = rules.role
            && link.has(role)
        {
            link.condition.send_replace(condition);
        }
        bytes.len()
    }
}

impl Link {
    fn has(&self, role: Role) -> bool {
        lock(&self.roles).contains(&role)
    }

    fn learn(&self, bytes: &[u8]) {
        let mut roles = lock(&self.roles);
        if contains(bytes, b"\r\nXREAD\r\n") {
            roles.insert(Role::Replies);
        }
        if contains(bytes, b"\r\nXREADGROUP\r\n") && contains(bytes, b"}:in\r\n") {
            roles.insert(Role::Inbox);
        }
        if contains(bytes, b"\r\nXADD\r\n") {
            roles.insert(Role::Append);
        }
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// Where the command of this name begins: `*COUNT`, then its name.
fn find_command(bytes: &[u8], name: &str) -> Option<usize> {
    let name = format!("${}\r\n{name}\r\n", name.len());
    let at = bytes
        .windows(name.len())
        .position(|window| window == name.as_bytes())?;
    bytes[..at].iter().rposition(|byte| *byte == b'*')
}

async fn accept(listener: TcpListener, target: u16, shared: Arc<Shared>) {
    let mut links = JoinSet::new();
    loop {
        tokio::select! {
            Ok((stream, _)) = listener.accept() => {
                links.spawn(connect(stream, target, shared.clone()));
            }
            Some(_) = links.join_next() => {}
        }
    }
}

async fn connect(near: TcpStream, target: u16, shared: Arc<Shared>) {
    // When Redis is down, the connect fails and the program's connection is closed at once.
    let Ok(far) = TcpStream::connect(("127.0.0.1", target)).await else {
        return;
    };
    for stream in [&near, &far] {
        stream.set_nodelay(true).expect("a socket takes the option");
    }
    let link = Arc::new(Link {
        roles: Mutex::default(),
        condition: watch::Sender::new(lock(&shared.rules).all),
    });
    let condition = || link.condition.subscribe();
    let (up, down, mut end) = (condition(), condition(), condition());
    lock(&shared.links).push(link.clone());
    let (mut near_read, mut near_write) = near.into_split();
    let (mut far_read, mut far_write) = far.into_split();
    let inspect = |bytes: &[u8]| shared.inspect(&link, bytes);
    tokio::select! {
        () = pump(&mut near_read, &mut far_write, Direction::Up, up, inspect) => {}
        () = pump(&mut far_read, &mut near_write, Direction::Down, down, <[u8]>::len) => {}
    }
    drop((near_read, near_write));
    let mut lost = [0; 1024];
    while end.borrow_and_update().hides_the_end() {
        tokio::select! {
            read = far_read.read(&mut lost) => if !matches!(read, Ok(1..)) { return },
            changed = end.changed() => if changed.is_err() { return },
        }
    }
}

/// Carries bytes one way until an end closes, or the connection is cut.
async fn pump(
    from: &mut OwnedReadHalf,
    to: &mut OwnedWriteHalf,
    direction: Direction,
    mut condition: watch::Receiver<Condition>,
    passes: impl Fn(&[u8]) -> usize,
) {
    let mut buffer = vec![0; 64 * 1024];
    let mut is_broken = false;
    loop {
        let flow = condition.borrow_and_update().flow(direction);
        let read = match flow {
            Flow::End => return,
            // No connection continues after a gap.
            Flow::Pass(_) if is_broken => return,
            Flow::Hold => {
                if condition.changed().await.is_err() {
                    return;
                }
                continue;
            }
            Flow::Pass(_) | Flow::Lose => tokio::select! {
                read = from.read(&mut buffer) => read,
                Ok(()) = condition.changed() => continue,
            },
        };
        let Ok(count @ 1..) = read else {
            return;
        };
        match flow {
            Flow::Pass(delay) => {
                if !delay.is_zero() {
                    wait::pass(delay).await;
                }
                let passing = passes(&buffer[..count]);
                if to.write_all(&buffer[..passing]).await.is_err() {
                    return;
                }
            }
            _ => is_broken = true,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
