//! Attacks on a farm, in groups: from within contracts, and at its HTTP edge.
//!
//! Each case states the expected answer. After each case the farm must be as before: a neighbour
//! contract that is called throughout was not affected, and no process, page or file is left. Where
//! an attack must fail, a control shows that its success would be noticed. `docs/security.md`
//! explains how to add a case.
//!
//! ```text
//! attacks [WORD..] [--skip WORD..]
//! shards: network, host, resources, shared, edges, browsers, crowding, docker
//! ```
//!
//! - `ATTACKS=quick` skips the cases for which `make test` has no time.
//! - `ATTACKS_REPORT=FILE` writes the results of all cases to a file.
//! - `ATTACKS_WITHOUT=network,docker` permits skipping groups that the machine cannot run.
//! - `ROUNDS=n` attacks one farm n times in a row and compares its latencies with a new farm's.

mod attack;
mod attack_farm;
mod author_tools;
mod browsers;
mod crowding;
mod docker;
mod edges;
mod floods;
mod host;
mod machine;
mod neighbour;
mod neighbours;
mod network;
mod report;
mod resources;
mod rounds;
mod shared_parts;
#[expect(dead_code, reason = "the end-to-end tests use more of it")]
#[path = "../e2e/support/mod.rs"]
mod support;
mod values;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Instant;

use crate::attack_farm::AttackFarm;
use crate::report::Report;
use crate::support::farm::{Builder, Farm};

/// The environment variable that turns off layers of a worker.
const LAYERS_OFF: &str = "ATTACK_SUITE_LAYERS_OFF";

/// Which shards to run, and whether to run all of their cases.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    only: Vec<String>,
    skip: Vec<String>,
    pub(crate) quick: bool,
}

impl Wanted {
    fn read() -> Self {
        let (mut only, mut skip) = (Vec::new(), Vec::new());
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--skip" => skip.extend(arguments.next()),
                // Other options of `cargo test` have no meaning here.
                option if option.starts_with('-') => {}
                word => only.push(word.to_owned()),
            }
        }
        let quick = std::env::var("ATTACKS").is_ok_and(|mode| mode == "quick");
        Self { only, skip, quick }
    }

    fn has(&self, group: &str) -> bool {
        let named = |words: &[String]| words.iter().any(|word| group.contains(word.as_str()));
        (self.only.is_empty() || named(&self.only)) && !named(&self.skip)
    }
}

/// A part of the suite that runs in parallel with others. Each shard has its own thread, runtime
/// and farm.
type Shard = (&'static str, fn(&Wanted) -> Report);

const SHARDS: [Shard; 8] = [
    ("network", network_shard),
    ("host", |_| block_on(pages())),
    ("edges", |wanted| block_on(edges_shard(wanted.quick))),
    ("browsers", |_| block_on(browsers::run())),
    ("resources", |wanted| {
        block_on(resources_shard(wanted.quick))
    }),
    ("crowding", |_| block_on(crowding::run())),
    ("shared", |wanted| block_on(shared_shard(wanted.quick))),
    ("docker", |_| block_on(docker::run())),
];

fn main() -> ExitCode {
    let wanted = Wanted::read();
    let start = Instant::now();
    let rounds: u32 = std::env::var("ROUNDS").map_or(1, |n| n.parse().expect("ROUNDS is a number"));
    let mut report = if rounds > 1 {
        rounds::run(rounds)
    } else {
        run(&wanted)
    };
    // If the shard with the controls was run as well, every case must have a control.
    let is_whole = rounds == 1 && wanted.has("network") && wanted.has("host");
    if is_whole
        && report
            .skipped
            .iter()
            .all(|skipped| !skipped.starts_with("N:"))
    {
        report.demand_controls();
    }
    let allowed = std::env::var("ATTACKS_WITHOUT").unwrap_or_default();
    let mut failures = report.failures();
    for skipped in &report.skipped {
        eprintln!("SKIPPED {skipped}");
        let group = skipped.split(':').next().unwrap_or_default();
        if !allowed.split(',').any(|name| group_of(name) == group) {
            failures.push(format!(
                "skipped {skipped}; ATTACKS_WITHOUT={group} allows that"
            ));
        }
    }
    if let Some(path) = std::env::var_os("ATTACKS_REPORT").map(PathBuf::from) {
        report.write(&path, start.elapsed());
        eprintln!("the report is in {}", path.display());
    }
    let (cases, seconds) = (report.entries.len(), start.elapsed().as_secs());
    eprintln!(
        "attacks: {cases} cases, {} failed, {seconds} s",
        failures.len()
    );
    for failure in &failures {
        eprintln!("FAILED {failure}");
    }
    if failures.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// The letter of a group, from its name or letter.
fn group_of(name: &str) -> &str {
    match name {
        "network" => "N",
        "docker" => "D",
        letter => letter,
    }
}

/// Runs the selected shards, at most two at a time and no more than there are cores, so that the
/// latency bounds hold.
fn run(wanted: &Wanted) -> Report {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let shards: Vec<&Shard> = SHARDS.iter().filter(|(name, _)| wanted.has(name)).collect();
    let queue = Mutex::new(shards.into_iter());
    let joined = Mutex::new(Report::default());
    std::thread::scope(|scope| {
        for _ in 0..cores.clamp(1, 2) {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().expect("the lock is not poisoned").next();
                    let Some((name, shard)) = next else { return };
                    // A shard has its own thread, because it may enter another namespace.
                    let shard = std::thread::scope(|inner| {
                        inner
                            .spawn(|| catch_unwind(AssertUnwindSafe(|| shard(wanted))))
                            .join()
                    });
                    let report = shard.and_then(|outcome| outcome).unwrap_or_else(|panic| {
                        broken(name, &attack_farm::message(panic.as_ref()))
                    });
                    joined
                        .lock()
                        .expect("the lock is not poisoned")
                        .join(report);
                }
            });
        }
    });
    joined.into_inner().expect("the lock is not poisoned")
}

