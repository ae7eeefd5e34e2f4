//! Logs, [`metrics`] and [`traces`]. `main` sets up one log subscriber.

pub mod metrics;
pub mod traces;

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::service::config::{ConfigError, Env};

/// Starts logging to standard error.
///
/// `LOG_FORMAT` is `pretty` (default) or `json`; `RUST_LOG` filters, by default `info`.
pub fn start(env: Env) -> Result<(), ConfigError> {
    let directives = env.text("RUST_LOG").unwrap_or_else(|| "info".to_owned());
    let filter = EnvFilter::try_new(&directives)
        .map_err(|reason| ConfigError::new("RUST_LOG", directives, reason))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match env.text("LOG_FORMAT").as_deref() {
        None | Some("pretty") => builder.init(),
        Some("json") => builder.json().flatten_event(true).init(),
        Some(other) => {
            return Err(ConfigError::new(
                "LOG_FORMAT",
                other,
                "must be pretty or json",
            ));
        }
    }
    Ok(())
}
