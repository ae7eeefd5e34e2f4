//! The `execution-worker` program: configuration, log, signals; then [`execution_worker::run`].

use std::process::ExitCode;
use std::time::Duration;

use execution_worker::chromium;
use execution_worker::config::Config;
use shared::service::config::Env;
use shared::service::lifecycle::{Lifecycle, Signals};
use shared::service::probe;

/// How long everything may take to end once the worker stops. Its browsers are given 10 s.
const LAST_WORDS: Duration = Duration::from_secs(15);

fn main() -> ExitCode {
    // The same program guards its browsers: see `chromium`.
    if let Some(code) = chromium::run_if_asked() {
        return code;
    }
    let env = Env::process();
    let config = match shared::service::telemetry::start(env).and_then(|()| Config::from_env(env)) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("execution-worker: {error}");
            return ExitCode::FAILURE;
        }
    };
    if probe::is_asked() {
        return probe_worker(env);
    }
    match work(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "execution-worker cannot run");
            ExitCode::FAILURE
        }
    }
}

/// Asks the worker in the same container, at the port where an operator would.
fn probe_worker(env: Env) -> ExitCode {
    let host = env.text("EXECUTION_WORKER_HOST");
    match env.parse("EXECUTION_WORKER_PORT", 0) {
        Ok(port) => probe::run(host.as_deref().unwrap_or("127.0.0.1"), port),
        Err(error) => {
            eprintln!("execution-worker: {error}");
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
        tokio::time::sleep(LAST_WORDS).await;
    };
    let worked = tokio::select! {
        worked = execution_worker::run(config, life.clone()) => worked,
        // The guards of its browsers see this process go.
        () = overdue => return Err("a part of it does not end".into()),
    };
    life.stop();
    following.await?;
    worked?;
    if life.has_failed() {
        return Err("a part of it failed".into());
    }
    Ok(())
}
