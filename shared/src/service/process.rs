//! How a process of the farm starts: it reads its settings, starts its log and reports both.

use std::time::Duration;

use super::config::{ConfigErrors, Env, Group, Program, Reader, Setting, unknown};
use super::scheduling::{SCHEDULING, Scheduling};
use super::telemetry::{LOG_FORMAT, LogConfig, RUST_LOG};

const SHUTDOWN_GRACE_MS: Setting = Setting::new(
    "SHUTDOWN_GRACE_MS",
    "20000",
    "How long running requests and calls may take to finish after SIGTERM.",
);

/// The settings that every program has.
pub const PROCESS_SETTINGS: Group = Group {
    title: "Process",
    settings: &[SHUTDOWN_GRACE_MS, SCHEDULING, LOG_FORMAT, RUST_LOG],
};

/// Reads `SHUTDOWN_GRACE_MS`.
pub fn shutdown_grace(reader: &mut Reader) -> Duration {
    reader.millis(&SHUTDOWN_GRACE_MS, 0..=3_600_000)
}

/// The settings of a process, before it starts.
#[derive(Debug)]
pub struct Settings<C> {
    /// The program's own configuration.
    pub config: C,
    log: LogConfig,
    scheduling: Scheduling,
    effective: String,
}

impl<C> Settings<C> {
    /// Reads all settings of this process; an error names everything that is wrong.
    pub fn read(read: impl FnOnce(&mut Reader) -> C) -> Result<Self, ConfigErrors> {
        let mut reader = Reader::new(Env::process());
        let log = LogConfig::read(&mut reader);
        let scheduling = Scheduling::read(&mut reader);
        let config = read(&mut reader);
        let effective = reader.effective();
        reader.finish()?;
        Ok(Self {
            config,
            log,
            scheduling,
            effective,
        })
    }

    /// Starts the log; its first line has the version, the commit and the effective settings.
    /// Called before the process has other threads, which inherit their scheduling from this one.
    pub fn start(self, program: &Program) -> C {
        self.log.start();
        if let Err(error) = self.scheduling.apply() {
            tracing::warn!(%error, "SCHEDULING has no effect");
        }
        tracing::info!(
            program = program.name,
            version = program.version,
            commit = program.commit,
            settings = self.effective,
            "starting"
        );
        let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
        for unknown in unknown(program, names) {
            tracing::warn!(
                variable = unknown.name,
                nearest = unknown.nearest,
                "unknown environment variable ignored"
            );
        }
        self.config
    }
}
