//! The serving loop of a contract's task: submits calls to the sandbox and takes in its events.
//!
//! Calls are submitted in the order in which they arrived, as many at a time and with as many bytes
//! of arguments as the sandbox accepts. When a sandbox is lost, it is unknown which of the running
//! calls caused the loss. So each of them runs once more, alone: the call that causes a second loss
//! is known, and the others get their results.

use std::time::Instant;

use shared::protocol::job::MAX_LINES;
use shared::protocol::reply::{FailureCode, Output};
use shared::service::batch::join_batch;

use super::handle::{Call, StopRequest};
use super::task::{Calls, ContractTask};
use crate::sandbox::{CallId, Engine, Event, Instance, Invocation, LossCause, Room};

/// The failure message for calls that another worker may have got meanwhile.
const LEASE_LOST: &str = "The worker lost its lease after it accepted the call; try again";

/// The number of calls taken off the queue ahead of the sandbox: enough to fill one submission.
const LOOKAHEAD: usize = 128;

/// Why the serving loop ended.
pub(super) enum ServeEnd {
    /// No more calls can arrive, and all are answered.
    Finished,
    /// The task was asked to stop, and the running calls are answered.
    Stopped(FailureCode),
    /// The sandbox is gone: it crashed, or was closed because a call exceeded its limit. With what
    /// happened, in words.
    SandboxLost(LossCause, String),
}

impl<E: Engine> ContractTask<E> {
    /// Serves calls until the sandbox is lost or the task must end.
    pub(super) async fn serve(
        &mut self,
        instance: &mut E::Instance,
        calls: &mut Calls,
    ) -> ServeEnd {
        let mut open = true;
        let mut arrived = Vec::with_capacity(LOOKAHEAD);
        loop {
            let followed = self.is_followed();
            instance.follow(followed || self.spec.keep_logs);
            let stop = *self.ends.stop.borrow();
            let fenced = self.worker.fence.is_closed();
            if stop == StopRequest::None && !fenced && !calls.awaits_argument() {
                self.feed(instance, calls).await;
            } else {
                instance.submit(&[]);
            }
            match stop {
                StopRequest::RefuseWaiting(code) if calls.running.is_empty() => {
                    return ServeEnd::Stopped(code);
                }
                StopRequest::None if !open && calls.is_empty() => return ServeEnd::Finished,
                _ => {}
            }
            self.begin_fetch(calls);
            let lookahead = LOOKAHEAD.saturating_sub(calls.waiting.len());
            tokio::select! {
                events = instance.next() => {
                    if let Some(lost) = self.process(events, calls) {
                        return lost;
                    }
                }
                () = self.worker.fence.opened(), if fenced => {}
                () = self.ends.status.follow_changed(self.worker.queue.clock(), followed) => {}
                count = self.ends.calls.recv_many(&mut arrived, lookahead),
                    if open && lookahead > 0 && stop == StopRequest::None =>
                {
                    open = count > 0;
                    calls.waiting.extend(arrived.drain(..));
                }
                fetched = calls.fetched(), if calls.fetch.is_some() => {
                    self.end_fetch(fetched, calls);
                }
                // Fails once the handle was replaced: the task then ends by itself.
                Ok(()) = self.ends.stop.changed() => {}
            }
        }
    }

    /// Submits waiting calls to the sandbox, as many as it accepts.
    async fn feed(&mut self, instance: &mut E::Instance, calls: &mut Calls) {
        while let Some(next) = calls.waiting.front()
            && !calls.is_one_alone()
            && calls.waiting.len() >= instance.worthwhile(next.size())
        {
            let room = instance.reserve(next.size());
            let more = room.calls.saturating_sub(calls.waiting.len());
            if more > 0 {
                let arriving = &mut self.ends.calls;
                join_batch(&mut calls.waiting, more, || arriving.try_recv().ok()).await;
            }
            let batch = self.next_batch(room, calls);
            if batch.is_empty() {
                if room.calls > 0 {
                    instance.submit(&[]);
                }
                return;
            }
            let is_wanted = self.wants_output();
            let invocations: Vec<_> = batch
                .iter()
                .map(|(id, call)| Invocation {
                    id: *id,
                    method: &call.method,
                    argument: call.argument.as_deref(),
                    logs: if is_wanted { MAX_LINES } else { call.logs },
                })
                .collect();
            instance.submit(&invocations);
            self.record_batch(&batch);
            calls.running.extend(batch);
        }
    }

    fn record_batch(&self, batch: &[(CallId, Call)]) {
        let metrics = self.metrics();
        let size = u32::try_from(batch.len()).unwrap_or(u32::MAX);
        metrics.batch.record(size);
        let now = Instant::now();
        for (_, call) in batch {
            metrics.wait.record(now - call.delivery.received);
        }
    }

    /// Takes the calls that can run together and fit into `room`. Answers those that cannot run.
    fn next_batch(&self, room: Room, calls: &mut Calls) -> Vec<(CallId, Call)> {
        let mut batch = Vec::new();
        let mut bytes = 0;
        let now = self.worker.queue.clock().now_ms();
        while batch.len() < room.calls
            && let Some(next) = calls.waiting.front()
            && (batch.is_empty() || bytes + next.size() <= room.bytes)
        {
            let alone = next.losses > 0;
            if alone && !(batch.is_empty() && calls.running.is_empty()) {
                break;
            }
            if calls.awaits_argument() {
                break;
            }
            let Some(call) = calls.waiting.pop_front() else {
                break;
            };
            let (api, job) = call.delivery.id();
            if self.worker.cancelled.contains(api, job) {
                self.ends.status.call_refused();
                call.delivery.acknowledge();
                continue;
            }
            if self.worker.fence.lease_lost_since(call.delivery.received) {
                self.refuse_call(call, FailureCode::NotHosted, LEASE_LOST);
                continue;
            }
            if let Some(failure) = self.check_call(&call, now) {
                self.answer(call, Err(failure), None);
                continue;
            }
            bytes += call.size();
            batch.push((calls.next_id(), call));
            if alone {
                break;
            }
        }
        batch
    }

    /// Processes the sandbox's events. Returns the end of serving if the sandbox is lost.
    fn process(&self, events: Vec<Event>, calls: &mut Calls) -> Option<ServeEnd> {
        let mut returned = Vec::new();
        let mut lost = None;
        for event in events {
            match event {
                Event::Done {
                    call,
                    mut outcome,
                    time,
                    output,
                } => {
                    if let Some(call) = calls.running.remove(&call) {
                        self.store_output(&call, &output);
                        if let Err(failure) = &mut outcome {
                            failure.logs = output.last_for_caller(call.logs as usize);
                        }
                        self.answer(call, outcome.map(Output::Result), Some(time));
                    }
                }
                Event::Written(lines) => self.store_written(lines),
                Event::NotStarted(id) => returned.extend(calls.running.remove(&id)),
                Event::Lost { reason, cause } => {
                    let (contract, cause_name) = (self.address(), cause.name());
                    let requests = calls.requests();
                    tracing::warn!(%contract, reason, cause = cause_name, requests, "sandbox lost");
                    lost = Some(ServeEnd::SandboxLost(cause, reason));
                }
            }
        }
        for call in returned.into_iter().rev() {
            calls.waiting.push_front(call);
        }
        lost
    }
}
