//! D: contracts in containers. What is refused to a contract is seen to be possible: for the host, for
//! the contract itself where it may, or for the same contract where an operator has given all limits away.

mod conduct;
mod deeds;
mod images;
mod reach;
#[expect(dead_code, reason = "the end-to-end tests use more of it")]
#[path = "../../e2e/docker/recipe.rs"]
mod recipe;
#[expect(dead_code, reason = "the end-to-end tests use more of it")]
#[path = "../../e2e/docker/world.rs"]
mod world;

use std::panic::AssertUnwindSafe;
use std::time::Instant;

use futures::FutureExt;
use serde_json::Value;

use self::world::{World, farm};
use crate::arena::message;
use crate::attack::shown;
use crate::report::{Entry, Report};

/// Bytes of an image's tar at most.
const TAR_LIMIT: u32 = 8_000_000;

/// What came of a case: what was seen, and what the control showed.
type Seen = Result<(String, Option<String>), String>;

/// The group, if a daemon answers.
pub(crate) async fn run() -> Report {
    let mut report = Report::default();
    let socket = world::docker_host();
    if let Err(error) = tokio::net::UnixStream::connect(world::unix_socket(&socket)).await {
        report.skipped.push(format!(
            "D: no Docker daemon answers: {error} (scripts/setup --docker starts one)"
        ));
        return report;
    }
    let builder = farm()
        .env("EXECUTE_TIMEOUT_MS", "3000")
        .env("CONTAINER_PROBE_TIMEOUT_MS", "500")
        .env("CONTAINER_LOAD_TIMEOUT_MS", "5000")
        .env("CONTAINER_TAR_LIMIT_BYTES", &TAR_LIMIT.to_string());
    let mut world = World::of(builder).await;
    world.load_servers(&["bad", "good"]).await;
    let mut cases = Cases { world, report };
    reach::run(&mut cases).await;
    deeds::run(&mut cases).await;
    images::run(&mut cases).await;
    conduct::run(&mut cases).await;
    cases.world.stop().await;
    cases.report
}

/// A farm of one worker, with the contract `bad` and its neighbour `good`, and what has come of it.
struct Cases {
    world: World,
    report: Report,
}

impl Cases {
    async fn run(&mut self, row: &'static str, name: &str, case: impl AsyncFn(&mut World) -> Seen) {
        let start = Instant::now();
        let seen = AssertUnwindSafe(case(&mut self.world)).catch_unwind().await;
        let seen = seen.unwrap_or_else(|panic| Err(message(panic.as_ref())));
        let well = self.world.client().call("good", "count").await;
        let seen = if well.status == 200 && well.generation() == 1 {
            seen
        } else {
            seen.and(Err(format!("the neighbour noticed: {}", shown(&well))))
        };
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
}

/// What a contract is told about a deed that must not succeed.
async fn refused(world: &World, deed: &str, argument: Value) -> Result<String, String> {
    let said = world.call("bad", deed, argument.clone()).await;
    (said != "done")
        .then(|| said.to_string())
        .ok_or_else(|| format!("{deed} {argument} succeeded"))
}
