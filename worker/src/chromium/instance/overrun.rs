//! What is done when a call runs over its limit: the page is asked what it is doing, so that only the
//! call to blame is answered with a timeout.
//!
//! Whose clock runs, and that a limit has passed, is known in the module above.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use shared::protocol::reply::{Failure, FailureCode};
use tokio::time::{Instant, timeout};

use super::{ContractPage, Place};
use crate::chromium::page::harness::handle::Harness;
use crate::chromium::page::harness::protocol as harness;
use crate::sandbox::{CallId, Event};

/// How long a page that is not stuck may take to say how things are.
const ASK_LIMIT: Duration = Duration::from_millis(200);
/// How long a stuck page may take to hear that it is terminated, and again to say how things are. The
/// engine's own long loops (a sort of ten million numbers) hear nothing: such a page says no more.
const END_LIMIT: Duration = Duration::from_millis(500);

/// How a page was found.
#[derive(Debug)]
pub(super) struct Verdict {
    /// The answer of the harness' `status`, if it could be had.
    status: Option<String>,
    /// Whether it could be had without ending what ran.
    responsive: bool,
}

/// Asks a page whose promise is overdue; it is stuck when it does not answer.
fn ask(harness: Harness) -> BoxFuture<'static, Verdict> {
    async move {
        match timeout(ASK_LIMIT, harness.status()).await {
            Ok(Ok(status)) => Verdict {
                status: Some(status),
                responsive: true,
            },
            _ => interrupt(harness).await,
        }
    }
    .boxed()
}

/// Ends what runs in a stuck page and asks what it was.
fn interrupt(harness: Harness) -> BoxFuture<'static, Verdict> {
    async move {
        if let Err(trouble) = harness.terminate(END_LIMIT).await {
            tracing::debug!(%trouble, "a stuck page cannot be interrupted");
        }
        let status = timeout(END_LIMIT, harness.status()).await;
        Verdict {
            status: status.ok().and_then(Result::ok),
            responsive: false,
        }
    }
    .boxed()
}

impl ContractPage {
    /// Finds out how the page is: gently when only a promise is overdue.
    pub(super) fn begin_judgement(&mut self) -> BoxFuture<'static, Verdict> {
        let harness = self.page.harness.clone();
        let message_runs = !self.flights.is_empty() && self.turn.elapsed() >= self.call_limit;
        if message_runs {
            interrupt(harness)
        } else {
            ask(harness)
        }
    }

    /// A limit has passed: finished calls get their results, those to blame a timeout, and the rest
    /// goes down with the page.
    pub(super) fn judge(&mut self, verdict: &Verdict) -> Vec<Event> {
        let now = Instant::now();
        let mut events = Vec::new();
        let mut running = None;
        let status = verdict.status.as_deref();
        if let Some(Ok(answer)) = status.map(|text| harness::parse(text, self.result_limit)) {
            running = answer.running;
            // The latest word on each: a call that was handed back may have come again since.
            let mut latest: BTreeMap<_, _> = answer.news.into_iter().collect();
            running.and_then(|call| latest.remove(&call));
            for (call, news) in latest {
                // Much of this has arrived before; what is not known any more is simply that.
                self.take(call, news, self.turn, now, &mut events);
            }
        }
        for (call, since) in self.culprits(running, verdict.responsive, now) {
            let limit = self.call_limit.as_millis();
            let message = format!("The call ran longer than {limit} ms");
            let failure = Failure::started(FailureCode::ExecutionTimeout, message);
            self.finish(call, Err(failure), now.duration_since(since), &mut events);
        }
        events.extend(self.lose("a call ran longer than its limit".to_owned()));
        events
    }

    /// The calls to blame, with the time when they began. None when it could be one of several: all of
    /// them are lost then, and their caller finds out by running them one at a time.
    fn culprits(
        &self,
        running: Option<CallId>,
        responsive: bool,
        now: Instant,
    ) -> Vec<(CallId, Instant)> {
        let pending = self.calls.iter().filter_map(|(call, place)| match place {
            Place::Pending(since) => Some((*call, *since)),
            Place::Flight => None,
        });
        if responsive {
            return pending
                .filter(|(_, since)| *since + self.call_limit <= now)
                .collect();
        }
        if let Some(call) = running
            && let Some(place) = self.calls.get(&call)
        {
            let since = if let Place::Pending(since) = place {
                *since
            } else {
                self.turn
            };
            return vec![(call, since)];
        }
        let first = self.flights.front().map_or(&[][..], |flight| &flight.calls);
        let unanswered = first
            .iter()
            .filter(|c| matches!(self.calls.get(c), Some(Place::Flight)));
        let suspects: Vec<_> = pending
            .chain(unanswered.map(|call| (*call, self.turn)))
            .collect();
        if suspects.len() == 1 {
            suspects
        } else {
            Vec::new()
        }
    }
}
