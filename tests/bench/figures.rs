//! The measured figures, each with one value for each round.

use crate::latencies::Latencies;
use crate::open_loop::OpenLoopResult;
use crate::wrk::Run;

/// What was measured. The unit is part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Metric {
    Rate,
    P50,
    P90,
    P95,
    P99,
    P999,
    Max,
    Mib,
    Kib,
    Processor,
}

impl Metric {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Rate => "per second",
            Self::P50 => "p50, ms",
            Self::P90 => "p90, ms",
            Self::P95 => "p95, ms",
            Self::P99 => "p99, ms",
            Self::P999 => "p99.9, ms",
            Self::Max => "longest, ms",
            Self::Mib => "MiB",
            Self::Kib => "KiB",
            Self::Processor => "µs of processor for each call",
        }
    }
}

/// One figure.
#[derive(Debug)]
pub(crate) struct Figure {
    pub(crate) name: String,
    pub(crate) metric: Metric,
    /// One for each round.
    pub(crate) values: Vec<f64>,
}

/// Minimum, median and maximum of a figure's values.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

/// All figures of a run, in the order in which they were first recorded.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    pub(crate) all: Vec<Figure>,
    /// Requests with a wrong answer or without one.
    pub(crate) errors: Vec<String>,
    /// What was left out, and why.
    pub(crate) skipped: Vec<String>,
}

impl Figures {
    pub(crate) fn note(&mut self, name: &str, metric: Metric, value: f64) {
        eprintln!("    {name}: {} {}", shown(value), metric.name());
        self.add(name, metric, value);
    }

    fn add(&mut self, name: &str, metric: Metric, value: f64) {
        let same = |figure: &&mut Figure| figure.name == name && figure.metric == metric;
        if let Some(figure) = self.all.iter_mut().find(same) {
            figure.values.push(value);
            return;
        }
        self.all.push(Figure {
            name: name.to_owned(),
            metric,
            values: vec![value],
        });
    }

    /// Records the result of a run of wrk.
    pub(crate) fn note_run(&mut self, name: &str, run: &Run) {
        self.note(name, Metric::Rate, run.rate);
        self.add(name, Metric::P50, run.p50);
        self.add(name, Metric::P90, run.p90);
        self.add(name, Metric::P99, run.p99);
        self.add(name, Metric::Max, run.max);
        if let Some(errors) = &run.errors {
            self.errors.push(format!("{name}: {errors}"));
        }
    }

    /// Records calls at a constant rate.
    pub(crate) fn note_paced(&mut self, name: &str, paced: &OpenLoopResult) {
        self.note_latencies(name, &paced.latencies);
        if paced.failed > 0 {
            let error = format!("{name}: {} failed", paced.failed);
            self.errors.push(error);
        }
    }

    fn note_latencies(&mut self, name: &str, latencies: &Latencies) {
        self.note(name, Metric::P50, latencies.all_but_one_in(2));
        self.add(name, Metric::P90, latencies.all_but_one_in(10));
        self.add(name, Metric::P99, latencies.all_but_one_in(100));
        self.add(name, Metric::P999, latencies.all_but_one_in(1000));
        self.add(name, Metric::Max, latencies.max());
    }

    /// Records what is left out, once.
    pub(crate) fn skip(&mut self, what: &str) {
        if !self.skipped.iter().any(|skipped| skipped == what) {
            eprintln!("    SKIPPED {what}");
            self.skipped.push(what.to_owned());
        }
    }

    /// The values of a figure; none when it was not measured.
    pub(crate) fn values(&self, name: &str, metric: Metric) -> &[f64] {
        let same = |figure: &&Figure| figure.name == name && figure.metric == metric;
        self.all
            .iter()
            .find(same)
            .map_or(&[], |figure| &figure.values)
    }
}

impl Spread {
    /// None if there are no values.
    pub(crate) fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_unstable_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 {
            sorted[middle]
        } else {
            f64::midpoint(*sorted.get(middle.checked_sub(1)?)?, sorted[middle])
        };
        Some(Self {
            median,
            min: *sorted.first()?,
            max: *sorted.last()?,
        })
    }
}

/// A value with as many digits as are significant.
pub(crate) fn shown(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}