/// The report of a shard that panicked.
fn broken(shard: &'static str, why: &str) -> Report {
    let mut report = Report::default();
    report.entries.push(report::Entry {
        row: "?",
        name: shard.to_owned(),
        outcome: Err(why.to_owned()),
        control: None,
        time: std::time::Duration::ZERO,
    });
    report
}

fn block_on<T>(shard: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime can be made");
    runtime.block_on(shard)
}

/// A farm whose calls may take long enough for attacks that wait. An idle page is frozen after a
/// second: what it may use is little enough for a page that gets a quarter of a core until then.
fn farm() -> Builder {
    Farm::builder()
        .env("EXECUTE_TIMEOUT_MS", "2000")
        .env("IDLE_CPU_MS", "150")
}

/// N, and the controls of H and P, where only the packet monitor can be reached.
fn network_shard(wanted: &Wanted) -> Report {
    let monitor = match network::namespace::enter() {
        Ok(monitor) => monitor,
        Err(error) => {
            let mut report = Report::default();
            report.skipped.push(format!(
                "N: {error} (root is needed, for ip netns and veth)"
            ));
            return report;
        }
    };
    block_on(async {
        let mut target = AttackFarm::start(farm()).await;
        let mark = monitor.mark();
        network::run(&mut target, &monitor).await;
        let mut report = target.end().await;
        let left = monitor.since(mark);
        let outcome = match &left[..] {
            [] => Ok("0 packets left the protected farm from its start to its end".to_owned()),
            left => Err(format!("{} packets got out: {left:?}", left.len())),
        };
        report.entries.push(report::Entry {
            row: "N1",
            name: "from the farm's start to its end".to_owned(),
            outcome,
            control: Some(Ok("the same monitor sees every way out below".to_owned())),
            time: std::time::Duration::ZERO,
        });

        let mut bare = AttackFarm::bare(farm().env(LAYERS_OFF, "all")).await;
        network::controls(&mut bare, &monitor).await;
        for attack in &host::ATTACKS {
            let argument = host::argument(&bare, attack);
            bare.control(attack, &argument).await;
        }
        neighbours::controls(&mut bare).await;
        report.join(bare.end().await);
        if !wanted.quick {
            report.join(network::layers::run(&monitor).await);
        }
        report
    })
}

/// H, P and V.
async fn pages() -> Report {
    let mut target = AttackFarm::start(farm()).await;
    host::run(&mut target).await;
    neighbours::run(&mut target).await;
    values::run(&mut target).await;
    resources::frames(&mut target).await;
    let mut report = target.end().await;
    let crowded = farm()
        .env(LAYERS_OFF, "processes")
        .env("CHROMIUM_SPARE_PAGES", "0");
    let mut crowded = AttackFarm::bare(crowded).await;
    neighbours::crowded(&mut crowded).await;
    report.join(crowded.end().await);
    report
}

async fn edges_shard(quick: bool) -> Report {
    let mut target = AttackFarm::start(edges::farm()).await;
    edges::run(&mut target, quick).await;
    author_tools::run(&mut target).await;
    target.end().await
}

async fn shared_shard(quick: bool) -> Report {
    let mut target = AttackFarm::start(shared_parts::farm()).await;
    shared_parts::run(&mut target, quick).await;
    if !quick {
        floods::run(&mut target).await;
    }
    target.end().await
}

async fn resources_shard(quick: bool) -> Report {
    let mut target = AttackFarm::start(resources::farm()).await;
    resources::run(&mut target, quick).await;
    target.end().await
}
