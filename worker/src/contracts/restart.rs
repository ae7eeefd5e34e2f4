//! Restarts a lost sandbox in a new generation.
//!
//! [`CrashHistory`](super::crash_loop::CrashHistory) decides about pauses and about the end.

use std::time::Duration;

use shared::protocol::reply::FailureCode;
use shared::queue::ownership::ChangeId;
use shared::service::backoff::Backoff;
use tokio::time::Instant;

use super::crash_loop::LONGEST_PAUSE;
use super::handle::StopRequest;
use super::task::{Calls, ContractTask};
use crate::sandbox::{Blueprint, Engine, Instance, LossCause, StartError};

/// The failure message while no sandbox can be started.
const NO_SANDBOX: &str = "The contract's sandbox cannot be started at the moment; try again later";

/// Why a sandbox is not restarted on this worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoRestart {
    /// The task must stop. Calls are refused with this code.
    Stopped(FailureCode),
    /// The contract crashed too often.
    CrashLoop,
    /// This worker cannot get the contract's image.
    ImageMissing,
}

impl<E: Engine> ContractTask<E> {
    /// Starts a new sandbox in a new generation. Fails only if the contract must leave this worker
    /// or must be quarantined.
    pub(super) async fn restart(&mut self, calls: &mut Calls) -> Result<E::Instance, NoRestart> {
        let mut backoff = Backoff::new(Duration::from_millis(50), LONGEST_PAUSE);
        let mut pause = self.crashes.pause();
        let mut refusing = false;
        loop {
            if self.crashes.is_crash_loop() {
                return Err(NoRestart::CrashLoop);
            }
            self.wait(pause, refusing).await?;
            match self.start_next().await {
                Ok(instance) => return self.begin_generation(instance).await,
                Err(StartError::Invalid(error)) => {
                    tracing::warn!(contract = %self.address(), error, "new sandbox failed");
                    self.crashes.record(LossCause::Crash, 0, Instant::now());
                    pause = self.crashes.pause().max(backoff.delay());
                }
                Err(StartError::ImageMissing(error)) => {
                    tracing::error!(contract = %self.address(), error, "contract image missing");
                    return Err(NoRestart::ImageMissing);
                }
                // Not a crash: a busy machine may be the cause, however often this happens.
                Err(
                    StartError::NotReady(error)
                    | StartError::Unavailable(error)
                    | StartError::ImageUnavailable(error),
                ) => {
                    tracing::warn!(contract = %self.address(), error, "sandbox restart failed");
                    // The duration is unknown, so calls are refused instead of kept waiting.
                    self.refuse_waiting(calls, FailureCode::SandboxUnavailable, NO_SANDBOX);
                    refusing = true;
                    pause = backoff.delay();
                }
            }
        }
    }

    /// Waits, unless the task must stop. Refuses calls meanwhile if `refusing` is set.
    async fn wait(&mut self, pause: Duration, refusing: bool) -> Result<(), NoRestart> {
        let end = Instant::now() + pause;
        loop {
            if let StopRequest::RefuseWaiting(code) = *self.ends.stop.borrow() {
                return Err(NoRestart::Stopped(code));
            }
            tokio::select! {
                () = tokio::time::sleep_until(end) => return Ok(()),
                Ok(()) = self.ends.stop.changed() => {}
                () = self.worker.life.stopping() => {
                    return Err(NoRestart::Stopped(FailureCode::Draining));
                }
                Some(call) = self.ends.calls.recv(), if refusing => {
                    self.refuse_call(call, FailureCode::SandboxUnavailable, NO_SANDBOX);
                }
            }
        }
    }

    async fn start_next(&self) -> Result<E::Instance, StartError> {
        let plan = Blueprint {
            address: self.address(),
            generation: self.tenure.generation(),
            spec: &self.spec,
            executable: &self.executable,
            image: self.image.as_ref(),
        };
        self.engine.start(plan).await
    }

    /// Raises the generation for a started sandbox; closes the sandbox if that is not possible.
    async fn begin_generation(&mut self, instance: E::Instance) -> Result<E::Instance, NoRestart> {
        match self.raise_generation().await {
            Ok(()) => {
                self.metrics().restarts.increment(1);
                Ok(instance)
            }
            Err(reason) => {
                instance.close().await;
                Err(reason)
            }
        }
    }

    async fn raise_generation(&mut self) -> Result<(), NoRestart> {
        let mut backoff = Backoff::redis();
        let change = ChangeId::random();
        loop {
            match self.tenure.raise_generation(&change).await {
                Ok(true) => return Ok(()),
                Ok(false) => return Err(NoRestart::Stopped(FailureCode::NotHosted)),
                Err(error) => tracing::warn!(%error, "generation not raised yet"),
            }
            tokio::select! {
                () = backoff.wait() => {}
                () = self.worker.life.stopping() => {
                    return Err(NoRestart::Stopped(FailureCode::Draining));
                }
            }
        }
    }
}
