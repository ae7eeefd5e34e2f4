//! The targets: ratios within one run, and a few absolute figures that every machine must reach.

use crate::figures::{Figures, Metric, Spread};
use crate::names;
use crate::peer::Kind;
use crate::scenarios::peers::{CONNECTIONS, CONTRACTS};

/// On which side of a limit the median must be.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

/// One target and its measured values.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) what: &'static str,
    pub(crate) bound: Bound,
    /// None when it was not measured.
    pub(crate) seen: Option<Spread>,
}

impl Target {
    /// Whether it is met; none when it was not measured.
    pub(crate) fn holds(&self) -> Option<bool> {
        let median = self.seen?.median;
        Some(match self.bound {
            Bound::AtLeast(limit) => median >= limit,
            Bound::AtMost(limit) => median <= limit,
        })
    }
}

/// Every target, judged by the median of its rounds.
#[expect(clippy::too_many_lines, reason = "a list of targets")]
pub(crate) fn judge(figures: &Figures) -> Vec<Target> {
    let rates = |over: &str, under: &str| ratio(figures, over, under, Metric::Rate);
    let median = |over: &str, under: &str| ratio(figures, over, under, Metric::P50);
    let of = |what, bound, values: &[f64]| Target {
        what,
        bound,
        seen: Spread::of(values),
    };
    let loads = |metric| figures.values(names::LOADS, metric).to_vec();
    vec![
        of(
            "one JavaScript contract, c=256: calls/s, of bare echo's",
            Bound::AtLeast(0.55),
            &rates(&names::one(256), &names::bare(256)),
        ),
        of(
            "one JavaScript contract, c=64: calls/s, of bare echo's",
            Bound::AtLeast(0.35),
            &rates(&names::one(64), &names::bare(64)),
        ),
        of(
            "one JavaScript contract, c=1: p50, of 1.3 x raw evaluate + 0.5 ms",
            Bound::AtMost(1.0),
            &lone(figures),
        ),
        of(
            "100 JavaScript contracts evenly, c=256: calls/s, of bare echo's",
            Bound::AtLeast(0.2),
            &rates(names::MANY, names::MANY_BARE),
        ),
        of(
            "the same: calls/s, of raw messages to as many pages (one of both is enough)",
            Bound::AtLeast(0.9),
            &rates(names::MANY, &names::raw_many(256)),
        ),
        of(
            "a lone call: µs of processor of the api, Redis and the worker",
            Bound::AtMost(400.0),
            &lone_processor(figures),
        ),
        of(
            "one JavaScript contract, 1,000 calls a second: p99, ms",
            Bound::AtMost(1.5),
            figures.values(names::PACED, Metric::P99),
        ),
        of(
            "64 KB each way, c=8: calls/s",
            Bound::AtLeast(1000.0),
            figures.values(&names::payload(64_000), Metric::Rate),
        ),
        of(
            "1 MB each way, c=8: calls/s",
            Bound::AtLeast(40.0),
            figures.values(&names::payload(1_000_000), Metric::Rate),
        ),
        of(
            "1,000 idle contracts in the registry: calls/s, of one contract's",
            Bound::AtLeast(0.95),
            &rates(names::REGISTRY_FULL, names::REGISTRY_EMPTY),
        ),
        of(
            "docker echo, c=64: calls/s, of calling the container directly",
            Bound::AtLeast(0.25),
            &rates(names::DOCKER, names::DOCKER_DIRECT),
        ),
        of(
            "load of a JavaScript contract: p50, ms",
            Bound::AtMost(40.0),
            &loads(Metric::P50),
        ),
        of(
            "load of a JavaScript contract: p95, ms",
            Bound::AtMost(60.0),
            &loads(Metric::P95),
        ),
        of(
            "a loaded JavaScript contract: MiB more than a fresh page",
            Bound::AtMost(1.0),
            &extra_memory(figures),
        ),
        of(
            "api, for each call in flight, beside its connection: KiB",
            Bound::AtMost(20.0),
            figures.values(names::CALL_MEMORY, Metric::Kib),
        ),
        of(
            "two workers, calls that wait 50 ms: calls/s, of one worker's",
            Bound::AtLeast(1.9),
            &rates(&names::workers(2), &names::workers(1)),
        ),
        of(
            "with keys, c=256: calls/s, of without keys",
            Bound::AtLeast(0.97),
            &rates(names::WITH_KEYS, names::OPEN),
        ),
        of(
            "with 10,000 keys, c=256: calls/s, of without keys",
            Bound::AtLeast(0.97),
            &rates(names::WITH_MANY_KEYS, names::OPEN),
        ),
        of(
            "a key beside a flood by another one over its rate: p99, of alone",
            Bound::AtMost(1.5),
            &ratio(
                figures,
                names::KEY_BESIDE_FLOOD,
                names::KEY_ALONE,
                Metric::P99,
            ),
        ),
        of(
            "with schemas, c=256: calls/s, of without",
            Bound::AtLeast(0.95),
            &rates(names::WITH_SCHEMAS, names::PLAIN),
        ),
        of(
            "with a line that nobody reads, c=256: calls/s, of without",
            Bound::AtLeast(0.97),
            &rates(names::WITH_LINES, names::PLAIN),
        ),
        of(
            "a cold contract beside a hot one: p50, of alone",
            Bound::AtMost(1.8),
            &median(names::COLD, names::COLD_ALONE),
        ),
        of(
            "100 contracts, c=64: calls/s, of express + puppeteer-core's",
            Bound::AtLeast(2.0),
            &of_express(figures, 100, 64, Metric::Rate),
        ),
        of(
            "one contract, c=1: p50, of express + puppeteer-core's",
            Bound::AtMost(0.9),
            &of_express(figures, 1, 1, Metric::P50),
        ),
        of(
            "100 contracts, c=1: p50, of express + puppeteer-core's",
            Bound::AtMost(0.9),
            &of_express(figures, 100, 1, Metric::P50),
        ),
        ahead_of(figures, Kind::Express),
        ahead_of(figures, Kind::Bullmq),
        ahead_of(figures, Kind::Workerd),
    ]
}

