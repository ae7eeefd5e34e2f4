//! A circuit breaker: probes each server of Redis, so that requests that need it are refused at
//! once while it is unavailable, instead of each waiting for a timeout. It also measures memory.
//!
//! In a cluster, a server that is away refuses only the requests that need it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use shared::queue::{Memory, Queue, ServerName, ServerProbe};
use shared::service::lifecycle::Lifecycle;
use tokio::time::{Instant, timeout};

use crate::admission::RequestKind;
use crate::error::ApiError;

/// The pause between two probes.
const PROBE_EVERY: Duration = Duration::from_millis(100);

/// How long a probe may take. Redis normally answers in well under a millisecond.
const PROBE_TIMEOUT: Duration = Duration::from_millis(400);

/// How long all probes must fail before the breaker opens. A broken connection is replaced sooner.
const OPEN_AFTER: Duration = Duration::from_millis(500);

/// One probe of this many also measures the memory: often enough that what arrives in between, at
/// the speed of a network, fits into the part of the memory that is left to requests in progress.
const MEMORY_EVERY: u32 = 2;

/// Above this part of the memory of a server, in percent, loads are refused: what they store stays.
const NO_LOADS_ABOVE: u64 = 70;

/// Above this part calls are refused as well. At the limit Redis would refuse replies, so the rest
/// is left to requests in progress and to unloads.
const NO_CALLS_ABOVE: u64 = 80;

/// What a server of Redis, or all of them, can take. A state that refuses more is greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum QueueState {
    /// Every request.
    Available,
    /// No loads, because memory is short.
    NoLoads,
    /// No loads and no calls, because memory is nearly full.
    NoCalls,
    /// Nothing: it does not answer.
    Unavailable,
}

impl QueueState {
    const ALL: [Self; 4] = [
        Self::Available,
        Self::NoLoads,
        Self::NoCalls,
        Self::Unavailable,
    ];

    fn of(memory: Memory) -> Self {
        let percent = memory.percent();
        if percent > NO_CALLS_ABOVE {
            Self::NoCalls
        } else if percent > NO_LOADS_ABOVE {
            Self::NoLoads
        } else {
            Self::Available
        }
    }

    /// Whether requests of this kind are refused.
    pub(crate) fn refuses(self, kind: RequestKind) -> bool {
        match kind {
            RequestKind::Load => self >= Self::NoLoads,
            RequestKind::Call => self >= Self::NoCalls,
            RequestKind::Unload => self == Self::Unavailable,
        }
    }

    /// Refuses a request of this kind if it cannot be taken.
    pub(crate) fn check(self, kind: RequestKind) -> Result<(), ApiError> {
        match self {
            _ if !self.refuses(kind) => Ok(()),
            Self::Unavailable => Err(ApiError::queue_unavailable()),
            _ => Err(ApiError::low_memory()),
        }
    }
}

/// What the last probes found; cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Breaker(Arc<Found>);

#[derive(Debug, Default)]
struct Found {
    /// The state of the server that refuses least, as its place in [`QueueState::ALL`].
    least: AtomicU8,
    servers: RwLock<HashMap<ServerName, Server>>,
    executables: AtomicU64,
}

/// What the last probes of one server found.
#[derive(Debug, Clone, Copy)]
struct Server {
    answers: bool,
    answered_at: Instant,
    /// When it answered again, or took the place of another one.
    recovered_at: Option<Instant>,
    memory: Memory,
}

impl Server {
    fn new(now: Instant) -> Self {
        Self {
            answers: true,
            answered_at: now,
            recovered_at: None,
            memory: Memory::default(),
        }
    }

    fn state(&self) -> QueueState {
        if self.answers {
            QueueState::of(self.memory)
        } else {
            QueueState::Unavailable
        }
    }

    fn note(&mut self, probe: &ServerProbe, now: Instant) {
        if probe.answers {
            if !self.answers {
                self.recovered_at = Some(now);
            }
            (self.answers, self.answered_at) = (true, now);
        } else if now - self.answered_at >= OPEN_AFTER {
            self.answers = false;
        }
        self.memory = probe.memory.unwrap_or(self.memory);
    }
}

