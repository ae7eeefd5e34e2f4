//! The figures as curves. Every curve connects the medians, and a bar at each shows minimum and
//! maximum.

use std::error::Error;
use std::path::Path;

use plotters::prelude::*;

use crate::figures::{Figures, Metric, Spread};
use crate::names;
use crate::plan::Plan;

const SIZE: (u32, u32) = (720, 420);

const COLOURS: [RGBColor; 4] = [
    RGBColor(31, 119, 180),
    RGBColor(214, 96, 30),
    RGBColor(80, 80, 80),
    RGBColor(44, 140, 60),
];

/// The content of a plot.
pub(crate) struct Plot {
    pub(crate) file: &'static str,
    pub(crate) title: &'static str,
    pub(crate) x: &'static str,
    pub(crate) y: &'static str,
    pub(crate) curves: Vec<Curve>,
}

pub(crate) struct Curve {
    pub(crate) name: &'static str,
    pub(crate) points: Vec<(f64, Spread)>,
}

/// Draws what was measured and returns the names of the files.
pub(crate) fn draw(plan: &Plan, figures: &Figures) -> Vec<&'static str> {
    let plots = [
        throughput(plan, figures),
        latency(figures),
        payloads(plan, figures),
        workers(plan, figures),
    ];
    // A curve needs at least two points.
    let shown = plots.into_iter().filter(|plot| {
        let mut curves = plot.curves.iter();
        curves.any(|curve| curve.points.len() > 1)
    });
    let mut files = Vec::new();
    for plot in shown {
        let drawn = plot.draw(&plan.folder);
        drawn.unwrap_or_else(|error| panic!("{} cannot be drawn: {error}", plot.file));
        files.push(plot.file);
    }
    files
}

fn throughput(plan: &Plan, figures: &Figures) -> Plot {
    let curve = |name, of: fn(u32) -> String| Curve {
        name,
        points: points(plan.connections.iter().map(|connections| {
            let values = figures.values(&of(*connections), Metric::Rate);
            (f64::from(*connections), values)
        })),
    };
    Plot {
        file: "throughput.svg",
        title: "Throughput by callers",
        x: "connections",
        y: "calls per second",
        curves: vec![
            curve("one JavaScript contract", names::one),
            curve("bare echo", names::bare),
        ],
    }
}

fn latency(figures: &Figures) -> Plot {
    const PARTS: [(f64, Metric); 4] = [
        (2.0, Metric::P50),
        (10.0, Metric::P90),
        (100.0, Metric::P99),
        (1000.0, Metric::P999),
    ];
    let curve = |name, figure: &str| Curve {
        name,
        points: points(
            PARTS
                .map(|(rare, metric)| (rare, figures.values(figure, metric)))
                .into_iter(),
        ),
    };
    Plot {
        file: "latency.svg",
        title: "Latency at 1,000 calls per second",
        x: "one in this many calls takes longer",
        y: "latency, ms",
        curves: vec![
            curve("one JavaScript contract", names::PACED),
            curve("bare echo", names::PACED_BARE),
        ],
    }
}

fn payloads(plan: &Plan, figures: &Figures) -> Plot {
    let curve = |name, of: fn(usize) -> String| Curve {
        name,
        points: points(plan.payloads.iter().map(|size| {
            let values = figures.values(&of(*size), Metric::P50);
            (number(*size), values)
        })),
    };
    Plot {
        file: "payloads.svg",
        title: "Latency by payload size, 8 callers",
        x: "bytes of the argument and of the result",
        y: "median latency, ms",
        curves: vec![
            curve("an echo contract", names::payload),
            curve("bare echo", names::bare_payload),
        ],
    }
}

fn workers(plan: &Plan, figures: &Figures) -> Plot {
    let measured = plan.workers.iter().map(|count| {
        let values = figures.values(&names::workers(*count), Metric::Rate);
        (number(*count), values)
    });
    Plot {
        file: "workers.svg",
        title: "Throughput of calls that wait 50 ms, by workers",
        x: "workers",
        y: "calls per second",
        curves: vec![Curve {
            name: "16 calls at a time in each worker",
            points: points(measured),
        }],
    }
}

fn number(count: usize) -> f64 {
    f64::from(u32::try_from(count).expect("far below four billions"))
}

/// The points of a curve, without those that were not measured.
fn points<'a>(measured: impl Iterator<Item = (f64, &'a [f64])>) -> Vec<(f64, Spread)> {
    measured
        .filter_map(|(x, values)| Some((x, Spread::of(values)?)))
        .collect()
}

impl Plot {
    pub(crate) fn draw(&self, folder: &Path) -> Result<(), Box<dyn Error>> {
        let file = folder.join(self.file);
        let area = SVGBackend::new(&file, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        let points = || self.curves.iter().flat_map(|curve| &curve.points);
        let from = points().map(|(x, _)| *x).fold(f64::INFINITY, f64::min);
        let to = points().map(|(x, _)| *x).fold(0.0, f64::max);
        let most = points().map(|(_, y)| y.max).fold(0.0, f64::max);
        let mut chart = ChartBuilder::on(&area)
            .caption(self.title, ("sans-serif", 20))
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(70)
            .build_cartesian_2d((from * 0.9..to * 1.1).log_scale(), 0.0..most * 1.1)?;
        chart
            .configure_mesh()
            .light_line_style(WHITE)
            .x_desc(self.x)
            .y_desc(self.y)
            .x_label_formatter(&|x| format!("{x:.0}"))
            .draw()?;
        for (curve, colour) in self.curves.iter().zip(COLOURS) {
            let medians = curve.points.iter().map(|(x, y)| (*x, y.median));
            let line = LineSeries::new(medians, colour.stroke_width(2)).point_size(3);
            chart
                .draw_series(line)?
                .label(curve.name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], colour));
            let bars = curve
                .points
                .iter()
                .map(|(x, y)| PathElement::new([(*x, y.min), (*x, y.max)], colour.stroke_width(1)));
            chart.draw_series(bars)?;
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE)
            .border_style(BLACK)
            .draw()?;
        area.present()?;
        Ok(())
    }
}
