//! A contract beside the attackers that is called all the time, and must not notice them.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use futures::future::Either;
use tokio::sync::{Notify, RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio::task::JoinHandle;

use crate::attack::shown;
use crate::support::client::{Answer, Client};
use crate::support::wait;

/// How long a neighbour's call may take: the one bound that is promised.
pub(crate) const NEIGHBOURLY: Duration = Duration::from_millis(250);
/// The same while its browser is made anew.
const ANEW: Duration = Duration::from_secs(5);
/// How often the neighbour is called.
const PACE: Duration = Duration::from_millis(50);
/// After which a call has no answer: longer than any call may take.
const SILENCE: Duration = Duration::from_secs(15);

/// What the neighbour's page may go through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Browser {
    /// It lives on.
    Stays,
    /// It may be made anew.
    MayGo,
}

/// What the neighbour complains of.
#[derive(Debug)]
pub(crate) enum Complaint {
    /// It was slow, which a busy machine may explain.
    Slow(String),
    /// It failed or lost its state, which nothing explains.
    Noticed(String),
}

/// What follows from a neighbour's complaint.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// There is none.
    Well,
    /// It was slow; the case is run once more.
    Again,
    /// It was slow each time, while others kept the machine busy.
    Excused(String),
    Wrong(String),
}

/// How often a case is run when the only complaint is a slow neighbour.
const TRIES: u32 = 3;
/// How much of the machine others may use while the bound holds: beyond, nothing is said of it.
const FOREIGN: f64 = 0.25;

/// Lanes run beside each other, but who tries again does so alone: then no lane is slow for another's sake.
static TURNS: RwLock<()> = RwLock::const_new(());

/// The right to run a case.
pub(crate) type Turn = Either<RwLockReadGuard<'static, ()>, RwLockWriteGuard<'static, ()>>;

/// Waits for the turn of the first or a further try.
pub(crate) async fn turn(tries: u32) -> Turn {
    match tries {
        1 => Either::Left(TURNS.read().await),
        _ => Either::Right(TURNS.write().await),
    }
}

/// Judges after so many tries. Only slowness is ever explained away: a neighbour that failed or was made
/// anew has noticed.
pub(crate) fn judge(complaint: Option<Complaint>, tries: u32, foreign: f64) -> Verdict {
    match complaint {
        None => Verdict::Well,
        Some(Complaint::Noticed(what)) => Verdict::Wrong(format!("the neighbour noticed: {what}")),
        Some(Complaint::Slow(_)) if tries < TRIES => Verdict::Again,
        Some(Complaint::Slow(waited)) if foreign > FOREIGN => Verdict::Excused(format!(
            "the neighbour's bound says nothing, others used {:.0} % of the machine (it waited {waited})",
            foreign * 100.0
        )),
        Some(Complaint::Slow(waited)) => Verdict::Wrong(format!("the neighbour waited {waited}")),
    }
}

/// Who calls the neighbour, and what it saw.
pub(crate) struct Neighbour {
    seen: Arc<Mutex<Calls>>,
    /// Has the next call made at once.
    now: Arc<Notify>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Calls {
    /// When the last one of those that have ended was begun.
    begun: Option<Instant>,
    latencies: Vec<Duration>,
    failures: Vec<String>,
    /// The last one's, and whether it changed meanwhile.
    generation: u64,
    renewed: bool,
    /// Over the whole time.
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
    /// Calls a method that needs no argument, from now on.
    pub(crate) fn start(client: Client, address: &'static str, method: &'static str) -> Self {
        let seen = Arc::new(Mutex::new(Calls::default()));
        let now = Arc::new(Notify::new());
        let (notes, hurry) = (Arc::clone(&seen), Arc::clone(&now));
        let task = tokio::spawn(async move {
            loop {
                let begun = Instant::now();
                let answer = client.call(address, method).await;
                locked(&notes).note(begun, &answer);
                tokio::select! {
                    () = wait::pass(PACE.saturating_sub(begun.elapsed())) => {}
                    () = hurry.notified() => {}
                }
            }
        });
        Self { seen, now, task }
    }

    /// What was seen so far does not matter any more.
    pub(crate) fn forget(&self) {
        let mut calls = locked(&self.seen);
        calls.latencies.clear();
        calls.failures.clear();
        calls.renewed = false;
    }

    /// What it has to complain of since it last forgot. Waits for a call that is begun now: whatever was
    /// under way has ended by then, and a short case has been looked at all the same.
    pub(crate) async fn complaint(&self, limit: Duration, browser: Browser) -> Option<Complaint> {
        let asked = Instant::now();
        self.now.notify_one();
        let has_ended = || locked(&self.seen).begun.is_some_and(|begun| begun >= asked);
        while !has_ended() {
            if asked.elapsed() > SILENCE {
                return Some(Complaint::Noticed(format!("no answer in {SILENCE:?}")));
            }
            wait::pass(Duration::from_millis(1)).await;
        }
        let calls = locked(&self.seen);
        if let Some(failure) = calls.failures.first() {
            return Some(Complaint::Noticed(failure.clone()));
        }
        let limit = match (calls.renewed, browser) {
            (false, _) => limit,
            // It went down with its browser; its calls waited for the next one.
            (true, Browser::MayGo) => ANEW,
            (true, Browser::Stays) => return Some(Complaint::Noticed("made anew".to_owned())),
        };
        let slowest = calls.latencies.iter().max()?;
        (*slowest > limit).then(|| Complaint::Slow(format!("{slowest:.0?}")))
    }

    /// Calls no more; tells how it was over the whole time.
    pub(crate) async fn end(self) -> Option<String> {
        self.task.abort();
        // It was aborted, or has panicked, which its calls have shown.
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
    calls.lock().expect("nobody panics with it")
}
