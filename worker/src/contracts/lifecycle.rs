//! The life of a contract's task: start, serve, restart after a loss, end.

use std::sync::Arc;

use shared::protocol::id::ContractAddress;
use shared::protocol::reply::{ContractState, FailureCode};
use shared::queue::ownership::Sandbox;
use tokio::time::Instant;

use super::restart::NoRestart;
use super::serve::ServeEnd;
use super::status::Status;
use super::task::{Calls, ContractTask};
use crate::sandbox::{Engine, Instance, LossCause, StartError};
use crate::worker::Worker;

impl<E: Engine> ContractTask<E> {
    /// Serves calls until the task is stopped, or replaced and finished. If the `first` sandbox did
    /// not start, the task restarts it as after a loss.
    pub(crate) async fn run(mut self, first: Result<E::Instance, StartError>) {
        self.run_to_end(first).await;
        let (worker, address) = (self.worker.clone(), self.address().clone());
        let status = self.ends.status.clone();
        // Whoever stops this task waits for it while holding the contract's lock.
        drop(self);
        leave(&worker, &address, &status).await;
    }

    async fn run_to_end(&mut self, first: Result<E::Instance, StartError>) {
        let mut calls = Calls::default();
        let mut next = self.check_first(first);
        loop {
            let mut instance = match next.take() {
                Some(instance) => instance,
                None => match self.restart(&mut calls).await {
                    Ok(instance) => instance,
                    Err(NoRestart::CrashLoop) => {
                        self.quarantine().await;
                        self.fail_rerun_calls(&mut calls);
                        return self.close_queue(calls, FailureCode::NotHosted).await;
                    }
                    Err(NoRestart::ImageMissing) => {
                        self.tenure.leave_without_image(self.image.as_ref()).await;
                        self.fail_rerun_calls(&mut calls);
                        return self.close_queue(calls, FailureCode::NotHosted).await;
                    }
                    Err(NoRestart::Stopped(code)) => {
                        return self.close_queue(calls, code).await;
                    }
                },
            };
            self.mark_ready(&instance);
            let life = self.worker.life.clone();
            let end = tokio::select! {
                end = self.serve(&mut instance, &mut calls) => end,
                () = life.stopping() => ServeEnd::Stopped(FailureCode::Draining),
            };
            // It holds a connection. It is begun again with the next sandbox.
            calls.fetch = None;
            match end {
                ServeEnd::Finished => return self.close(instance).await,
                ServeEnd::Stopped(code) => {
                    self.close_queue(calls, code).await;
                    return self.close(instance).await;
                }
                ServeEnd::SandboxLost(cause, reason) => {
                    self.metrics().lost(cause);
                    self.last_loss = reason;
                    self.ends.status.sandbox_lost();
                    self.ends.status.enter(ContractState::Restarting);
                    let running = calls.running.len();
                    self.crashes.record(cause, running, Instant::now());
                    self.requeue_or_fail(&mut calls);
                    instance.close().await;
                }
            }
        }
    }

    fn check_first(&mut self, started: Result<E::Instance, StartError>) -> Option<E::Instance> {
        if started.is_err() {
            self.ends.status.enter(ContractState::Restarting);
        }
        if let Err(StartError::Invalid(_)) = &started {
            self.crashes.record(LossCause::Crash, 0, Instant::now());
        }
        started.ok()
    }

    fn mark_ready(&mut self, instance: &E::Instance) {
        let endpoints = instance.endpoints();
        self.endpoints = endpoints.map(|names| names.iter().cloned().collect());
        self.image = instance.image().cloned();
        let sandbox = Sandbox {
            endpoints: endpoints.unwrap_or_default().to_vec(),
            image: self.image.clone(),
            schemas: self.schemas.clone(),
        };
        let generation = self.tenure.generation();
        let memory = instance.memory();
        self.ends.status.ready(generation, sandbox, memory);
    }

    async fn close(&self, instance: E::Instance) {
        self.ends.status.enter(ContractState::Unloading);
        instance.close().await;
    }

    /// Gives the contract up and quarantines it.
    async fn quarantine(&self) {
        let (worker, address) = (&self.worker, self.address());
        tracing::error!(contract = %address, "contract quarantined after repeated crashes");
        if let Err(error) = self.tenure.quarantine(worker.quarantine_ms).await {
            tracing::warn!(contract = %address, %error, "quarantine not recorded");
        }
    }
}

/// Takes a contract whose task has ended off this worker's table, if it is still there, and frees
/// its capacity. A reload that is in progress replaces it first.
async fn leave(worker: &Worker, address: &ContractAddress, status: &Arc<Status>) {
    if !worker.contracts.is_current(address, status) {
        return;
    }
    let lock = worker.contracts.lock(address).await;
    let permit = worker.contracts.remove_if_current(address, status);
    drop(lock);
    if permit.is_some() {
        drop(permit);
        worker.announce().await;
    }
}
