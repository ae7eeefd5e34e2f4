//! Logs, [`metrics`] and [`traces`]. `main` sets up one log subscriber.

pub mod metrics;
pub mod traces;

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::service::config::{Reader, Setting};

pub(super) const RUST_LOG: Setting = Setting::new(
    "RUST_LOG",
    "info",
    "Which log lines are written; info,request=debug adds one line per request.",
);
pub(super) const LOG_FORMAT: Setting = Setting::new(
    "LOG_FORMAT",
    "pretty",
    "The format of log lines: pretty or json.",
);

/// What is logged, and how.
#[derive(Debug)]
pub struct LogConfig {
    filter: EnvFilter,
    is_json: bool,
}

impl LogConfig {
    /// Reads the settings.
    pub fn read(reader: &mut Reader) -> Self {
        let directives = reader.string(&RUST_LOG);
        let filter = EnvFilter::try_new(&directives).unwrap_or_else(|reason| {
            reader.refuse(&RUST_LOG, &directives, reason);
            EnvFilter::default()
        });
        let format = reader.string(&LOG_FORMAT);
        if !matches!(format.as_str(), "pretty" | "json") {
            reader.refuse(&LOG_FORMAT, &format, "must be pretty or json");
        }
        Self {
            filter,
            is_json: format == "json",
        }
    }

    /// Starts logging to standard error.
    pub(super) fn start(self) {
        let builder = tracing_subscriber::fmt()
            .with_env_filter(self.filter)
            .with_ansi(std::io::stderr().is_terminal())
            .with_writer(std::io::stderr);
        if self.is_json {
            builder.json().flatten_event(true).init();
        } else {
            builder.init();
        }
    }
}
