//! Metrics for Prometheus: the registry of a process, and its text format.
//!
//! Each part of a program creates the handles of its metrics once. An update then costs one atomic
//! addition: no labels are assembled during a call.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

pub use metrics::{Counter, Gauge, Histogram};
use metrics::{Key, Label, Level, Metadata, Recorder, with_local_recorder};
use metrics_exporter_prometheus::{
    Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};
use metrics_process::Collector;

use crate::service::lifecycle::Lifecycle;

/// The content type of [`Registry::render`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Upper bounds of histograms in seconds: from a call in a warm page to a load of a large image.
const SECONDS: [f64; 16] = [
    0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
    10.0, 30.0,
];

/// Upper bounds of histograms of batch sizes.
const SIZES: [f64; 8] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0];

/// How often recorded samples are aggregated. Until then they use memory, and aggregating many at
/// once blocks a thread.
const UPKEEP_EVERY: Duration = Duration::from_millis(500);

/// A metric's labels.
pub type Labels<'a> = &'a [(&'static str, &'static str)];

/// The metrics of a process. Cheap to clone. It is not a static, so that two programs can run in
/// one process.
#[derive(Clone)]
pub struct Registry {
    recorder: Arc<PrometheusRecorder>,
    handle: PrometheusHandle,
    process: Collector,
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").finish_non_exhaustive()
    }
}

impl Default for Registry {
    fn default() -> Self {
        let buckets = |builder: PrometheusBuilder, suffix: &str, bounds: &[f64]| {
            builder
                .set_buckets_for_metric(Matcher::Suffix(suffix.to_owned()), bounds)
                .expect("the bounds are not empty")
        };
        let builder = buckets(PrometheusBuilder::new(), "_seconds", &SECONDS);
        let builder = buckets(builder, "_size", &SIZES);
        let recorder = Arc::new(builder.build_recorder());
        let process = Collector::default();
        with_local_recorder(&*recorder, || process.describe());
        Self {
            handle: recorder.handle(),
            recorder,
            process,
        }
    }
}

impl Registry {
    /// A counter. The same name and labels return the same counter.
    pub fn counter(&self, name: &'static str, help: &'static str, labels: Labels<'_>) -> Counter {
        self.recorder
            .describe_counter(name.into(), None, help.into());
        self.recorder
            .register_counter(&key(name, labels), &metadata())
    }

    /// A gauge. The same name and labels return the same gauge.
    pub fn gauge(&self, name: &'static str, help: &'static str, labels: Labels<'_>) -> Gauge {
        self.recorder.describe_gauge(name.into(), None, help.into());
        self.recorder
            .register_gauge(&key(name, labels), &metadata())
    }

    /// A histogram of durations if its name ends with `_seconds`, or of sizes if it ends with
    /// `_size`.
    pub fn histogram(
        &self,
        name: &'static str,
        help: &'static str,
        labels: Labels<'_>,
    ) -> Histogram {
        self.recorder
            .describe_histogram(name.into(), None, help.into());
        self.recorder
            .register_histogram(&key(name, labels), &metadata())
    }

    /// Renders all metrics in the text format of Prometheus, with those of the operating system
    /// process.
    pub fn render(&self) -> String {
        with_local_recorder(&*self.recorder, || self.process.collect());
        self.handle.render()
    }

    /// Aggregates the samples regularly until the process stops.
    pub async fn run_upkeep(self, life: Lifecycle) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(UPKEEP_EVERY) => self.handle.run_upkeep(),
                () = life.stopping() => return,
            }
        }
    }
}

fn key(name: &'static str, labels: Labels<'_>) -> Key {
    let labels: Vec<_> = labels
        .iter()
        .map(|(name, value)| Label::from_static_parts(name, value))
        .collect();
    Key::from_parts(name, labels)
}

/// The recorder ignores the metadata.
fn metadata() -> Metadata<'static> {
    Metadata::new(module_path!(), Level::INFO, Some(module_path!()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recorded_values_are_rendered() {
        let registry = Registry::default();
        let labels = [("route", "/a"), ("code", "ok")];
        registry.counter("x_total", "Of x.", &labels).increment(2);
        registry.counter("x_total", "Of x.", &labels).increment(1);
        registry.gauge("y", "Of y.", &[]).set(7);
        registry.histogram("z_seconds", "Of z.", &[]).record(0.3);
        registry.histogram("w_size", "Of w.", &[]).record(3);
        let text = registry.render();
        for line in [
            "# HELP x_total Of x.",
            "# TYPE x_total counter",
            "x_total{route=\"/a\",code=\"ok\"} 3",
            "y 7",
            "z_seconds_bucket{le=\"0.25\"} 0",
            "z_seconds_bucket{le=\"0.5\"} 1",
            "w_size_bucket{le=\"4\"} 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in {text}");
        }
        assert!(text.contains("process_resident_memory_bytes "), "{text}");
    }

    #[test]
    fn two_registries_are_independent() {
        let (one, other) = (Registry::default(), Registry::default());
        one.counter("x_total", "Of x.", &[]).increment(1);
        assert!(!other.render().contains("x_total"));
    }
}
