//! A neighbour contract that is called throughout and must not be affected by the attackers.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use futures::future::Either;
use tokio::sync::{Notify, RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio::task::JoinHandle;

use crate::attack::shown;
use crate::support::client::{Answer, Client};
use crate::support::wait;

/// How long a call of the neighbour may take: the only promised bound.
pub(crate) const NEIGHBOUR_LATENCY: Duration = Duration::from_millis(250);
/// The same while its browser is restarted.
const RESTART_LATENCY: Duration = Duration::from_secs(5);
/// The interval of the neighbour's calls.
const PACE: Duration = Duration::from_millis(50);
/// After this time a call counts as unanswered. It is longer than any call may take.
const NO_ANSWER_AFTER: Duration = Duration::from_secs(15);

/// Whether the neighbour's page may be replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Browser {
    /// It must survive.
    Stays,
    /// It may be recreated.
    MayGo,
}

/// How a neighbour was affected.
#[derive(Debug)]
pub(crate) enum Disturbance {
    /// It was slow, which a busy machine may explain.
    Slow(String),
    /// It failed or lost its state, which nothing excuses.
    Failed(String),
}

/// What follows from the neighbour's disturbance.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// There was none.
    Unaffected,
    /// It was slow; the case is run once more.
    Retry,
    /// It was slow each time while other programs kept the machine busy.
    Excused(String),
    Failed(String),
}

/// How many times a case is run when the only problem is a slow neighbour.
const TRIES: u32 = 3;
/// How much of the machine others may use. Beyond this, the bound is not judged.
const MAX_FOREIGN: f64 = 0.25;

/// Shards run in parallel, but a retry runs exclusively, so that no shard is slow because of
/// another.
static PERMITS: RwLock<()> = RwLock::const_new(());

/// The permit to run a case: shared for the first try, exclusive for a retry.
pub(crate) type Permit = Either<RwLockReadGuard<'static, ()>, RwLockWriteGuard<'static, ()>>;

/// Waits for the permit of the first or a further try.
pub(crate) async fn permit(tries: u32) -> Permit {
    match tries {
        1 => Either::Left(PERMITS.read().await),
        _ => Either::Right(PERMITS.write().await),
    }
}

/// Judges a case after `tries` runs. Only slowness is ever excused. A neighbour that failed or was
/// recreated was affected.
pub(crate) fn judge(disturbance: Option<Disturbance>, tries: u32, foreign: f64) -> Verdict {
    match disturbance {
        None => Verdict::Unaffected,
        Some(Disturbance::Failed(what)) => {
            Verdict::Failed(format!("the neighbour was affected: {what}"))
        }
        Some(Disturbance::Slow(_)) if tries < TRIES => Verdict::Retry,
        Some(Disturbance::Slow(waited)) if foreign > MAX_FOREIGN => Verdict::Excused(format!(
            "the neighbour's bound was not judged: others used {:.0} % of the machine (it waited {waited})",
            foreign * 100.0
        )),
        Some(Disturbance::Slow(waited)) => {
            Verdict::Failed(format!("the neighbour waited {waited}"))
        }
    }
}

/// Calls the neighbour in the background and records the results.
pub(crate) struct Neighbour {
    seen: Arc<Mutex<Calls>>,
    /// Triggers the next call immediately.
    now: Arc<Notify>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Calls {
    /// The start of the most recent call that has ended.
    begun: Option<Instant>,
    latencies: Vec<Duration>,
    failures: Vec<String>,
    /// The most recent generation, and whether it changed meanwhile.
    generation: u64,
    renewed: bool,
    /// The latencies of the whole run.
    all: Vec<Duration>,
}

impl Calls {
    fn note(&mut self, begun: Instant, answer: &Answer) {
        let took = begun.elapsed();
        self.begun = Some(begun);
        self.latencies.push(took);
        self.all.push(took);
        if answer.status != 200 {
            self.failures.push(shown(answer));
        } else if answer.generation() != self.generation {
            self.renewed |= self.generation != 0;
            self.generation = answer.generation();
        }
    }
}

impl Neighbour {
    /// Starts to call a method that needs no argument.
    pub(crate) fn start(client: Client, address: &'static str, method: &'static str) -> Self {
        let seen = Arc::new(Mutex::new(Calls::default()));
        let now = Arc::new(Notify::new());
        let (notes, call_now) = (Arc::clone(&seen), Arc::clone(&now));
        let task = tokio::spawn(async move {
            loop {
                let begun = Instant::now();
                let answer = client.call(address, method).await;
                locked(&notes).note(begun, &answer);
                tokio::select! {
                    () = wait::pass(PACE.saturating_sub(begun.elapsed())) => {}
                    () = call_now.notified() => {}
                }
            }
        });
        Self { seen, now, task }
    }

    /// Discards the record so far.
    pub(crate) fn reset(&self) {
        let mut calls = locked(&self.seen);
        calls.latencies.clear();
        calls.failures.clear();
        calls.renewed = false;
    }

    /// The disturbance since the last reset. Waits for a call that starts now: by its end all
    /// earlier calls have ended, and even a short case is covered by a call.
    pub(crate) async fn disturbance(
        &self,
        limit: Duration,
        browser: Browser,
    ) -> Option<Disturbance> {
        let asked = Instant::now();
        self.now.notify_one();
        let has_ended = || locked(&self.seen).begun.is_some_and(|begun| begun >= asked);
        while !has_ended() {
            if asked.elapsed() > NO_ANSWER_AFTER {
                return Some(Disturbance::Failed(format!(
                    "no answer in {NO_ANSWER_AFTER:?}"
                )));
            }
            wait::pass(Duration::from_millis(1)).await;
        }
        let calls = locked(&self.seen);
        if let Some(failure) = calls.failures.first() {
            return Some(Disturbance::Failed(failure.clone()));
        }
        let limit = match (calls.renewed, browser) {
            (false, _) => limit,
            // It ended with its browser, and its calls waited for the next one.
            (true, Browser::MayGo) => RESTART_LATENCY,
            (true, Browser::Stays) => return Some(Disturbance::Failed("recreated".to_owned())),
        };
        let slowest = calls.latencies.iter().max()?;
        (*slowest > limit).then(|| Disturbance::Slow(format!("{slowest:.0?}")))
    }

    /// Stops calling and returns a summary of the whole run.
    pub(crate) async fn end(self) -> Option<String> {
        self.task.abort();
        // The task was aborted. If it panicked, its calls have shown that.
        _ = self.task.await;
        let mut calls = locked(&self.seen);
        calls.all.sort_unstable();
        let (count, slowest) = (calls.all.len(), calls.all.last()?);
        let p99 = calls.all[count * 99 / 100];
        Some(format!(
            "neighbour: {count} calls, p99 {p99:.1?}, slowest {slowest:.1?}"
        ))
    }
}

fn locked(calls: &Mutex<Calls>) -> MutexGuard<'_, Calls> {
    calls.lock().expect("the lock is not poisoned")
}
