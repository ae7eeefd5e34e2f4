//! The `execution-api` program: settings, log, listener, signals; then [`execution_api::run`].

use std::process::ExitCode;

use clap::ArgMatches;
use execution_api::access::first_key;
use execution_api::config::{Config, PROGRAM};
use shared::service::cli::{self, Task};
use shared::service::lifecycle::{Lifecycle, Signals};
use shared::service::probe;
use shared::service::process::Settings;
use tokio::net::TcpListener;

fn main() -> ExitCode {
    let arguments = cli::arguments(&PROGRAM, [first_key::command()]);
    let settings = match Settings::read(Config::read) {
        Ok(settings) => settings,
        Err(error) => {
            eprintln!("execution-api: {error}");
            return ExitCode::FAILURE;
        }
    };
    if let Some(("keys", keys)) = arguments.subcommand() {
        return manage_keys(&settings.config, keys);
    }
    if cli::task_of(&arguments) == Task::Healthcheck {
        return probe::run(&settings.config.host, settings.config.port);
    }
    match serve(settings.start(&PROGRAM)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "execution-api cannot run");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn manage_keys(config: &Config, keys: &ArgMatches) -> ExitCode {
    first_key::run(&config.redis, keys).await
}

#[tokio::main]
async fn serve(config: Config) -> Result<(), Box<dyn std::error::Error>> {
    let signals = Signals::listen()?;
    let listener = TcpListener::bind((config.host.as_str(), config.port))
        .await
        .map_err(|e| {
            format!(
                "EXECUTION_API_HOST:EXECUTION_API_PORT {}:{}: {e}",
                config.host, config.port
            )
        })?;
    tracing::info!(address = %listener.local_addr()?, "listening");
    let life = Lifecycle::new();
    let following = tokio::spawn(life.clone().follow_signals(signals, config.shutdown_grace));
    let served = execution_api::run(config, listener, life.clone()).await;
    life.stop();
    following.await?;
    served?;
    if life.has_failed() {
        return Err("one of its tasks failed".into());
    }
    Ok(())
}
