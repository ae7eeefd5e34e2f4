//! What happens when a call runs over its time limit: the page is inspected, so that only the call
//! to blame fails with a timeout.
//!
//! `in_flight` measures the time and knows when a limit has passed.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use shared::protocol::reply::{Failure, FailureCode};
use tokio::time::timeout;

use super::call_state::CallState;
use super::cpu::Mark;
use super::in_flight::InFlight;
use crate::chromium::page::harness::handle::Harness;
use crate::chromium::page::harness::protocol::{self, CallUpdate};
use crate::sandbox::{CallId, Event};

/// How long a page that is not stuck may take to report its status.
const STATUS_LIMIT: Duration = Duration::from_millis(200);
/// How long a stuck page may take to be terminated, and again to report its status. The engine's
/// own long loops (a sort of ten million numbers) cannot be terminated, and such a page reports
/// nothing.
const TERMINATE_LIMIT: Duration = Duration::from_millis(500);

/// The state that a page was found in.
#[derive(Debug)]
pub(super) struct Inspection {
    /// The reply of the harness' `status`, if the page sent one.
    status: Option<String>,
    /// Whether the page replied without being terminated.
    responsive: bool,
}

/// Inspects a page in which a limit has passed. Where only a promise is overdue, the page is asked
/// before anything in it is terminated.
pub(super) fn inspect(harness: Harness, calls: &InFlight) -> BoxFuture<'static, Inspection> {
    if calls.is_front_overdue() {
        terminate(harness)
    } else {
        ask(harness)
    }
}

/// Asks for the status. A page that does not reply is stuck.
fn ask(harness: Harness) -> BoxFuture<'static, Inspection> {
    async move {
        match timeout(STATUS_LIMIT, harness.status()).await {
            Ok(Ok(status)) => Inspection {
                status: Some(status),
                responsive: true,
            },
            _ => terminate(harness).await,
        }
    }
    .boxed()
}

/// Terminates what runs in a stuck page, then asks for the status.
fn terminate(harness: Harness) -> BoxFuture<'static, Inspection> {
    async move {
        if let Err(error) = harness.terminate(TERMINATE_LIMIT).await {
            tracing::debug!(%error, "stuck page could not be terminated");
        }
        let status = timeout(TERMINATE_LIMIT, harness.status()).await;
        Inspection {
            status: status.ok().and_then(Result::ok),
            responsive: false,
        }
    }
    .boxed()
}

/// Ends the calls that the inspection explains: finished calls with their results, those to blame
/// with a timeout. The caller then loses the page, and the other calls with it.
pub(super) fn resolve(calls: &mut InFlight, inspection: &Inspection) -> Vec<Event> {
    calls.measure();
    let now = calls.mark();
    let mut events = Vec::new();
    let mut running = None;
    let status = inspection.status.as_deref();
    if let Some(Ok(reply)) = status.map(|text| protocol::parse(text, calls.rules())) {
        running = reply.running;
        // Only the latest update of each call counts: a call that was handed back may have been
        // sent again since.
        let mut latest = BTreeMap::new();
        for (call, update) in reply.updates {
            match update {
                CallUpdate::Output(output) => calls.set_output(call, output),
                // One that has arrived before came with the end of its call.
                update @ CallUpdate::UnknownOutput(_) => {
                    calls.apply(call, update, calls.front_since(), now, &mut events);
                }
                update => drop(latest.insert(call, update)),
            }
        }
        running.and_then(|call| latest.remove(&call));
        for (call, update) in latest {
            // Many of these have arrived before; updates of calls that have ended are ignored.
            calls.apply(call, update, calls.front_since(), now, &mut events);
        }
    }
    for (call, since) in culprits(calls, running, inspection.responsive, now) {
        let limit = calls.call_limit().as_millis();
        let message = format!("The call ran longer than {limit} ms");
        let failure = Failure::started(FailureCode::ExecutionTimeout, message);
        calls.finish(call, Err(failure), since.until(now), &mut events);
    }
    events
}

/// The calls to blame, and when each was started. None if it could be one of several: all of them
/// are lost then, and `crate::contracts` finds the one to blame by running them one at a time.
fn culprits(
    calls: &InFlight,
    running: Option<CallId>,
    responsive: bool,
    now: Mark,
) -> Vec<(CallId, Mark)> {
    if responsive {
        return calls
            .pending_calls()
            .filter(|(_, since)| since.at + calls.call_limit() <= now.at)
            .collect();
    }
    if let Some(call) = running
        && let Some(state) = calls.state(call)
    {
        let since = if let CallState::Pending(since) = state {
            since
        } else {
            calls.front_since()
        };
        return vec![(call, since)];
    }
    let unanswered = calls
        .front_calls()
        .iter()
        .filter(|call| matches!(calls.state(**call), Some(CallState::InMessage)))
        .map(|call| (*call, calls.front_since()));
    let suspects: Vec<_> = calls.pending_calls().chain(unanswered).collect();
    if suspects.len() == 1 {
        suspects
    } else {
        Vec::new()
    }
}
