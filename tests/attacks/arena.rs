//! A farm under attack, with a contract beside the attackers that must not notice, and what must
//! be true after every case.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::FutureExt;
use tokio::task::JoinHandle;

use crate::attack::{Attack, Control, contract, shown};
use crate::machine::Load;
use crate::report::{Entry, Report};
use crate::support::client::{Answer, Client};
use crate::support::farm::{Builder, Farm};
use crate::support::processes::{self, Seen};
use crate::support::wait;

/// How long a neighbour's call may take: the one bound that is promised.
pub(crate) const NEIGHBOURLY: Duration = Duration::from_millis(250);
/// The same while its browser is made anew.
const ANEW: Duration = Duration::from_secs(5);
/// How often the neighbour is called.
const PACE: Duration = Duration::from_millis(50);
/// How often a case is run when the only complaint is a slow neighbour on a busy machine.
const TRIES: u32 = 3;
/// How much of the machine others may use while the bound holds: beyond, nothing is said of it.
const FOREIGN: f64 = 0.25;
/// How much a worker may grow while it is attacked.
const LEEWAY_KIB: u64 = 192 * 1024;
/// Processes for pages beside those of the contracts: one waits for the next contract.
const SPARE: usize = 1;
/// How long processes and pages may take to go.
const LIMIT: Duration = Duration::from_secs(15);

/// The contract that is called all the time.
const NEIGHBOUR: &str = "neighbour";

/// A farm of one api and one worker, a neighbour, and what has come of its cases.
pub(crate) struct Arena {
    pub(crate) farm: Farm,
    neighbour: Option<Neighbour>,
    rss_kib: u64,
    browser: Vec<Seen>,
    /// How long a neighbour's call may take.
    pub(crate) neighbourly: Duration,
    pub(crate) report: Report,
}

/// What a case may do to the browser.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Browser {
    /// It lives on.
    Stays,
    /// It may be made anew.
    MayGo,
}

impl Arena {
    /// A farm whose neighbour is watched.
    pub(crate) async fn start(builder: Builder) -> Self {
        let mut arena = Self::bare(builder).await;
        let client = arena.client().clone();
        client.must_load(NEIGHBOUR, "{ ping: () => 1 }").await;
        arena.neighbour = Some(Neighbour::start(client));
        arena
    }

    /// A farm on which nothing is expected but that attacks work.
    pub(crate) async fn bare(builder: Builder) -> Self {
        let farm = builder.start().await;
        let browser = farm.browsers(0);
        Self {
            rss_kib: rss_kib(farm.workers[0].pid()),
            browser,
            farm,
            neighbour: None,
            neighbourly: NEIGHBOURLY,
            report: Report::default(),
        }
    }

    pub(crate) fn client(&self) -> &Client {
        self.farm.client()
    }

    pub(crate) fn worker_rss_kib(&self) -> u64 {
        rss_kib(self.farm.workers[0].pid())
    }

    /// Runs a case and looks after it; again, if a busy machine made the neighbour slow.
    pub(crate) async fn case(
        &mut self,
        row: &'static str,
        name: &str,
        browser: Browser,
        case: impl AsyncFn(&Farm) -> Result<String, String>,
    ) {
        let start = Instant::now();
        let mut tries = 0;
        let outcome = loop {
            tries += 1;
            let load = Load::begin(&processes::of_folder(self.farm.folder()));
            self.neighbour.iter().for_each(Neighbour::forget);
            let outcome = AssertUnwindSafe(case(&self.farm)).catch_unwind().await;
            let outcome = outcome.unwrap_or_else(|panic| Err(message(panic.as_ref())));
            let outcome = match outcome {
                Ok(seen) => self.look(browser).await.map(|()| seen),
                wrong => wrong,
            };
            let foreign = load.foreign(&processes::of_folder(self.farm.folder()));
            match (
                outcome,
                self.neighbour
                    .as_ref()
                    .and_then(|neighbour| neighbour.complaint(self.neighbourly, browser)),
            ) {
                (Ok(seen), None) => break Ok(seen),
                (Ok(seen), Some(slow)) if tries == TRIES && foreign > FOREIGN => {
                    self.report.notes.push(format!(
                        "{row} {name}: the neighbour's bound says nothing, others used {:.0} % of the machine ({slow})",
                        foreign * 100.0
                    ));
                    break Ok(seen);
                }
                (Ok(_), Some(slow)) if tries == TRIES => break Err(slow),
                (Ok(_), Some(_)) => {}
                (Err(wrong), _) => break Err(wrong),
            }
        };
        self.note(row, name, outcome, None, start.elapsed());
    }

