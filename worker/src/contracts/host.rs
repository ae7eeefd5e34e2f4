//! The task that hosts one contract: feeds its calls to a sandbox, makes a lost sandbox anew, and
//! decides what becomes of the calls that a loss caught.
//!
//! Calls are handed over as many at a time as the sandbox takes, in the order in which they came.
//! When a sandbox is lost under several calls, nobody knows which of them was to blame: each is
//! run once more, alone, so that the guilty one is found and the others get their results.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use shared::protocol::id::ContractAddress;
use shared::protocol::job::ContractSpec;
use shared::protocol::reply::{ContractState, Failure, FailureCode, Output};
use shared::service::batch::join_batch;

use super::restart::{GiveUp, Losses};
use super::{Call, HostEnds, Stop};
use crate::Worker;
use crate::metrics::EngineMetrics;
use crate::sandbox::{CallId, Engine, Event, Instance, Invocation, StartError};
use crate::settle::Ran;

/// What is said to calls that may have been given to somebody else meanwhile.
const LEASE_LOST: &str = "The worker has lost its lease since";

/// Calls taken off the queue ahead of the sandbox: enough to fill what it takes at once.
const LOOKAHEAD: usize = 128;

/// Hosts one version of a contract.
pub(crate) struct HostTask<E: Engine> {
    pub(crate) worker: Arc<Worker>,
    pub(crate) engine: E,
    pub(crate) address: ContractAddress,
    pub(crate) spec: ContractSpec,
    pub(crate) executable: Arc<str>,
    pub(crate) generation: u64,
    pub(crate) ends: HostEnds,
    /// The sandboxes that were lost lately.
    pub(super) losses: Losses,
    /// The methods of the current sandbox, where it knows them.
    pub(super) endpoints: Option<HashSet<String>>,
    /// The image of the current sandbox, where it has one.
    pub(super) image: Option<String>,
}

/// What a host serves; see [`HostTask::new`].
pub(crate) struct Hosting<E> {
    pub(crate) engine: E,
    pub(crate) address: ContractAddress,
    pub(crate) spec: ContractSpec,
    pub(crate) executable: Arc<str>,
    pub(crate) generation: u64,
}

/// The calls of a host, by how far they are.
#[derive(Default)]
pub(super) struct Calls {
    pub(super) waiting: VecDeque<Call>,
    pub(super) running: HashMap<CallId, Call>,
    last: u32,
}

/// Why serving ended.
enum Served {
    /// Nobody can send calls any more, and all are answered.
    Finished,
    /// The host was told to stop, and what ran is answered.
    Stopped(FailureCode),
    /// The sandbox is gone: it broke, or was closed because a call ran over its limit.
    Lost { broke: bool },
}

impl<E: Engine> HostTask<E> {
    pub(crate) fn new(worker: Arc<Worker>, hosting: Hosting<E>, ends: HostEnds) -> Self {
        let Hosting {
            engine,
            address,
            spec,
            executable,
            generation,
        } = hosting;
        Self {
            losses: Losses::new(engine.restart_limit()),
            worker,
            engine,
            address,
            spec,
            executable,
            generation,
            ends,
            endpoints: None,
            image: None,
        }
    }

    /// Serves until the host is stopped, or replaced and done. Where there is no `first` sandbox, it
    /// is taken for lost.
    pub(crate) async fn run(mut self, first: Result<E::Instance, StartError>) {
        let mut calls = Calls::default();
        let mut next = self.first(first);
        loop {
            let mut instance = match next.take() {
                Some(instance) => instance,
                None => match self.restart(&mut calls).await {
                    Ok(fresh) => fresh,
                    Err(GiveUp::Quarantine) => {
                        self.quarantine().await;
                        self.answer_caught(&mut calls);
                        return self.refuse_waiting(calls, FailureCode::NotHosted);
                    }
                    Err(GiveUp::Stop(code)) => return self.refuse_waiting(calls, code),
                },
            };
            self.announce(&instance);
            let life = self.worker.life.clone();
            let served = tokio::select! {
                served = self.serve(&mut instance, &mut calls) => served,
                () = life.stopping() => Served::Stopped(FailureCode::Draining),
            };
            match served {
                Served::Finished => return self.close(instance).await,
                Served::Stopped(code) => {
                    self.refuse_waiting(calls, code);
                    return self.close(instance).await;
                }
                Served::Lost { broke } => {
                    self.metrics().lost(broke);
                    self.ends.status.enter(ContractState::Restarting);
                    // Timeouts do not count against a contract: the argument may be to blame.
                    if broke {
                        self.losses.note();
                    }
                    self.sort_out(&mut calls);
                    instance.close().await;
                }
            }
        }
    }

    fn first(&mut self, started: Result<E::Instance, StartError>) -> Option<E::Instance> {
        if started.is_err() {
            self.ends.status.enter(ContractState::Restarting);
        }
        if let Err(StartError::Invalid(_)) = &started {
            self.losses.note();
        }
        started.ok()
    }

    fn announce(&mut self, instance: &E::Instance) {
        let endpoints = instance.endpoints();
        self.endpoints = endpoints.map(|names| names.iter().cloned().collect());
        self.image = instance.image().map(str::to_owned);
        let endpoints = endpoints.unwrap_or_default().to_vec();
        self.ends
            .status
            .ready(self.generation, endpoints, self.image.clone());
    }

    async fn close(&self, instance: E::Instance) {
        self.ends.status.enter(ContractState::Unloading);
        instance.close().await;
    }

