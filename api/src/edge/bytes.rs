//! The bytes of request bodies, bounded over all requests of one kind.
//!
//! A body takes bytes as they arrive, so that a client that only announces a large body occupies
//! nothing. Bodies that grow together could fill the bound with none complete. Therefore a part of
//! it, the size of the largest body, is reserved: it is for complete bodies, and for one growing
//! body at a time, the leader. The others are not read meanwhile. So one body can always become
//! complete, unless its client is late: then it is refused.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;

use super::connections::Connection;

/// The bytes of all bodies of one kind.
#[derive(Debug)]
pub(crate) struct BodyPool {
    /// Bytes of all bodies together.
    limit: usize,
    /// The part that only the leader and complete bodies may use.
    reserve: usize,
    state: Mutex<State>,
    /// Bytes were released, or the leader has left.
    released: Notify,
}

#[derive(Debug, Default)]
struct State {
    used: usize,
    leader: Option<u64>,
    /// The bodies that are not complete.
    growing: HashMap<u64, Arc<Connection>>,
    /// How many of them wait for bytes.
    waiting: usize,
}

/// Bytes that a complete body, or what was made from it, occupies; released on drop.
#[derive(Debug)]
pub(crate) struct HeldBytes {
    pool: Arc<BodyPool>,
    bytes: usize,
}

/// A body that is being received. On drop its connection is not waited for any more, and bytes
/// that were not [kept](Self::finish) are released.
#[derive(Debug)]
pub(crate) struct ReadingBody {
    held: HeldBytes,
    connection: Arc<Connection>,
    /// It is registered in the pool.
    is_growing: bool,
    /// It waits for room.
    is_waiting: bool,
}

/// Why there are no bytes for a body now.
#[derive(Debug)]
struct NoRoom {
    /// When the next client that is waited for may be late.
    next_late: Option<Instant>,
}

impl BodyPool {
    /// A bound of `limit` bytes for bodies of at most `largest` bytes each.
    pub(crate) fn new(limit: usize, largest: usize) -> Arc<Self> {
        Arc::new(Self {
            limit: limit.max(largest),
            reserve: largest,
            state: Mutex::default(),
            released: Notify::new(),
        })
    }

    /// How many bytes are occupied.
    pub(crate) fn used(&self) -> usize {
        self.lock().used
    }

    /// A body that arrives on `connection`.
    pub(crate) fn read(self: &Arc<Self>, connection: &Arc<Connection>) -> ReadingBody {
        ReadingBody {
            held: HeldBytes {
                pool: self.clone(),
                bytes: 0,
            },
            connection: connection.clone(),
            is_growing: false,
            is_waiting: false,
        }
    }

    /// Takes bytes for a body. If there are none, one client that is late loses its place.
    fn take(&self, connection: &Connection, bytes: usize, complete: bool) -> Result<(), NoRoom> {
        let mut state = self.lock();
        let after = state.used.saturating_add(bytes);
        let fits = after <= self.limit - self.reserve;
        if !fits && !complete && state.leader.is_none() {
            state.leader = Some(connection.id);
        }
        let may_use_reserve = complete || state.leader == Some(connection.id);
        if fits || (may_use_reserve && after <= self.limit) {
            state.used = after;
            return Ok(());
        }
        if state.growing.values().any(|one| one.is_evicted()) {
            // Its bytes are about to be free.
            return Err(NoRoom { next_late: None });
        }
        let waited_for = state.growing.values();
        let last = waited_for
            .filter_map(|one| Some((one.due()?, one)))
            .min_by_key(|(due, _)| *due);
        match last {
            Some((due, last)) if due < Instant::now() => {
                last.evict();
                Err(NoRoom { next_late: None })
            }
            last => Err(NoRoom {
                next_late: last.map(|(due, _)| due),
            }),
        }
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        change(&mut state);
        if state.waiting > 0 {
            self.released.notify_waiters();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No holder of the lock can panic half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ReadingBody {
    /// The client has to send more: it is waited for from now on.
    pub(crate) fn expect_more(&mut self) {
        if !self.is_growing {
            self.register();
        }
        if !self.connection.is_waited_for() {
            self.connection.expect_body();
        }
    }

    /// Enters the body into the pool, where the slowest one is looked for.
    fn register(&mut self) {
        self.is_growing = true;
        let connection = self.connection.clone();
        let mut state = self.held.pool.lock();
        state.growing.insert(connection.id, connection);
    }

    /// The client has sent `bytes`, which may also be discarded.
    pub(crate) fn advance(&self, bytes: usize) {
        self.connection.advance(bytes);
    }

    /// Waits until the client loses its place.
    pub(crate) async fn evicted(&self) {
        self.connection.evicted().await;
    }

    /// Whether the body waits for room, so that its client is not to blame for the time.
    pub(crate) fn is_waiting(&self) -> bool {
        self.is_waiting
    }

    /// Takes room for `bytes` that have arrived; waits for it if necessary. `complete`: they are
    /// the last ones. May be dropped.
    pub(crate) async fn grow(&mut self, bytes: usize, complete: bool) {
        if !complete && !self.is_growing {
            // Only what is registered may lead.
            self.register();
        }
        let pool = self.held.pool.clone();
        if pool.take(&self.connection, bytes, complete).is_err() {
            self.wait_for_room(&pool, bytes, complete).await;
        }
        self.held.bytes += bytes;
    }

    async fn wait_for_room(&mut self, pool: &BodyPool, bytes: usize, complete: bool) {
        let _waiting = Waiting::new(pool);
        self.is_waiting = true;
        self.connection.pause();
        loop {
            let released = pool.released.notified();
            tokio::pin!(released);
            released.as_mut().enable();
            let Err(NoRoom { next_late }) = pool.take(&self.connection, bytes, complete) else {
                break;
            };
            match next_late {
                Some(late) => tokio::select! {
                    () = released => {}
                    () = tokio::time::sleep_until(late) => {}
                },
                None => released.await,
            }
        }
        self.is_waiting = false;
        // It was not read meanwhile, so its client may not count as late.
        self.connection.expect_body();
    }

    /// The body is complete.
    pub(crate) fn finish(mut self) -> HeldBytes {
        HeldBytes {
            pool: self.held.pool.clone(),
            bytes: std::mem::take(&mut self.held.bytes),
        }
    }
}

impl Drop for ReadingBody {
    fn drop(&mut self) {
        self.connection.pause();
        let id = self.connection.id;
        if self.is_growing {
            self.held.pool.change(|state| {
                state.growing.remove(&id);
                state.leader.take_if(|leader| *leader == id);
            });
        }
    }
}

impl Drop for HeldBytes {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.pool.change(|state| state.used -= self.bytes);
        }
    }
}

/// Counts a body that waits for bytes.
struct Waiting<'a>(&'a BodyPool);

