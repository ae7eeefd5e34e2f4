//! The `execution-api` program: configuration, log, listener, signals; then [`execution_api::run`].

use std::process::ExitCode;

use execution_api::config::Config;
use shared::service::config::Env;
use shared::service::lifecycle::{Lifecycle, Signals};
use shared::service::probe;
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> ExitCode {
    let env = Env::process();
    let config = match shared::service::telemetry::start(env).and_then(|()| Config::from_env(env)) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("execution-api: {error}");
            return ExitCode::FAILURE;
        }
    };
    if probe::is_asked() {
        return probe::run(&config.host, config.port);
    }
    match serve(config).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "execution-api cannot run");
            ExitCode::FAILURE
        }
    }
}

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
        return Err("a part of it failed".into());
    }
    Ok(())
}
