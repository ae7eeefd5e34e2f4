//! How much is measured, and where the report is written.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::scale::Extent;
use crate::support::programs;

/// `BENCH`: what the program does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Full,
    /// Within three minutes: fewer rounds, shorter spans, fewer scenarios.
    Quick,
    /// Flame graphs instead of figures.
    Profile,
    /// A comparison with an earlier version.
    Guard,
    /// The queue alone.
    Scale,
    /// The same, within two minutes.
    ScaleQuick,
}

impl Mode {
    pub(crate) fn is_scale(self) -> bool {
        matches!(self, Self::Scale | Self::ScaleQuick)
    }
}

/// The parameters of a run.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) mode: Mode,
    pub(crate) rounds: usize,
    /// How long each load lasts, in whole seconds.
    pub(crate) span: Duration,
    pub(crate) connections: &'static [u32],
    /// Bytes.
    pub(crate) payloads: &'static [usize],
    pub(crate) workers: &'static [usize],
    /// The folder of the report and the plots.
    pub(crate) folder: PathBuf,
    only: Vec<String>,
}

impl Plan {
    pub(crate) fn from_env() -> Self {
        let plan = match std::env::var("BENCH").as_deref() {
            Err(_) | Ok("full") => Self::full(Mode::Full),
            Ok("profile") => Self::full(Mode::Profile),
            Ok("guard") => Self::full(Mode::Guard),
            Ok("quick") => Self::quick(Mode::Quick),
            Ok("scale") => Self::full(Mode::Scale),
            Ok("scale-quick") => Self::quick(Mode::ScaleQuick),
            Ok(other) => {
                let names = "full, quick, profile, guard, scale or scale-quick";
                panic!("BENCH={other}: must be {names}")
            }
        };
        let only = std::env::var("BENCH_ONLY").unwrap_or_default();
        Self {
            rounds: variable("BENCH_ROUNDS").map_or(plan.rounds, |rounds| {
                usize::try_from(rounds.max(1)).expect("some rounds")
            }),
            span: variable("BENCH_SECONDS").map_or(plan.span, |s| Duration::from_secs(s.max(1))),
            only: only.split_whitespace().map(str::to_owned).collect(),
            ..plan
        }
    }

    fn full(mode: Mode) -> Self {
        let package = Path::new(env!("CARGO_MANIFEST_DIR"));
        Self {
            mode,
            rounds: 3,
            span: Duration::from_secs(8),
            connections: &[1, 8, 64, 256],
            payloads: &[1_000, 64_000, 1_000_000],
            workers: &[1, 2, 4],
            folder: package.with_file_name("bench"),
            only: Vec::new(),
        }
    }

    fn quick(mode: Mode) -> Self {
        Self {
            mode,
            rounds: 2,
            span: Duration::from_secs(2),
            connections: &[1, 64, 256],
            payloads: &[64_000],
            workers: &[1, 2],
            // A separate folder, so that a quick run does not overwrite the real report.
            folder: programs::folder().with_file_name("bench-quick"),
            only: Vec::new(),
        }
    }

    /// How much of the queue alone is measured.
    pub(crate) fn scale(&self) -> Extent {
        let folder = self.folder.clone();
        match self.mode {
            Mode::ScaleQuick => Extent::quick(folder),
            _ => Extent::full(folder),
        }
    }

    pub(crate) fn is_quick(&self) -> bool {
        self.mode == Mode::Quick
    }

    /// Whether to run a group of scenarios; `BENCH_ONLY` selects them.
    pub(crate) fn has(&self, group: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == group)
    }
}

fn variable(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|error| panic!("{name}={text}: {error}")),
    )
}