    /// Notes how a case came out.
    pub(crate) fn note(
        &mut self,
        row: &'static str,
        name: &str,
        outcome: Result<String, String>,
        control: Option<Result<String, String>>,
        time: Duration,
    ) {
        let verdict = match (&outcome, &control) {
            (Err(wrong), _) | (_, Some(Err(wrong))) => format!("FAILED {wrong}"),
            _ => "ok".to_owned(),
        };
        eprintln!("{row:>4} {name}: {verdict} ({} ms)", time.as_millis());
        if verdict != "ok" {
            let log = self.farm.workers[0].log();
            let told: Vec<_> = log
                .lines()
                .filter(|line| !line.contains(" INFO "))
                .collect();
            for line in &told[told.len().saturating_sub(8)..] {
                eprintln!("     {line}");
            }
        }
        self.report.entries.push(Entry {
            row,
            name: name.to_owned(),
            outcome,
            control,
            time,
        });
    }

    /// Attacks from one contract, with the controls that need no other farm.
    pub(crate) async fn attack(&mut self, attack: &Attack, argument: &serde_json::Value) {
        let Attack { row, name, .. } = *attack;
        let address = address(row, name);
        self.case(row, name, Browser::Stays, async |farm| {
            let client = farm.client();
            let answer = once(client, &address, attack.code, argument).await?;
            attack
                .expect
                .complaint(&answer)
                .map_or(Ok(shown(&answer)), Err)
        })
        .await;
        let control =
            match attack.control {
                Control::Planted(plant, expect) => {
                    let code = format!("{plant}; {}", attack.code);
                    let answer = once(self.client(), &address, &code, argument).await;
                    Some(answer.and_then(|answer| {
                        expect.complaint(&answer).map_or(Ok(shown(&answer)), Err)
                    }))
                }
                Control::Inherent => Some(Ok("in the case itself".to_owned())),
                Control::Elsewhere(case) => Some(Ok(format!("see {case}"))),
                Control::Without(_) => None,
            };
        if let Some(entry) = self.report.entries.last_mut() {
            entry.control = control;
        }
    }

    /// The same attack where its layers are off.
    pub(crate) async fn control(&mut self, attack: &Attack, argument: &serde_json::Value) {
        let Control::Without(expect) = attack.control else {
            return;
        };
        let start = Instant::now();
        let address = address(attack.row, attack.name);
        let answer = once(self.client(), &address, attack.code, argument).await;
        let control =
            answer.and_then(|answer| expect.complaint(&answer).map_or(Ok(shown(&answer)), Err));
        let outcome = Ok(String::new());
        self.note(
            attack.row,
            attack.name,
            outcome,
            Some(control),
            start.elapsed(),
        );
    }

    /// What must be true after every case.
    pub(crate) async fn look(&mut self, browser: Browser) -> Result<(), String> {
        self.farm.all_run();
        if browser == Browser::MayGo {
            self.browser = wait::until("one browser", LIMIT, async || {
                Some(self.farm.browsers(0)).filter(|browsers| browsers.len() == 1)
            })
            .await;
        }
        let browsers = self.farm.browsers(0);
        if browsers != self.browser {
            return Err(format!(
                "the browser was {:?}, is {browsers:?}",
                self.browser
            ));
        }
        let grown = self.worker_rss_kib().saturating_sub(self.rss_kib);
        if grown > LEEWAY_KIB {
            return Err(format!("the worker has grown by {} MiB", grown / 1024));
        }
        let worker = self.farm.workers[0].pid();
        let start = Instant::now();
        loop {
            let contracts = self.client().contracts().await.len();
            let renderers = self.farm.renderers(0).len();
            let zombies = processes::zombies(worker);
            let files = self.farm.profiles();
            let spare = renderers.saturating_sub(contracts);
            if contracts <= renderers && spare <= SPARE && zombies.is_empty() && files.len() == 1 {
                return Ok(());
            }
            if start.elapsed() > LIMIT {
                return Err(format!(
                    "{contracts} contracts, {renderers} renderers, zombies {zombies:?}, files {files:?}"
                ));
            }
            wait::lasts(Duration::from_millis(20)).await;
        }
    }

