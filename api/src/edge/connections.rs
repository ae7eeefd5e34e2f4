//! The open connections, bounded in number.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::pace::Pace;

/// What a connection is used for at the moment. Clients that are late lose their places in this
/// order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
enum Phase {
    /// A body is being received.
    Body,
    /// The first request has not begun.
    New,
    /// Between two requests.
    Idle,
    /// A request is being carried out, or waits for something that is not its client.
    Busy,
}

/// All open connections of this process.
#[derive(Debug)]
pub(crate) struct Connections {
    limit: usize,
    open: Mutex<Open>,
    /// One was closed.
    closed: Notify,
}

#[derive(Debug, Default)]
struct Open {
    last_id: u64,
    by_id: HashMap<u64, Arc<Connection>>,
}

/// One connection, as its requests see it.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(super) id: u64,
    at_loopback: AtomicBool,
    phase: AtomicU8,
    pace: Pace,
    evicted: CancellationToken,
    is_answered: AtomicBool,
}

/// A place among the open connections; given back on drop.
#[derive(Debug)]
pub(crate) struct OpenConnection {
    all: Arc<Connections>,
    connection: Arc<Connection>,
}

impl Connections {
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            open: Mutex::default(),
            closed: Notify::new(),
        })
    }

    /// How many connections are open.
    pub(crate) fn open(&self) -> usize {
        self.lock().by_id.len()
    }

    /// Waits for a place. If all are taken, the client that is furthest behind loses its own.
    pub(crate) async fn admit(self: &Arc<Self>) -> OpenConnection {
        loop {
            let closed = self.closed.notified();
            let next_late = match self.try_admit() {
                Ok(connection) => return connection,
                Err(next_late) => next_late,
            };
            match next_late {
                Some(late) => tokio::select! {
                    () = closed => {}
                    () = tokio::time::sleep_until(late) => {}
                },
                None => closed.await,
            }
        }
    }

    /// Takes a place. If there is none, evicts a client that is late, and fails with the moment at
    /// which the next one may be.
    fn try_admit(self: &Arc<Self>) -> Result<OpenConnection, Option<Instant>> {
        let mut open = self.lock();
        if open.by_id.len() < self.limit {
            open.last_id += 1;
            let connection = Arc::new(Connection::new(open.last_id));
            open.by_id.insert(connection.id, connection.clone());
            return Ok(OpenConnection {
                all: self.clone(),
                connection,
            });
        }
        if open.by_id.values().any(|one| one.is_about_to_close()) {
            // Its place is about to be free.
            return Err(None);
        }
        let waited_for = || open.by_id.values().filter(|one| one.is_waited_for());
        let now = Instant::now();
        let late = waited_for().filter(|one| one.pace.due() < now);
        if let Some(last) = late.min_by_key(|one| (one.phase(), one.pace.due())) {
            last.evict();
            return Err(None);
        }
        Err(waited_for().map(|one| one.pace.due()).min())
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        // No holder of the lock can panic half-way.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.all.lock().by_id.remove(&self.connection.id);
        self.all.closed.notify_one();
    }
}

impl std::ops::Deref for OpenConnection {
    type Target = Arc<Connection>;

    fn deref(&self) -> &Arc<Connection> {
        &self.connection
    }
}

impl Connection {
    fn new(id: u64) -> Self {
        Self {
            id,
            at_loopback: AtomicBool::new(false),
            phase: AtomicU8::new(Phase::New as u8),
            pace: Pace::new(),
            evicted: CancellationToken::new(),
            is_answered: AtomicBool::new(false),
        }
    }

    /// A connection outside a server.
    #[cfg(test)]
    pub(crate) fn for_test(id: u64) -> Arc<Self> {
        Arc::new(Self::new(id))
    }

    #[cfg(test)]
    pub(super) fn lapse(&self) {
        self.pace.lapse();
    }

    /// The client has connected to a loopback address of this machine.
    pub(crate) fn arrived_at_loopback(&self) {
        self.at_loopback.store(true, Ordering::Relaxed);
    }