/// Whether the farm has more calls per second than a peer in every cell of the comparison: the least
/// ratio counts.
fn ahead_of(figures: &Figures, peer: Kind) -> Target {
    let cells = CONTRACTS.into_iter().flat_map(|contracts| {
        CONNECTIONS.map(|connections| of_peer(figures, peer, contracts, connections, Metric::Rate))
    });
    let least = cells.reduce(|least, cell| pairs(&least, &cell, f64::min));
    Target {
        what: match peer {
            Kind::Express => "the least of all cells: calls/s, of express + puppeteer-core's",
            Kind::Bullmq => "the least of all cells: calls/s, of BullMQ + puppeteer-core's",
            Kind::Workerd => "the least of all cells: calls/s, of workerd's",
        },
        bound: Bound::AtLeast(1.0),
        seen: Spread::of(&least.unwrap_or_default()),
    }
}

/// A figure of the farm, divided by that of the architecture that it replaces.
fn of_express(figures: &Figures, contracts: usize, connections: u32, metric: Metric) -> Vec<f64> {
    of_peer(figures, Kind::Express, contracts, connections, metric)
}

/// A figure of the farm, divided by a peer's.
fn of_peer(
    figures: &Figures,
    peer: Kind,
    contracts: usize,
    connections: u32,
    metric: Metric,
) -> Vec<f64> {
    let name = |system| names::peer(system, contracts, connections);
    ratio(figures, &name(names::FARM), &name(peer.name()), metric)
}

/// What a lone call costs outside the browser.
fn lone_processor(figures: &Figures) -> Vec<f64> {
    let of = |kind| names::processor(&names::one(1), kind);
    let times = ["api", "Redis", "worker"].map(|kind| figures.values(&of(kind), Metric::Processor));
    let [api, redis, worker] = times;
    pairs(&pairs(api, redis, |a, b| a + b), worker, |a, b| a + b)
}

/// One figure divided by another, round by round.
fn ratio(figures: &Figures, over: &str, under: &str, metric: Metric) -> Vec<f64> {
    let (over, under) = (figures.values(over, metric), figures.values(under, metric));
    pairs(over, under, |over, under| over / under)
}

fn lone(figures: &Figures) -> Vec<f64> {
    let one = figures.values(&names::one(1), Metric::P50);
    let raw = figures.values(names::RAW, Metric::P50);
    pairs(one, raw, |one, raw| one / (1.3 * raw + 0.5))
}

fn extra_memory(figures: &Figures) -> Vec<f64> {
    let contract = figures.values(names::CONTRACT_MEMORY, Metric::Mib);
    let page = figures.values(names::PAGE_MEMORY, Metric::Mib);
    pairs(contract, page, |contract, page| contract - page)
}

fn pairs(over: &[f64], under: &[f64], combine: impl Fn(f64, f64) -> f64) -> Vec<f64> {
    let both = over.iter().zip(under);
    both.map(|(over, under)| combine(*over, *under)).collect()
}
