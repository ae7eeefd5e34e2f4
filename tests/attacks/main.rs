//! Attacks on a farm, by groups: from within contracts, and at its edges. Each case says what must be
//! answered, and after each of them the farm must be as before: a neighbour that is called all the time
//! has not noticed, and no process, page or file is left. Where something must not work, a control shows
//! that it would be seen if it did. `docs/security.md` says how to add a case.
//!
//! ```text
//! attacks [WORD..] [--skip WORD..]    groups by their names: network, host, resources, values, edges, docker
//! ```
//!
//! - `ATTACKS=quick` leaves out what `make test` has no time for.
//! - `ATTACKS_REPORT=FILE` writes what came of all.
//! - `ATTACKS_WITHOUT=network,docker` allows groups to be skipped where the machine has no means for them.
//! - `ROUNDS=n` attacks one farm n times in a row, and compares its answers with a fresh one's.

mod arena;
mod attack;
mod docker;
mod edges;
mod host;
mod machine;
mod neighbour;
mod neighbours;
mod network;
mod report;
mod resources;
mod rounds;
#[expect(dead_code, reason = "the end-to-end tests use more of it")]
#[path = "../e2e/support/mod.rs"]
mod support;
mod values;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Instant;

use crate::arena::Arena;
use crate::network::witness::Witness;
use crate::report::Report;
use crate::support::farm::{Builder, Farm};

/// A variable that takes layers of a worker away.
const LAYERS_OFF: &str = "ATTACK_SUITE_LAYERS_OFF";

/// The layers that close the network, alone, and what must be so then: if a layer stops to work, the others
/// would hide it.
const NETWORK_LAYERS: [(&str, Alone); 6] = [
    (
        "resolver",
        Alone::Leaves(&[
            "STUN",
            "TURN over UDP",
            "data channel to a candidate",
            "names by multicast",
        ]),
    ),
    (
        "proxy",
        Alone::Leaves(&[
            "STUN",
            "TURN over UDP",
            "TURN over TCP",
            "data channel to a candidate",
            "names by multicast",
        ]),
    ),
    (
        "interceptor",
        Alone::Leaves(&[
            "another port of the loopback",
            "WebSocket",
            "WebSocketStream",
            "WebSocketStream from a worker",
            "WebSocket and fetch from a worker",
            "STUN",
            "TURN over UDP",
            "TURN over TCP",
            "data channel to a candidate",
            "WebTransport",
            "prerender and speculation rules",
            "names by multicast",
        ]),
    ),
    (
        "policy",
        Alone::Leaves(&[
            "STUN",
            "TURN over UDP",
            "TURN over TCP",
            "data channel to a candidate",
            "location",
            "a link",
            "a download",
            "meta refresh",
            "windows",
            "history",
            "names by multicast",
        ]),
    ),
    // Alone it is for what the others leave open; with these two, names by multicast are closed: none asked for, none told.
    (
        "webrtc",
        Alone::Closes(&["STUN", "TURN over UDP", "data channel to a candidate"]),
    ),
    (
        "resolver,webrtc,features",
        Alone::Closes(&[
            "STUN",
            "TURN over UDP",
            "data channel to a candidate",
            "names by multicast",
        ]),
    ),
];

/// What a layer does where it is alone.
#[derive(Debug, Clone, Copy)]
enum Alone {
    /// It closes all ways out but these.
    Leaves(&'static [&'static str]),
    /// It closes these, and hardly any other.
    Closes(&'static [&'static str]),
}

