//! Fetches the stored arguments of a contract's calls when it is their turn.
//!
//! An argument that is too large for a frame stays in Redis while its call waits. Of the calls that
//! wait, one at a time has its argument in the worker's memory: so the arguments of a contract
//! occupy at most one more than those that its sandbox was given, however many calls wait.

use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::value::RawValue;
use shared::protocol::reply::{Failure, FailureCode};
use shared::queue::Queue;
use shared::service::backoff::Backoff;
use shared::service::lifecycle::Lifecycle;

use super::handle::Call;
use super::task::{Calls, ContractTask};
use crate::sandbox::Engine;

/// A waiting argument with more bytes was stored: a frame has no room for it.
const STORED_ABOVE: usize = 48 * 1024;

/// A fetch that is under way.
pub(super) struct Fetch {
    name: String,
    argument: BoxFuture<'static, Result<Box<RawValue>, Failure>>,
}

/// What a fetch has brought.
pub(super) struct Fetched {
    name: String,
    argument: Result<Box<RawValue>, Failure>,
}

impl<E: Engine> ContractTask<E> {
    /// Begins to fetch the argument of the first waiting call that lacks it, unless one is being
    /// fetched, or another one waits for the sandbox.
    pub(super) fn begin_fetch(&self, calls: &mut Calls) {
        if calls.fetch.is_some() {
            return;
        }
        for call in &calls.waiting {
            if let Some(name) = &call.stored {
                let (queue, life) = (self.worker.queue.clone(), self.worker.life.clone());
                let argument = fetch(queue, life, name.clone(), call.delivery.deadline);
                calls.fetch = Some(Fetch {
                    name: name.clone(),
                    argument: argument.boxed(),
                });
                return;
            }
            if was_stored(call) {
                return;
            }
        }
    }

    /// Gives a call its argument, or answers it. The call may have been refused meanwhile.
    pub(super) fn end_fetch(&self, fetched: Fetched, calls: &mut Calls) {
        calls.fetch = None;
        let Fetched { name, argument } = fetched;
        let is_its = |call: &Call| call.stored.as_ref() == Some(&name);
        let Some(index) = calls.waiting.iter().position(is_its) else {
            return;
        };
        match argument {
            Ok(json) => {
                let call = &mut calls.waiting[index];
                (call.argument, call.stored) = (Some(json), None);
            }
            Err(failure) => {
                if let Some(call) = calls.waiting.remove(index) {
                    self.ends.status.call_refused();
                    call.delivery.refuse(failure);
                }
            }
        }
    }
}

impl Calls {
    /// Whether the next call has no argument yet.
    pub(super) fn awaits_argument(&self) -> bool {
        self.waiting
            .front()
            .is_some_and(|call| call.stored.is_some())
    }

    /// Waits for the fetch that is under way. To be polled only if there is one. Cancel safe.
    pub(super) async fn fetched(&mut self) -> Fetched {
        match &mut self.fetch {
            Some(fetch) => Fetched {
                argument: (&mut fetch.argument).await,
                name: fetch.name.clone(),
            },
            None => std::future::pending().await,
        }
    }
}

fn was_stored(call: &Call) -> bool {
    let argument = call.argument.as_ref();
    argument.is_some_and(|json| json.get().len() > STORED_ABOVE)
}

/// Reads an argument from Redis. While Redis fails, it is tried again until the call's deadline.
async fn fetch(
    queue: Queue,
    life: Lifecycle,
    name: String,
    deadline: u64,
) -> Result<Box<RawValue>, Failure> {
    let failed = |code, message: &str| Failure::not_started(code, message);
    let mut backoff = Backoff::redis();
    loop {
        if queue.clock().until(deadline).is_zero() {
            let message = "The call reached its deadline before its argument was read";
            return Err(failed(FailureCode::Expired, message));
        }
        match queue.fetch_body(&name).await {
            Ok(Some(text)) => {
                let damaged = |_| failed(FailureCode::Rejected, "The stored argument is damaged");
                return RawValue::from_string(text).map_err(damaged);
            }
            Ok(None) => {
                let message = "The queue has lost the argument of the call. Try again";
                return Err(failed(FailureCode::ExecutableMissing, message));
            }
            Err(error) => tracing::warn!(%error, "stored argument not fetched yet"),
        }
        tokio::select! {
            () = backoff.wait() => {}
            () = life.stopping() => {
                let message = "The worker stopped before it read the argument of the call";
                return Err(failed(FailureCode::Draining, message));
            }
        }
    }
}