impl Breaker {
    /// The state of the server that refuses least: what it refuses, the whole queue refuses.
    pub(crate) fn state(&self) -> QueueState {
        QueueState::ALL[usize::from(self.0.least.load(Ordering::Relaxed))]
    }

    /// The state of one server. None: no server is known to have what a request needs.
    pub(crate) fn state_of(&self, server: Option<&ServerName>) -> QueueState {
        let Some(server) = server else {
            return QueueState::Unavailable;
        };
        let found = self.servers().get(server).map(Server::state);
        // Otherwise it has not been probed yet.
        found.unwrap_or(QueueState::Available)
    }

    /// Whether a server has recovered within the last `span`. It may have lost data.
    pub(crate) fn has_recovered(&self, server: Option<&ServerName>, span: Duration) -> bool {
        let servers = self.servers();
        let found = server.and_then(|server| servers.get(server));
        let recovered_at = found.and_then(|server| server.recovered_at);
        recovered_at.is_some_and(|moment| moment.elapsed() < span)
    }

    /// The servers, each with its state, sorted by name.
    pub(crate) fn states(&self) -> Vec<(ServerName, QueueState)> {
        let servers = self.servers();
        let mut states: Vec<_> = servers
            .iter()
            .map(|(name, server)| (name.clone(), server.state()))
            .collect();
        drop(servers);
        states.sort_unstable();
        states
    }

    /// Whether a server does not answer.
    pub(crate) fn is_incomplete(&self) -> bool {
        self.servers().values().any(|server| !server.answers)
    }

    /// Whether a server does not answer, or did not at some time since `moment`.
    pub(crate) fn was_incomplete_since(&self, moment: Instant) -> bool {
        let recovered = |server: &Server| server.recovered_at.is_some_and(|at| at >= moment);
        let is_or_was_away = |server: &Server| !server.answers || recovered(server);
        self.servers().values().any(is_or_was_away)
    }

    /// The memory of the fullest server, as it was measured last.
    pub(crate) fn memory(&self) -> Memory {
        let servers = self.servers();
        let memories = servers.values().map(|server| server.memory);
        let fullest = memories.max_by_key(|memory| (memory.percent(), memory.used));
        fullest.unwrap_or_default()
    }

    /// The bytes of all executables in Redis, as they were read last.
    pub(crate) fn executables(&self) -> u64 {
        self.0.executables.load(Ordering::Relaxed)
    }

    /// Stores what a probe of all servers has found. Servers that are gone are forgotten.
    pub(crate) fn found(&self, probes: &[ServerProbe], now: Instant) {
        let mut servers = self.servers_mut();
        let is_first = servers.is_empty();
        servers.retain(|name, _| probes.iter().any(|probe| probe.server == *name));
        for probe in probes {
            let entry = servers.entry(probe.server.clone());
            let server = entry.or_insert_with(|| Server {
                recovered_at: (!is_first).then_some(now),
                ..Server::new(now)
            });
            let before = server.state();
            server.note(probe, now);
            if server.state() != before {
                log_change(&probe.server, server);
            }
        }
        let least = servers.values().map(Server::state).min();
        let least = least.unwrap_or(QueueState::Unavailable);
        self.0.least.store(least as u8, Ordering::Relaxed);
    }

    /// Probes Redis until the process stops.
    pub(crate) async fn run(self, queue: Queue, life: Lifecycle) {
        let mut number = 0_u32;
        loop {
            tokio::select! {
                () = tokio::time::sleep(PROBE_EVERY) => {}
                () = life.stopping() => return,
            }
            // A server that does not answer delays the probes of the others.
            let measures = queue.is_cluster() || number.is_multiple_of(MEMORY_EVERY);
            number = number.wrapping_add(1);
            let reading = async {
                if measures {
                    timeout(PROBE_TIMEOUT, queue.executable_bytes()).await
                } else {
                    Ok(Ok(self.executables()))
                }
            };
            let probing = queue.probe_servers(PROBE_TIMEOUT, measures);
            let (probes, executables) = tokio::join!(probing, reading);
            self.found(&probes, Instant::now());
            if let Ok(Ok(bytes)) = executables {
                self.0.executables.store(bytes, Ordering::Relaxed);
            }
        }
    }

