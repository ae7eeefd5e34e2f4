//! Shows where the programs spend their time: `perf` samples an api and a worker under load, and
//! each record becomes a flame graph.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use inferno::collapse::Collapse;
use inferno::collapse::perf::Folder;
use inferno::flamegraph;
use tokio::process::Command;

use crate::contracts::{ADD, ADD_BODY, path};
use crate::support::farm::Farm;
use crate::support::wait;
use crate::wrk::{Load, Wrk};

const CONNECTIONS: u32 = 64;

/// How long the programs are sampled, and how long the load runs before.
const LOOK: Duration = Duration::from_secs(8);
const LEAD: Duration = Duration::from_secs(2);

/// Writes `api.svg` and `worker.svg` into a folder.
pub(crate) async fn run(folder: &Path) {
    let farm = Farm::start().await;
    farm.client().must_load("abcd", ADD).await;
    let (wrk, paths) = (Wrk::new(), [path("abcd", "add")]);
    let at = farm.client().url("");
    let load = Load {
        at: at.trim_start_matches("http://"),
        paths: &paths,
        body: ADD_BODY,
        connections: CONNECTIONS,
        span: LEAD + LOOK + LEAD,
        key: None,
    };
    let seen = [
        ("api", farm.apis[0].pid()),
        ("worker", farm.workers[0].pid()),
    ]
    .map(|(name, pid)| (name, pid, farm.folder().join(format!("{name}.perf"))));
    let look = async {
        wait::pass(LEAD).await;
        tokio::join!(record(seen[0].1, &seen[0].2), record(seen[1].1, &seen[1].2))
    };
    let (run, _) = tokio::join!(wrk.run(&load), look);
    assert!(run.errors.is_none(), "{run:?}");
    eprintln!("profile: {:.0} calls per second meanwhile", run.rate);
    for (name, _, record) in &seen {
        let file = folder.join(format!("{name}.svg"));
        draw(name, record, &file).await;
        eprintln!("profile: {}", file.display());
    }
    farm.stop().await;
}

/// Records stacks of a process. The clock event also exists in virtual machines.
async fn record(pid: i32, file: &Path) {
    let output = Command::new("perf")
        .args(["record", "--event", "cpu-clock", "--freq", "499"])
        .args(["--call-graph", "dwarf,32768", "--pid", &pid.to_string()])
        .arg("--output")
        .arg(file)
        .args(["--", "sleep", &LOOK.as_secs().to_string()])
        .kill_on_drop(true)
        .output()
        .await
        .unwrap_or_else(|error| panic!("perf: {error}; `scripts/setup --bench` installs it"));
    assert!(output.status.success(), "perf record: {output:?}");
}

async fn draw(name: &str, record: &Path, file: &Path) {
    // Resolving inlined functions would start another program for every frame of every sample.
    let output = Command::new("perf")
        .args(["script", "--no-inline", "--force", "--input"])
        .arg(record)
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .expect("perf was there before");
    assert!(output.status.success(), "perf script: {}", output.status);
    let mut folded = Vec::new();
    let collapsed = Folder::default().collapse(output.stdout.as_slice(), &mut folded);
    collapsed.expect("perf writes what can be folded");
    let mut options = flamegraph::Options::default();
    options.title = format!("{name}, c={CONNECTIONS}");
    // The unit in which perf weighs samples of the clock event.
    options.count_name = String::from("ns");
    let out = File::create(file).expect("the folder can be written");
    let drawn = flamegraph::from_reader(&mut options, BufReader::new(folded.as_slice()), out);
    drawn.unwrap_or_else(|error| panic!("{name} cannot be drawn: {error}"));
}
