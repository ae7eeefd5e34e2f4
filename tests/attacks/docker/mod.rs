//! D: contracts in containers, and the part of S that is about images. Controls show that a refused
//! action is possible for the host, for the contract itself where it is allowed, or for the same
//! contract without limits.

mod abuse;
mod behaviour;
mod bombs;
#[expect(dead_code, reason = "the end-to-end tests use more of it")]
#[path = "../../e2e/docker/docker_farm.rs"]
mod docker_farm;
mod images;
mod open_network;
mod reach;
mod references;
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
use crate::attack_farm::{LEEWAY_KIB, LIMIT, message, rss_kib};
use crate::machine::Load;
use crate::neighbour::{Browser, NEIGHBOUR_LATENCY, Neighbour, Verdict, judge, permit};
use crate::report::{Entry, Report};
use crate::support::{daemon, wait};

/// The maximal size of an image's tar, in bytes.
const TAR_LIMIT: u32 = 8_000_000;

/// The result of a case: what was observed, and what the control showed.
type Outcome = Result<(String, Option<String>), String>;

/// Runs the group, if a daemon answers.
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
    abuse::run(&mut cases).await;
    images::run(&mut cases).await;
    bombs::run(&mut cases).await;
    references::run(&mut cases).await;
    behaviour::run(&mut cases).await;
    cases.end().await
}

/// A farm of one worker with the contract `bad` and its neighbour `good`, and the results.
struct Cases {
    farm: DockerFarm,
    report: Report,
    neighbour: Neighbour,
    rss_kib: u64,
    /// The number of containers and networks between the cases.
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
        let seen = self.checked(row, name, case).await;
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

    /// The same as [`crate::attack_farm::AttackFarm::checked`], for a farm without browsers.
    async fn checked(
        &mut self,
        row: &str,
        name: &str,
        case: impl AsyncFn(&mut DockerFarm) -> Outcome,
    ) -> Outcome {
        let mut tries = 0;
        loop {
            tries += 1;
            let _permit = permit(tries).await;
            let load = Load::begin();
            self.neighbour.reset();
            let seen = AssertUnwindSafe(case(&mut self.farm)).catch_unwind().await;
            let seen = seen.unwrap_or_else(|panic| Err(message(panic.as_ref())))?;
            self.check().await?;
            let disturbance = self
                .neighbour
                .disturbance(NEIGHBOUR_LATENCY, Browser::Stays)
                .await;
            match judge(disturbance, tries, load.foreign()) {
                Verdict::Unaffected => return Ok(seen),
                Verdict::Retry => {}
                Verdict::Excused(why) => {
                    self.report.notes.push(format!("{row} {name}: {why}"));
                    return Ok(seen);
                }
                Verdict::Failed(wrong) => return Err(wrong),
            }
        }
    }

    /// Checks after every case that the worker has not grown and that the daemon has no leftovers.
    async fn check(&mut self) -> Result<(), String> {
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

/// The names of all volumes. Volumes that images ask for have no labels.
async fn volumes(farm: &DockerFarm) -> HashSet<String> {
    let all = farm.docker.list_volumes(None::<ListVolumesOptions>).await;
    let all = all.expect("the daemon answers").volumes.unwrap_or_default();
    all.into_iter().map(|volume| volume.name).collect()
}

/// The answer of a contract to an action that must not succeed.
async fn refused(farm: &DockerFarm, action: &str, argument: Value) -> Result<String, String> {
    let said = farm.call("bad", action, argument.clone()).await;
    (said != "done")
        .then(|| said.to_string())
        .ok_or_else(|| format!("{action} {argument} succeeded"))
}