impl Alone {
    /// The ways that are open and should not be.
    fn broken(self, open: &[&'static str]) -> Vec<&'static str> {
        let is_broken = |way: &&&str| match self {
            Self::Leaves(known) => !known.contains(*way),
            Self::Closes(closed) => closed.contains(*way),
        };
        open.iter().filter(is_broken).copied().collect()
    }
}

/// What can be asked for.
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
                // What else `cargo test` may be given means nothing here.
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

/// What is run beside what: each lane has a thread, a runtime and a farm of its own.
type Lane = (&'static str, fn(&Wanted) -> Report);

const LANES: [Lane; 5] = [
    ("network", network_lane),
    ("host", |_| block_on(pages())),
    ("edges", |wanted| block_on(edges_lane(wanted.quick))),
    ("resources", |wanted| block_on(resources_lane(wanted.quick))),
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
    // Where the lane with the controls was run as well, nobody may be without.
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

/// The letter of a group that is called by its name.
fn group_of(name: &str) -> &str {
    match name {
        "network" => "N",
        "docker" => "D",
        letter => letter,
    }
}

/// Runs the wanted lanes, as many at a time as there are cores to keep the promises of each.
fn run(wanted: &Wanted) -> Report {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let lanes: Vec<&Lane> = LANES.iter().filter(|(name, _)| wanted.has(name)).collect();
    let queue = Mutex::new(lanes.into_iter());
    let joined = Mutex::new(Report::default());
    std::thread::scope(|scope| {
        for _ in 0..cores.clamp(1, 2) {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().expect("nobody panics with it").next();
                    let Some((name, lane)) = next else { return };
                    // Each lane in a thread of its own: one may leave for another namespace.
                    let lane = std::thread::scope(|inner| {
                        inner
                            .spawn(|| catch_unwind(AssertUnwindSafe(|| lane(wanted))))
                            .join()
                    });
                    let report = lane
                        .and_then(|outcome| outcome)
                        .unwrap_or_else(|panic| broken(name, &arena::message(panic.as_ref())));
                    joined.lock().expect("nobody panics with it").join(report);
                }
            });
        }
    });
    joined.into_inner().expect("nobody panics with it")
}

/// A lane that did not come to its end.
fn broken(lane: &'static str, why: &str) -> Report {
    let mut report = Report::default();
    report.entries.push(report::Entry {
        row: "?",
        name: lane.to_owned(),
        outcome: Err(why.to_owned()),
        control: None,
        time: std::time::Duration::ZERO,
    });
    report
}

fn block_on<T>(lane: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime can be made");
    runtime.block_on(lane)
}

/// Where a call may wait a little, as some attacks do.
fn farm() -> Builder {
    Farm::builder()
        .env("EXECUTE_TIMEOUT_MS", "2000")
        .env("IDLE_CPU_MS", "300")
}

/// N, and the controls of H and P: where nothing but the witness can be reached.
fn network_lane(wanted: &Wanted) -> Report {
    let witness = match network::namespace::enter() {
        Ok(witness) => witness,
        Err(error) => {
            let mut report = Report::default();
            report.skipped.push(format!(
                "N: {error} (root is needed, for ip netns and veth)"
            ));
            return report;
        }
    };
    block_on(async {
        let mut arena = Arena::start(farm()).await;
        let mark = witness.mark();
        network::run(&mut arena, &witness).await;
        let mut report = arena.end().await;
        let left = witness.since(mark);
        let outcome = match &left[..] {
            [] => Ok("0 packets left the armed farm in all its life".to_owned()),
            left => Err(format!("{} packets got out: {left:?}", left.len())),
        };
        report.entries.push(report::Entry {
            row: "N1",
            name: "from the farm's start to its end".to_owned(),
            outcome,
            control: Some(Ok("the same witness sees every way out below".to_owned())),
            time: std::time::Duration::ZERO,
        });

        let mut bare = Arena::bare(farm().env(LAYERS_OFF, "all")).await;
        network::controls(&mut bare, &witness).await;
        for attack in &host::ATTACKS {
            let argument = host::argument(&bare, attack);
            bare.control(attack, &argument).await;
        }
        neighbours::controls(&mut bare).await;
        report.join(bare.end().await);
        if !wanted.quick {
            for (layers, expected) in NETWORK_LAYERS {
                report.join(alone(layers, expected, &witness).await);
            }
        }
        report
    })
}

/// The farm with one of the layers that close the network, or two that belong together.
async fn alone(layers: &str, expected: Alone, witness: &Witness) -> Report {
    let start = Instant::now();
    let is_on = |layer: &&str| layers.split(',').any(|on| on == *layer);
    let all = [
        "resolver",
        "proxy",
        "webrtc",
        "features",
        "interceptor",
        "policy",
    ];
    let off: Vec<_> = all.into_iter().filter(|layer| !is_on(layer)).collect();
    let mut arena = Arena::bare(farm().env(LAYERS_OFF, &off.join(","))).await;
    let open = network::leaks(&arena, witness).await;
    let count = network::ways();
    let outcome = match &expected.broken(&open)[..] {
        [] => Ok(format!(
            "{} of {count} ways out are closed",
            count - open.len()
        )),
        broken => Err(format!("open, and should be closed: {broken:?}")),
    };
    let control = Some(Ok("without it they are open: each way's control".to_owned()));
    let name = format!("{layers} alone");
    arena.note("N1", &name, outcome, control, start.elapsed());
    let note = format!("{name}: open are {}", open.join(", "));
    arena.report.notes.push(note);
    arena.end().await
}

/// H, P and V.
async fn pages() -> Report {
    let mut arena = Arena::start(farm()).await;
    host::run(&mut arena).await;
    neighbours::run(&mut arena).await;
    values::run(&mut arena).await;
    resources::frames(&mut arena).await;
    let mut report = arena.end().await;
    let crowded = farm()
        .env(LAYERS_OFF, "processes")
        .env("CHROMIUM_SPARE_PAGES", "0");
    let mut crowded = Arena::bare(crowded).await;
    neighbours::crowded(&mut crowded).await;
    report.join(crowded.end().await);
    report
}

async fn edges_lane(quick: bool) -> Report {
    let mut arena = Arena::start(edges::farm()).await;
    edges::run(&mut arena, quick).await;
    arena.end().await
}

async fn resources_lane(quick: bool) -> Report {
    let mut arena = Arena::start(resources::farm()).await;
    resources::run(&mut arena, quick).await;
    arena.end().await
}
