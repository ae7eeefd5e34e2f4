//! A farm under attack. A neighbour contract runs beside the attackers and must not be affected.
//! After every case the state of the farm is checked.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use futures::FutureExt;

use crate::attack::{Attack, Control, contract, shown};
use crate::machine::Load;
pub(crate) use crate::neighbour::{Browser, NEIGHBOUR_LATENCY};
use crate::neighbour::{Neighbour, Verdict, judge, permit};
use crate::report::{Entry, Report};
use crate::support::client::{Answer, Client};
use crate::support::farm::{Builder, Farm};
use crate::support::processes::{self, ProcessInfo};
use crate::support::wait;

/// How much a worker's memory may grow while it is attacked.
pub(crate) const LEEWAY_KIB: u64 = 192 * 1024;
/// Page processes besides those of the contracts: one is kept for the next contract.
const SPARE: usize = 1;
/// How long processes and pages may take to end.
pub(crate) const LIMIT: Duration = Duration::from_secs(15);

/// The contract that is called throughout.
const NEIGHBOUR: &str = "neighbour";

/// A farm of one api and one worker, its neighbour contract, and the results of its cases.
pub(crate) struct AttackFarm {
    pub(crate) farm: Farm,
    neighbour: Option<Neighbour>,
    rss_kib: u64,
    browser: Vec<ProcessInfo>,
    /// How long a call of the neighbour may take.
    pub(crate) latency_limit: Duration,
    pub(crate) report: Report,
}

impl AttackFarm {
    /// Starts a farm with a neighbour that is called throughout.
    pub(crate) async fn start(builder: Builder) -> Self {
        let mut target = Self::bare(builder).await;
        let client = target.client().clone();
        client.must_load(NEIGHBOUR, "{ ping: () => 1 }").await;
        target.neighbour = Some(Neighbour::start(client, NEIGHBOUR, "ping"));
        target
    }

    /// Starts a farm without a neighbour, for controls: attacks are expected to succeed there.
    pub(crate) async fn bare(builder: Builder) -> Self {
        let farm = builder.start().await;
        let browser = farm.browsers(0);
        Self {
            rss_kib: rss_kib(farm.workers[0].pid()),
            browser,
            farm,
            neighbour: None,
            latency_limit: NEIGHBOUR_LATENCY,
            report: Report::default(),
        }
    }

    pub(crate) fn client(&self) -> &Client {
        self.farm.client()
    }

    pub(crate) fn worker_rss_kib(&self) -> u64 {
        rss_kib(self.farm.workers[0].pid())
    }

    /// Runs a case and checks the farm afterwards.
    pub(crate) async fn case(
        &mut self,
        row: &'static str,
        name: &str,
        browser: Browser,
        case: impl AsyncFn(&Farm) -> Result<String, String>,
    ) {
        let start = Instant::now();
        let label = format!("{row} {name}");
        let case = async |farm: &Farm| {
            let outcome = AssertUnwindSafe(case(farm)).catch_unwind().await;
            outcome.unwrap_or_else(|panic| Err(message(panic.as_ref())))
        };
        let outcome = match self.checked(&label, browser, case).await {
            (Ok(_), Err(noticed)) => Err(noticed),
            (outcome, _) => outcome,
        };
        self.note(row, name, outcome, None, start.elapsed());
    }

    /// Runs an action and then checks the farm and the neighbour. Repeats it if the only problem is
    /// a slow neighbour.
    pub(crate) async fn checked<T, E>(
        &mut self,
        what: &str,
        browser: Browser,
        action: impl AsyncFn(&Farm) -> Result<T, E>,
    ) -> (Result<T, E>, Result<(), String>) {
        let mut tries = 0;
        loop {
            tries += 1;
            let _permit = permit(tries).await;
            let load = Load::begin();
            self.neighbour.iter().for_each(Neighbour::reset);
            let outcome = action(&self.farm).await;
            let checked = self.check(browser).await;
            let foreign = load.foreign();
            let disturbance = match &self.neighbour {
                Some(neighbour) => neighbour.disturbance(self.latency_limit, browser).await,
                None => None,
            };
            if let Err(wrong) = checked {
                return (outcome, Err(wrong));
            }
            match judge(disturbance, tries, foreign) {
                Verdict::Failed(wrong) => return (outcome, Err(wrong)),
                Verdict::Retry if outcome.is_ok() => {}
                Verdict::Excused(why) if outcome.is_ok() => {
                    self.report.notes.push(format!("{what}: {why}"));
                    return (outcome, Ok(()));
                }
                _ => return (outcome, Ok(())),
            }
        }
    }