impl<'a> Waiting<'a> {
    fn new(pool: &'a BodyPool) -> Self {
        pool.lock().waiting += 1;
        Self(pool)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.lock().waiting -= 1;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    const SOON: Duration = Duration::from_millis(20);

    fn body(pool: &Arc<BodyPool>, id: u64) -> ReadingBody {
        let mut body = pool.read(&Connection::for_test(id));
        body.expect_more();
        body
    }

    /// Whether the body gets bytes at once.
    async fn fits(body: &mut ReadingBody, bytes: usize) -> bool {
        timeout(SOON, body.grow(bytes, false)).await.is_ok()
    }

    #[tokio::test]
    async fn bodies_that_fill_the_bound_together_are_received_one_after_the_other() {
        let pool = BodyPool::new(100, 50);
        let (mut one, mut other) = (body(&pool, 1), body(&pool, 2));
        assert!(fits(&mut one, 25).await && fits(&mut other, 25).await);
        assert!(fits(&mut one, 20).await, "it leads");
        assert!(!fits(&mut other, 5).await);
        assert!(other.is_waiting() && !one.is_waiting());
        let held = one.finish();
        assert!(fits(&mut other, 25).await, "it leads now");
        assert_eq!(pool.used(), 95);
        drop(held);
        drop(other);
        assert_eq!(pool.used(), 0);
    }

    #[tokio::test]
    async fn a_body_that_ends_while_it_waits_leaves_the_lead_to_others() {
        let pool = BodyPool::new(100, 50);
        let held = body(&pool, 1);
        let mut full = pool.read(&Connection::for_test(2));
        assert!(timeout(SOON, full.grow(100, true)).await.is_ok());
        let mut first = pool.read(&Connection::for_test(3));
        assert!(!fits(&mut first, 10).await, "it would lead");
        drop((held, first, full));
        let (mut one, mut other) = (body(&pool, 4), body(&pool, 5));
        assert!(fits(&mut one, 50).await && fits(&mut other, 50).await);
    }

    #[tokio::test]
    async fn a_complete_body_does_not_wait_for_growing_ones() {
        let pool = BodyPool::new(100, 50);
        let mut slow = body(&pool, 1);
        assert!(fits(&mut slow, 50).await);
        let mut leads = body(&pool, 2);
        assert!(fits(&mut leads, 10).await);
        let mut small = pool.read(&Connection::for_test(3));
        assert!(timeout(SOON, small.grow(10, true)).await.is_ok());
    }

    #[tokio::test]
    async fn the_body_whose_client_is_furthest_behind_is_refused() {
        let pool = BodyPool::new(100, 50);
        let (mut slow, mut slower) = (body(&pool, 1), body(&pool, 2));
        assert!(fits(&mut slower, 45).await && fits(&mut slow, 45).await);
        slow.connection.lapse();
        slower.connection.lapse();
        slow.advance(10);
        let mut newcomer = body(&pool, 3);
        assert!(!fits(&mut newcomer, 40).await, "nothing is free yet");
        assert!(slower.connection.is_evicted());
        assert!(!slow.connection.is_evicted() && !newcomer.connection.is_evicted());
        drop(slower);
        assert!(fits(&mut newcomer, 5).await);
    }
}