    /// Whether the client has connected to a loopback address.
    pub(crate) fn is_at_loopback(&self) -> bool {
        self.at_loopback.load(Ordering::Relaxed)
    }

    /// The head of a request has arrived.
    pub(crate) fn request_begins(&self) {
        self.enter(Phase::Busy);
    }

    /// The response is complete: the next request may come.
    pub(crate) fn request_ends(&self) {
        self.pace.restart(Instant::now());
        self.enter(Phase::Idle);
    }

    /// The client is to send a body, or its rest, from now on.
    pub(super) fn expect_body(&self) {
        self.pace.restart(Instant::now());
        self.enter(Phase::Body);
    }

    /// The client has sent `bytes` of a body.
    pub(super) fn advance(&self, bytes: usize) {
        self.pace.advance(bytes, Instant::now());
    }

    /// The client is not waited for any more.
    pub(super) fn pause(&self) {
        self.enter(Phase::Busy);
    }

    /// Waits until the client loses its place.
    pub(crate) async fn evicted(&self) {
        self.evicted.cancelled().await;
    }

    /// Whether the client that lost its place was sending a body: then it gets a response.
    pub(crate) fn is_answered(&self) -> bool {
        self.is_answered.load(Ordering::Relaxed)
    }

    /// Whether a request is in progress. It may have become complete just before its client lost
    /// its place.
    pub(crate) fn is_busy(&self) -> bool {
        self.phase() == Phase::Busy
    }

    pub(super) fn evict(&self) {
        let is_answered = self.phase() == Phase::Body;
        self.is_answered.store(is_answered, Ordering::Relaxed);
        self.evicted.cancel();
    }

    pub(super) fn is_evicted(&self) -> bool {
        self.evicted.is_cancelled()
    }

    /// When the client is, or was, late. None while it is not waited for.
    pub(super) fn due(&self) -> Option<Instant> {
        self.is_waited_for().then(|| self.pace.due())
    }

    /// Whether it is the client's turn.
    pub(super) fn is_waited_for(&self) -> bool {
        !self.is_busy()
    }

    fn is_about_to_close(&self) -> bool {
        self.is_evicted() && !self.is_busy()
    }

    fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Relaxed) {
            0 => Phase::Body,
            1 => Phase::New,
            2 => Phase::Idle,
            _ => Phase::Busy,
        }
    }

    fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    async fn is_evicted(connection: &Connection) -> bool {
        timeout(LONG, connection.evicted()).await.is_ok()
    }

    fn newcomer(all: &Arc<Connections>) -> impl Future<Output = OpenConnection> + use<> {
        let all = all.clone();
        let admitted = tokio::spawn(async move { all.admit().await });
        async { timeout(LONG, admitted).await.unwrap().unwrap() }
    }

    #[tokio::test]
    async fn a_slow_body_loses_its_place_before_other_connections() {
        let all = Connections::new(3);
        let new = all.admit().await;
        let (idle, body) = (all.admit().await, all.admit().await);
        idle.request_ends();
        body.expect_body();
        for late in [&new, &idle, &body] {
            late.pace.lapse();
        }
        let first = newcomer(&all);
        assert!(is_evicted(&body).await);
        assert!(!new.is_evicted() && !idle.is_evicted());
        drop(body);
        let _first = first.await;
        let second = newcomer(&all);
        assert!(is_evicted(&new).await);
        assert!(!idle.is_evicted());
        drop(new);
        second.await;
    }

    #[tokio::test]
    async fn a_request_in_progress_keeps_its_place() {
        let all = Connections::new(2);
        let (busy, other) = (all.admit().await, all.admit().await);
        busy.request_begins();
        busy.pace.lapse();
        let newcomer = newcomer(&all);
        // It is late a second after it was opened.
        assert!(is_evicted(&other).await);
        assert!(!busy.is_evicted());
        drop(other);
        newcomer.await;
    }
}
