//! The targets: ratios within one run, and a few absolute figures that every machine must reach.

use crate::figures::{Figures, Metric, Spread};
use crate::names;
use crate::peer::Kind;

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
            Bound::AtLeast(0.5),
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
            Bound::AtMost(60.0),
            &loads(Metric::P50),
        ),
        of(
            "load of a JavaScript contract: p95, ms",
            Bound::AtMost(150.0),
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
            Bound::AtMost(2.0),
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
    ]
}

/// A figure of the farm, divided by that of the architecture that it replaces.
fn of_express(figures: &Figures, contracts: usize, connections: u32, metric: Metric) -> Vec<f64> {
    let name = |system| names::peer(system, contracts, connections);
    let express = Kind::Express.name();
    ratio(figures, &name(names::FARM), &name(express), metric)
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