    fn servers(&self) -> RwLockReadGuard<'_, HashMap<ServerName, Server>> {
        // No code that holds the lock can panic half-way.
        let servers = self.0.servers.read();
        servers.unwrap_or_else(PoisonError::into_inner)
    }

    fn servers_mut(&self) -> RwLockWriteGuard<'_, HashMap<ServerName, Server>> {
        let servers = self.0.servers.write();
        servers.unwrap_or_else(PoisonError::into_inner)
    }
}

fn log_change(name: &ServerName, server: &Server) {
    let state = server.state();
    let (refuses_loads, refuses_calls) = (
        state.refuses(RequestKind::Load),
        state.refuses(RequestKind::Call),
    );
    let Memory { used, limit } = server.memory;
    tracing::warn!(
        server = %name,
        answers = server.answers,
        refuses_loads,
        refuses_calls,
        used,
        limit,
        "queue state changed"
    );
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// What a probe finds of a server that answers.
    pub(crate) fn answered(name: &str, used: u64, limit: u64) -> ServerProbe {
        ServerProbe {
            server: name.into(),
            answers: true,
            memory: Some(Memory { used, limit }),
        }
    }

    fn silent(name: &str) -> ServerProbe {
        ServerProbe {
            server: name.into(),
            answers: false,
            memory: None,
        }
    }

    #[test]
    fn without_a_limit_memory_is_never_short() {
        let breaker = Breaker::default();
        breaker.found(&[answered("one", u64::MAX, 0)], Instant::now());
        assert_eq!(breaker.state(), QueueState::Available);
    }

    #[test]
    fn a_probe_that_measures_nothing_changes_no_measurement() {
        let breaker = Breaker::default();
        breaker.found(&[answered("one", 75, 100)], Instant::now());
        let ping = ServerProbe {
            memory: None,
            ..answered("one", 0, 0)
        };
        breaker.found(&[ping], Instant::now());
        assert_eq!(breaker.state(), QueueState::NoLoads);
        assert_eq!(breaker.memory().used, 75);
    }

    #[test]
    fn a_silent_server_refuses_only_what_needs_it() {
        let breaker = Breaker::default();
        let [one, other] = ["one", "other"].map(ServerName::from);
        let now = Instant::now();
        let (soon, later) = (now + OPEN_AFTER / 2, now + OPEN_AFTER);
        let full = || answered("other", 75, 100);
        breaker.found(&[answered("one", 1, 100), full()], now);
        breaker.found(&[silent("one"), full()], soon);
        let state = breaker.state_of(Some(&one));
        assert_eq!(state, QueueState::Available, "one probe may fail");
        breaker.found(&[silent("one"), full()], later);
        let expected = [
            (one, QueueState::Unavailable),
            (other.clone(), QueueState::NoLoads),
        ];
        assert_eq!(breaker.states(), expected);
        assert_eq!(breaker.state_of(Some(&other)), QueueState::NoLoads);
        assert_eq!(breaker.state(), QueueState::NoLoads, "the best of them");
        assert!(breaker.is_incomplete() && breaker.was_incomplete_since(later));
        assert_eq!(breaker.memory().used, 75, "of the fullest");
        assert_eq!(breaker.state_of(None), QueueState::Unavailable);
        assert_eq!(breaker.state_of(Some(&"new".into())), QueueState::Available);
        assert!(!breaker.has_recovered(Some(&other), OPEN_AFTER));
        // Another server has taken its place, and then nothing answers any more.
        breaker.found(&[answered("next", 1, 100), full()], later);
        assert!(breaker.has_recovered(Some(&"next".into()), OPEN_AFTER));
        assert_eq!(breaker.state(), QueueState::Available);
        assert!(!breaker.is_incomplete());
        assert!(breaker.was_incomplete_since(now) && breaker.was_incomplete_since(later));
        let after = later + Duration::from_millis(1);
        assert!(!breaker.was_incomplete_since(after));
        let last = later + OPEN_AFTER;
        breaker.found(&[silent("next"), silent("other")], last);
        assert_eq!(breaker.state(), QueueState::Unavailable);
    }
}
