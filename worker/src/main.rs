//! The `execution-worker` program: settings, log, signals; then [`execution_worker::run`].

use std::process::ExitCode;
use std::time::Duration;

use execution_worker::chromium;
use execution_worker::config::{Config, PROGRAM};
use shared::service::cli::{self, Task};
use shared::service::lifecycle::{Lifecycle, Signals};
use shared::service::probe;
use shared::service::process::Settings;

/// How long all tasks may take to end once the worker stops. Its browsers have 10 s of that.
const STOP_LIMIT: Duration = Duration::from_secs(15);

fn main() -> ExitCode {
    // The same program guards its browsers: see `chromium`.
    if let Some(code) = chromium::run_if_asked() {
        return code;
    }
    let task = cli::task(&PROGRAM);
    let settings = match Settings::read(Config::read) {
        Ok(settings) => settings,
        Err(error) => {
            eprintln!("execution-worker: {error}");
            return ExitCode::FAILURE;
        }
    };
    if task == Task::Healthcheck {
        let Config { host, port, .. } = settings.config;
        return probe::run(&host, port.unwrap_or(0));
    }
    match work(settings.start(&PROGRAM)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "execution-worker cannot run");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn work(config: Config) -> Result<(), Box<dyn std::error::Error>> {
    let signals = Signals::listen()?;
    let life = Lifecycle::new();
    let following = tokio::spawn(life.clone().follow_signals(signals, config.shutdown_grace));
    let overdue = async {
        life.stopping().await;
        tokio::time::sleep(STOP_LIMIT).await;
    };
    let worked = tokio::select! {
        worked = execution_worker::run(config, life.clone()) => worked,
        // The guards of the browsers notice the end of this process.
        () = overdue => return Err("one of its tasks does not end".into()),
    };
    life.stop();
    following.await?;
    worked?;
    if life.has_failed() {
        return Err("one of its tasks failed".into());
    }
    Ok(())
}