    /// Records the result of a case.
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
            let lines: Vec<_> = log
                .lines()
                .filter(|line| !line.contains(" INFO "))
                .collect();
            for line in &lines[lines.len().saturating_sub(8)..] {
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

    /// Runs an attack from one contract, with the controls that need no other farm.
    pub(crate) async fn attack(&mut self, attack: &Attack, argument: &serde_json::Value) {
        let Attack { row, name, .. } = *attack;
        let address = address(row, name);
        self.case(row, name, Browser::Stays, async |farm| {
            let client = farm.client();
            let answer = once(client, &address, attack.code, argument).await?;
            attack
                .expect
                .mismatch(&answer)
                .map_or(Ok(shown(&answer)), Err)
        })
        .await;
        let control =
            match attack.control {
                Control::Planted(plant, expect) => {
                    let code = format!("{plant}; {}", attack.code);
                    let answer = once(self.client(), &address, &code, argument).await;
                    Some(answer.and_then(|answer| {
                        expect.mismatch(&answer).map_or(Ok(shown(&answer)), Err)
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

    /// Runs the same attack where the protecting layers are off.
    pub(crate) async fn control(&mut self, attack: &Attack, argument: &serde_json::Value) {
        let Control::Without(expect) = attack.control else {
            return;
        };
        let _permit = permit(1).await;
        let start = Instant::now();
        let address = address(attack.row, attack.name);
        let answer = once(self.client(), &address, attack.code, argument).await;
        let control =
            answer.and_then(|answer| expect.mismatch(&answer).map_or(Ok(shown(&answer)), Err));
        let outcome = Ok(String::new());
        self.note(
            attack.row,
            attack.name,
            outcome,
            Some(control),
            start.elapsed(),
        );
    }

    /// Checks the conditions that must hold after every case.
    pub(crate) async fn check(&mut self, browser: Browser) -> Result<(), String> {
        self.farm.all_run();
        if browser == Browser::MayGo {
            self.browser = wait::until("exactly one browser", LIMIT, async || {
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
            wait::pass(Duration::from_millis(20)).await;
        }
    }

    /// Ends the farm, checks that nothing is left, and returns the results of its cases.
    pub(crate) async fn end(mut self) -> Report {
        if let Some(neighbour) = self.neighbour.take() {
            self.report.notes.extend(neighbour.end().await);
        }
        self.farm.stop().await;
        self.report
    }
}

/// Loads a contract, runs its attack, and unloads it.
pub(crate) async fn once(
    client: &Client,
    address: &str,
    code: &str,
    argument: &serde_json::Value,
) -> Result<Answer, String> {
    let loaded = client.load(address, &contract(code)).await;
    if loaded.status != 204 {
        return Err(format!("the contract did not load: {}", shown(&loaded)));
    }
    let answer = client.execute(address, "attack", argument).await;
    let unloaded = client.unload(address).await;
    if unloaded.status != 204 {
        return Err(format!("the contract did not unload: {}", shown(&unloaded)));
    }
    Ok(answer)
}

/// A contract address for a case: its row and the letters of its name.
pub(crate) fn address(row: &str, name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    format!("{row}-{}", name.chars().map(plain).collect::<String>())
}

/// The resident memory of a process.
pub(crate) fn rss_kib(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    kib.unwrap_or_default()
}

/// The message of a panic.
pub(crate) fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic without a message").to_owned()
}