    /// Ends the farm, in which nothing may be left; gives what came of its cases.
    pub(crate) async fn end(mut self) -> Report {
        if let Some(neighbour) = self.neighbour.take() {
            self.report.notes.extend(neighbour.end().await);
        }
        self.farm.stop().await;
        self.report
    }
}

/// Loads a contract, has it attack, unloads it.
pub(crate) async fn once(
    client: &Client,
    address: &str,
    code: &str,
    argument: &serde_json::Value,
) -> Result<Answer, String> {
    let loaded = client.load(address, &contract(code)).await;
    if loaded.status != 204 {
        return Err(format!("it does not load: {}", shown(&loaded)));
    }
    let answer = client.execute(address, "attack", argument).await;
    let unloaded = client.unload(address).await;
    if unloaded.status != 204 {
        return Err(format!("it does not unload: {}", shown(&unloaded)));
    }
    Ok(answer)
}

/// An address for a case: its row and the letters of its name.
pub(crate) fn address(row: &str, name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    format!("{row}-{}", name.chars().map(plain).collect::<String>())
}

fn rss_kib(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    kib.unwrap_or_default()
}

/// What a panic said.
pub(crate) fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic without a message").to_owned()
}

/// Who calls the neighbour, and what it saw.
struct Neighbour {
    seen: Arc<Mutex<Calls>>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Calls {
    latencies: Vec<Duration>,
    failures: Vec<String>,
    /// The last one's, and whether it changed meanwhile.
    generation: u64,
    renewed: bool,
    /// Over the whole time.
    all: Vec<Duration>,
}

impl Calls {
    fn note(&mut self, took: Duration, answer: &Answer) {
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
    fn start(client: Client) -> Self {
        let seen = Arc::new(Mutex::new(Calls::default()));
        let notes = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            loop {
                let start = Instant::now();
                let answer = client.call(NEIGHBOUR, "ping").await;
                let took = start.elapsed();
                notes
                    .lock()
                    .expect("nobody panics with it")
                    .note(took, &answer);
                wait::lasts(PACE.saturating_sub(took)).await;
            }
        });
        Self { seen, task }
    }

    fn forget(&self) {
        let mut calls = self.seen.lock().expect("nobody panics with it");
        calls.latencies.clear();
        calls.failures.clear();
        calls.renewed = false;
    }

    fn complaint(&self, limit: Duration, browser: Browser) -> Option<String> {
        let calls = self.seen.lock().expect("nobody panics with it");
        if let Some(failure) = calls.failures.first() {
            return Some(format!("the neighbour noticed: {failure}"));
        }
        let limit = match (calls.renewed, browser) {
            (false, _) => limit,
            // It went down with its browser; its calls waited for the next one.
            (true, Browser::MayGo) => ANEW,
            (true, Browser::Stays) => return Some("the neighbour was made anew".to_owned()),
        };
        let slowest = calls.latencies.iter().max()?;
        (*slowest > limit).then(|| format!("the neighbour waited {slowest:.0?}"))
    }

    async fn end(self) -> Option<String> {
        self.task.abort();
        // It was aborted, or has panicked, which its calls have shown.
        _ = self.task.await;
        let mut calls = self.seen.lock().expect("nobody panics with it");
        calls.all.sort_unstable();
        let (count, slowest) = (calls.all.len(), calls.all.last()?);
        let p99 = calls.all[count * 99 / 100];
        Some(format!(
            "neighbour: {count} calls, p99 {p99:.1?}, slowest {slowest:.1?}"
        ))
    }
}
