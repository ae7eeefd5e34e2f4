//! D2, D6 and D7: how a contract answers, computes and ends.

use std::path::Path;
use std::time::Instant;

use serde_json::{Value, json};

use super::docker_farm::DockerFarm;
use super::test_image::TestImage;
use super::{Cases, Outcome};
use crate::attack::Expect::{self, Fails};
use crate::attack::shown;

/// Invalid answers, and the error that the caller receives.
const ILL: [(&str, Expect); 9] = [
    ("trickle", Fails(504, "execution_timeout")),
    ("endless", Fails(500, "result_too_large")),
    ("ten-gigabytes", Fails(500, "result_too_large")),
    ("headers", Fails(500, "execution_failed")),
    ("html", Fails(500, "result_not_json")),
    ("gzip", Fails(500, "result_not_json")),
    ("redirect", Fails(500, "execution_failed")),
    ("no-http", Fails(500, "execution_failed")),
    ("cut", Fails(500, "execution_failed")),
];

/// Runs the rows.
pub(super) async fn run(cases: &mut Cases) {
    cases.run("D2", "a flood on the log", log).await;
    for (kind, expect) in &ILL {
        let case = async |farm: &mut DockerFarm| ill(farm, kind, expect).await;
        cases.run("D6", &format!("an answer: {kind}"), case).await;
    }
    cases.run("D6", "an answer that never comes", hang).await;
    for arguments in [&["exit", "3"][..], &["exit", "0"], &["away"]] {
        let case = async |farm: &mut DockerFarm| ends(farm, arguments).await;
        cases
            .run("D7", &format!("at once: {}", arguments.join(" ")), case)
            .await;
    }
    cases.run("D7", "ends after some calls", ends_later).await;
    cases.run("D7", "ignores SIGTERM", stubborn).await;
}

/// How much of 20 MiB of output the daemon's log files keep.
async fn log(farm: &mut DockerFarm) -> Outcome {
    /// One file of 1 MiB, and what is written into the next before the daemon rotates.
    const ALLOWED: u64 = 3 << 20;
    farm.call("bad", "chatter", json!(20)).await;
    let container = farm.container("bad").await;
    let info = farm
        .docker
        .info()
        .await
        .map_err(|error| error.to_string())?;
    let root = info.docker_root_dir.unwrap_or_default();
    let folder = Path::new(&root)
        .join("containers")
        .join(container.id.unwrap_or_default());
    match size(&folder) {
        Ok(kept) if (1..=ALLOWED).contains(&kept) => Ok((
            format!("20 MiB were printed; kept are {} KiB", kept >> 10),
            None,
        )),
        Ok(kept) => Err(format!("kept are {kept} bytes")),
        // Only root can read the daemon's folder.
        Err(error) => Err(format!("{}: {error}", folder.display())),
    }
}

/// The size of all files in a folder.
fn size(folder: &Path) -> std::io::Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += if metadata.is_dir() {
            size(&entry.path())?
        } else {
            metadata.len()
        };
    }
    Ok(bytes)
}

async fn ill(farm: &mut DockerFarm, kind: &str, expect: &Expect) -> Outcome {
    let before = farm.client().generation("bad").await;
    let answer = farm.client().execute("bad", "ill", &json!(kind)).await;
    if let Some(wrong) = expect.mismatch(&answer) {
        return Err(wrong);
    }
    let again = farm.client().call("bad", "count").await;
    (again.status == 200 && again.generation() == before)
        .then(|| (shown(&answer), None))
        .ok_or_else(|| format!("{}, then {}", shown(&answer), shown(&again)))
}

async fn hang(farm: &mut DockerFarm) -> Outcome {
    let answer = farm.client().call("bad", "hang").await;
    if let Some(wrong) = Fails(504, "execution_timeout").mismatch(&answer) {
        return Err(wrong);
    }
    let again = farm.client().call("bad", "count").await;
    (again.status == 200)
        .then(|| (shown(&answer), None))
        .ok_or_else(|| shown(&again))
}

/// A container whose program ends before it can be called.
async fn ends(farm: &mut DockerFarm, arguments: &[&str]) -> Outcome {
    let image = farm.image(TestImage::command(arguments)).await;
    let answer = farm.load("short", &image).await;
    let left = farm.containers("short").await.len();
    let mismatch = Fails(422, "invalid_executable").mismatch(&answer);
    (mismatch.is_none() && left == 0)
        .then(|| (shown(&answer), None))
        .ok_or_else(|| format!("{}, {left} left", shown(&answer)))
}

async fn ends_later(farm: &mut DockerFarm) -> Outcome {
    let before = farm.client().generation("bad").await;
    for _ in 0..3 {
        farm.call("bad", "count", Value::Null).await;
    }
    let answer = farm.client().execute("bad", "exit", &json!(7)).await;
    if let Some(wrong) = Fails(500, "contract_crashed").mismatch(&answer) {
        return Err(wrong);
    }
    let again = farm.client().call("bad", "count").await;
    (again.status == 200 && again.data() == 1 && again.generation() > before)
        .then(|| (shown(&answer), None))
        .ok_or_else(|| shown(&again))
}

/// It receives SIGTERM, has one second of grace, and is killed.
async fn stubborn(farm: &mut DockerFarm) -> Outcome {
    const SIGTERM: u64 = 1 << 14;
    let image = farm.image(TestImage::command(&["stubborn"])).await;
    farm.load("stubborn", &image).await.is_no_content();
    let seen = farm.call("stubborn", "whoami", Value::Null).await;
    let blocked = u64::from_str_radix(seen["SigBlk"].as_str().unwrap_or_default(), 16);
    if !blocked.is_ok_and(|signals| signals & SIGTERM != 0) {
        return Err(format!("control: {}", seen["SigBlk"]));
    }
    let start = Instant::now();
    farm.client().unload("stubborn").await.is_no_content();
    let took = start.elapsed();
    let left = farm.containers("stubborn").await.len();
    (left == 0)
        .then(|| {
            (
                format!("gone in {took:.1?}"),
                Some("it blocks SIGTERM".to_owned()),
            )
        })
        .ok_or_else(|| format!("{left} left"))
}
