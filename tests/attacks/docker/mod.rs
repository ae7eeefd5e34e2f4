//! D: contracts in containers. What is refused to a contract is seen to be possible: for the host, for
//! the contract itself where it may, or for the same contract where an operator has given all limits away.

mod conduct;
mod deeds;
#[expect(dead_code, reason = "the end-to-end tests use more of it")]
#[path = "../../e2e/docker/docker_farm.rs"]
mod docker_farm;
mod images;
mod open;
mod reach;
mod setuid;
#[expect(dead_code, reason = "the end-to-end tests use more of it")]
#[path = "../../e2e/docker/test_image.rs"]
mod test_image;

use std::collections::HashSet;
use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use bollard::query_parameters::ListVolumesOptions;
use futures::FutureExt;
use serde_json::Value;

use self::docker_farm::{DockerFarm, docker_builder};
use crate::arena::{LEEWAY_KIB, LIMIT, message, rss_kib};
use crate::machine::Load;
use crate::neighbour::{Browser, NEIGHBOURLY, Neighbour, Verdict, judge, turn};
use crate::report::{Entry, Report};
use crate::support::{daemon, wait};

/// Bytes of an image's tar at most.
const TAR_LIMIT: u32 = 8_000_000;

/// What came of a case: what was seen, and what the control showed.
type Outcome = Result<(String, Option<String>), String>;

/// The group, if a daemon answers.
pub(crate) async fn run() -> Report {
    let mut report = Report::default();
    let socket = daemon::address();
    if let Err(error) = tokio::net::UnixStream::connect(docker_farm::unix_socket(&socket)).await {
        report.skipped.push(format!(
            "D: no Docker daemon answers: {error} (scripts/setup --docker starts one)"
        ));
        return report;
    }
    let builder = docker_builder()
        .env("EXECUTE_TIMEOUT_MS", "3000")
        .env("CONTAINER_PROBE_TIMEOUT_MS", "500")
        .env("CONTAINER_LOAD_TIMEOUT_MS", "5000")
        .env("CONTAINER_TAR_LIMIT_BYTES", &TAR_LIMIT.to_string());
    let mut farm = DockerFarm::of(builder).await;
    farm.load_all(&["bad", "good"]).await;
    let mut cases = Cases::of(farm, report).await;
    reach::run(&mut cases).await;
    deeds::run(&mut cases).await;
    images::run(&mut cases).await;
    conduct::run(&mut cases).await;
    cases.end().await
}

/// A farm of one worker, with the contract `bad` and its neighbour `good`, and what has come of it.
struct Cases {
    farm: DockerFarm,
    report: Report,
    neighbour: Neighbour,
    rss_kib: u64,
    /// How many containers and networks there are between the cases.
    resources: usize,
    volumes: HashSet<String>,
}

impl Cases {
    async fn of(farm: DockerFarm, report: Report) -> Self {
        Self {
            report,
            neighbour: Neighbour::start(farm.client().clone(), "good", "count"),
            rss_kib: rss_kib(worker(&farm)),
            resources: farm.resources().await.len(),
            volumes: volumes(&farm).await,
            farm,
        }
    }

    async fn run(
        &mut self,
        row: &'static str,
        name: &str,
        case: impl AsyncFn(&mut DockerFarm) -> Outcome,
    ) {
        let start = Instant::now();
        let seen = self.watched(row, name, case).await;
        let (outcome, control) = match seen {
            Ok((seen, control)) => (Ok(seen), control.map(Ok)),
            Err(wrong) => (Err(wrong), None),
        };
        let time = start.elapsed();
        let verdict = outcome
            .as_ref()
            .map_or_else(|wrong| format!("FAILED {wrong}"), |_| "ok".to_owned());
        eprintln!("{row:>4} {name}: {verdict} ({} ms)", time.as_millis());
        self.report.entries.push(Entry {
            row,
            name: name.to_owned(),
            outcome,
            control,
            time,
        });
    }

    /// As [`crate::arena::Arena::watched`], for a farm without browsers.
    async fn watched(
        &mut self,
        row: &str,
        name: &str,
        case: impl AsyncFn(&mut DockerFarm) -> Outcome,
    ) -> Outcome {
        let mut tries = 0;
        loop {
            tries += 1;
            let _turn = turn(tries).await;
            let load = Load::begin();
            self.neighbour.forget();
            let seen = AssertUnwindSafe(case(&mut self.farm)).catch_unwind().await;
            let seen = seen.unwrap_or_else(|panic| Err(message(panic.as_ref())))?;
            self.look().await?;
            let complaint = self.neighbour.complaint(NEIGHBOURLY, Browser::Stays).await;
            match judge(complaint, tries, load.foreign()) {
                Verdict::Well => return Ok(seen),
                Verdict::Again => {}
                Verdict::Excused(why) => {
                    self.report.notes.push(format!("{row} {name}: {why}"));
                    return Ok(seen);
                }
                Verdict::Wrong(wrong) => return Err(wrong),
            }
        }
    }

    /// What must be true after every case: the worker has not grown, and nothing is left at the daemon.
    async fn look(&mut self) -> Result<(), String> {
        self.farm.inner().all_run();
        let grown = rss_kib(worker(&self.farm)).saturating_sub(self.rss_kib);
        if grown > LEEWAY_KIB {
            return Err(format!("the worker has grown by {} MiB", grown / 1024));
        }
        let start = Instant::now();
        loop {
            let resources = self.farm.resources().await;
            let volumes = volumes(&self.farm).await;
            let new: Vec<_> = volumes.difference(&self.volumes).collect();
            if resources.len() == self.resources && new.is_empty() {
                return Ok(());
            }
            if start.elapsed() > LIMIT {
                return Err(format!("left: {resources:?}, volumes {new:?}"));
            }
            wait::pass(Duration::from_millis(50)).await;
        }
    }

    async fn end(mut self) -> Report {
        self.report.notes.extend(self.neighbour.end().await);
        self.farm.stop().await;
        self.report
    }
}

fn worker(farm: &DockerFarm) -> i32 {
    let farm = farm.inner.as_ref().expect("only stop takes it");
    farm.workers[0].pid()
}

/// The names of all volumes: those that images ask for have no labels.
async fn volumes(farm: &DockerFarm) -> HashSet<String> {
    let all = farm.docker.list_volumes(None::<ListVolumesOptions>).await;
    let all = all.expect("the daemon answers").volumes.unwrap_or_default();
    all.into_iter().map(|volume| volume.name).collect()
}

/// What a contract is told about a deed that must not succeed.
async fn refused(farm: &DockerFarm, deed: &str, argument: Value) -> Result<String, String> {
    let said = farm.call("bad", deed, argument.clone()).await;
    (said != "done")
        .then(|| said.to_string())
        .ok_or_else(|| format!("{deed} {argument} succeeded"))
}