    async fn serve(&mut self, instance: &mut E::Instance, calls: &mut Calls) -> Served {
        let mut open = true;
        let mut arrived = Vec::with_capacity(LOOKAHEAD);
        loop {
            let stop = *self.ends.stop.borrow();
            let fenced = self.worker.fence.is_closed();
            if stop == Stop::No && !fenced {
                self.feed(instance, calls).await;
            } else {
                instance.submit(&[]);
            }
            match stop {
                Stop::Refusing(code) if calls.running.is_empty() => return Served::Stopped(code),
                Stop::No if !open && calls.is_empty() => return Served::Finished,
                _ => {}
            }
            let lookahead = LOOKAHEAD.saturating_sub(calls.waiting.len());
            tokio::select! {
                events = instance.next() => {
                    if let Some(lost) = self.take(events, calls) {
                        return lost;
                    }
                }
                () = self.worker.fence.open(), if fenced => {}
                count = self.ends.calls.recv_many(&mut arrived, lookahead),
                    if open && lookahead > 0 && stop == Stop::No =>
                {
                    open = count > 0;
                    calls.waiting.extend(arrived.drain(..));
                }
                // Fails when the host was replaced: then nobody can stop it any more.
                Ok(()) = self.ends.stop.changed() => {}
            }
        }
    }

    /// Hands waiting calls to the sandbox, as many as it takes.
    async fn feed(&mut self, instance: &mut E::Instance, calls: &mut Calls) {
        while !calls.waiting.is_empty()
            && !calls.is_one_alone()
            && calls.waiting.len() >= instance.worthwhile()
        {
            let room = instance.reserve();
            let more = room.saturating_sub(calls.waiting.len());
            if more > 0 {
                let arriving = &mut self.ends.calls;
                join_batch(&mut calls.waiting, more, || arriving.try_recv().ok()).await;
            }
            let batch = self.next_batch(room, calls);
            if batch.is_empty() {
                if room > 0 {
                    instance.submit(&[]);
                }
                return;
            }
            let invocations: Vec<_> = batch
                .iter()
                .map(|(id, call)| Invocation {
                    id: *id,
                    method: &call.method,
                    argument: call.argument.as_deref(),
                })
                .collect();
            instance.submit(&invocations);
            self.note_batch(&batch);
            calls.running.extend(batch);
        }
    }

    pub(super) fn metrics(&self) -> &EngineMetrics {
        self.worker.metrics.of(self.spec.engine)
    }

    fn note_batch(&self, batch: &[(CallId, Call)]) {
        let metrics = self.metrics();
        let size = u32::try_from(batch.len()).unwrap_or(u32::MAX);
        metrics.batch.record(size);
        let now = Instant::now();
        for (_, call) in batch {
            metrics.wait.record(now - call.delivery.received);
        }
    }

    /// Takes up to `room` calls that can be run together; answers those that cannot be run.
    fn next_batch(&self, room: usize, calls: &mut Calls) -> Vec<(CallId, Call)> {
        let mut batch = Vec::new();
        let now = self.worker.queue.clock().now_ms();
        while batch.len() < room
            && let Some(next) = calls.waiting.front()
        {
            let alone = next.losses > 0;
            if alone && !(batch.is_empty() && calls.running.is_empty()) {
                break;
            }
            let Some(call) = calls.waiting.pop_front() else {
                break;
            };
            let (api, job) = call.delivery.name();
            if self.worker.cancelled.contains(api, job) {
                self.ends.status.call_refused();
                call.delivery.dismiss();
                continue;
            }
            if self.worker.fence.was_lost_since(call.delivery.received) {
                self.turn_one_away(call, FailureCode::NotHosted, LEASE_LOST);
                continue;
            }
            if let Some(failure) = self.refusal(&call, now) {
                self.answer(call, Err(failure), None);
                continue;
            }
            batch.push((calls.fresh_id(), call));
            if alone {
                break;
            }
        }
        batch
    }

    /// Takes in what happened; tells when the sandbox is lost.
    fn take(&self, events: Vec<Event>, calls: &mut Calls) -> Option<Served> {
        let mut handed_back = Vec::new();
        let mut lost = false;
        let mut overran = false;
        for event in events {
            match event {
                Event::Done {
                    call,
                    outcome,
                    elapsed,
                } => {
                    overran |= is_timeout(&outcome);
                    if let Some(call) = calls.running.remove(&call) {
                        self.answer(call, outcome.map(Output::Result), Some(elapsed));
                    }
                }
                Event::NotStarted(id) => handed_back.extend(calls.running.remove(&id)),
                Event::Lost { reason } => {
                    tracing::warn!(contract = %self.address, reason, "a sandbox was lost");
                    lost = true;
                }
            }
        }
        for call in handed_back.into_iter().rev() {
            calls.waiting.push_front(call);
        }
        lost.then_some(Served::Lost { broke: !overran })
    }

    pub(super) fn answer(
        &self,
        call: Call,
        outcome: Result<Output, Failure>,
        time: Option<Duration>,
    ) {
        self.ends.status.call_ended(outcome.is_err());
        self.metrics().answered(&outcome, time);
        call.delivery.settle(
            outcome,
            Ran {
                generation: Some(self.generation),
                time,
            },
        );
    }
}

fn is_timeout<T>(outcome: &Result<T, Failure>) -> bool {
    matches!(outcome, Err(failure) if failure.code == FailureCode::ExecutionTimeout)
}

impl Calls {
    fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }

    /// Whether a call is running that must not have company.
    fn is_one_alone(&self) -> bool {
        self.running.len() == 1 && self.running.values().any(|call| call.losses > 0)
    }

    fn fresh_id(&mut self) -> CallId {
        self.last = self.last.wrapping_add(1);
        CallId(self.last)
    }
}
