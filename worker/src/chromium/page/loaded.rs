//! A page that is dedicated to one contract: turns an executable into endpoints.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::time::{Instant, timeout};

use super::harness::handle::Harness;
use super::harness::pieces::Pieces;
use super::harness::protocol::{LoadOutcome, looks_like_literal};
use crate::chromium::browser::death_watch::PageDeath;
use crate::chromium::browser::handle::BrowserHandle;
use crate::chromium::browser::page_closer::PageSlot;
use crate::chromium::browser::send_slots::SlotRequest;
use crate::chromium::cdp::commands::Place;
use crate::chromium::isolation::watchdog::Activity;
use crate::chromium::process::proc::Process;
use crate::sandbox::StartError;

/// An executable that was not evaluated in time is to blame if its page computed for at least this
/// part of the time. Otherwise the machine may have been too busy.
const BLAMED_SHARE: u32 = 2;

/// Why an executable was not loaded into a page.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    /// The page was lost, and not by the executable. Another page may do.
    #[error("{0}")]
    PageLost(String),
    /// Another page is of no use.
    #[error(transparent)]
    Failed(#[from] StartError),
}

/// A page with its harness, dedicated to one contract.
pub(crate) struct LoadedPage {
    pub(crate) harness: Harness,
    /// The renderers that the page may live in.
    pub(super) renderers: HashSet<Process>,
    /// Resolves when the page dies.
    pub(crate) death: BoxFuture<'static, PageDeath>,
    /// Whether calls are in flight, for the watchdog.
    pub(crate) activity: Arc<Activity>,
    pub(super) slot: PageSlot,
    pub(super) browser: Arc<BrowserHandle>,
}

impl LoadedPage {
    /// Requests a send slot for a message.
    pub(crate) fn request_send_slot(&self) -> SlotRequest {
        self.browser.send_slots.request()
    }

    /// For how long the browser itself was stalled between two times.
    pub(crate) fn stalled_between(&self, start: Instant, end: Instant) -> Duration {
        self.browser.stalls.between(start, end)
    }

    /// Evaluates an executable; returns its endpoints.
    pub(crate) async fn load(
        &mut self,
        executable: &str,
        limit: Duration,
    ) -> Result<Vec<String>, LoadError> {
        let before = self.processor_time();
        let evaluating = timeout(limit, evaluate(&self.harness, executable));
        tokio::select! {
            biased;
            outcome = evaluating => Ok(outcome.unwrap_or_else(|_| {
                let computed = self.processor_time().saturating_sub(before);
                Err(overdue(limit, computed))
            })?),
            PageDeath { reason, .. } = &mut self.death => {
                if self.browser.browser.dead().is_cancelled() {
                    return Err(LoadError::PageLost(reason));
                }
                let reason = format!("The executable ended its page: {reason}");
                Err(StartError::Invalid(reason).into())
            }
        }
    }

    /// The processor time that the page has used so far.
    fn processor_time(&self) -> Duration {
        self.renderers.iter().map(|renderer| renderer.cpu()).sum()
    }

    /// Closes the page; returns when the page and its renderers are gone.
    pub(crate) async fn close(self) {
        self.slot.close().await;
    }
}

/// The error of an executable that was not evaluated within `limit`, while its page `computed`
/// for so long.
fn overdue(limit: Duration, computed: Duration) -> StartError {
    let millis = limit.as_millis();
    if computed >= limit / BLAMED_SHARE {
        return StartError::Invalid(format!("The executable ran longer than {millis} ms"));
    }
    let computed = computed.as_millis();
    StartError::Unavailable(format!(
        "The executable was not evaluated within {millis} ms, in which it got {computed} ms of \
         processor time; try again later"
    ))
}

/// Tries the forms that an executable may have. Text that looks like an object literal may still be
/// a script that begins with a block. If it is neither, the error is that of the form it looks
/// like.
async fn evaluate(harness: &Harness, source: &str) -> Result<Vec<String>, StartError> {
    let broken =
        |reason: String| StartError::Invalid(format!("The executable broke its page: {reason}"));
    let mut pieces = Pieces::of(source);
    while let Some(piece) = pieces.next() {
        harness.feed(piece).await.map_err(broken)?;
    }
    let is_literal = looks_like_literal(source);
    // `eval` does not say where a syntax error is. So the executable is compiled before any of it
    // runs: afterwards it could have prepared the page for this.
    let place = harness.compile(is_literal);
    let mut first = None;
    for literal in [true, false] {
        if literal && !is_literal {
            continue;
        }
        let reply = harness.load(literal).await.map_err(broken)?;
        match LoadOutcome::parse(&reply).map_err(|error| broken(error.to_string()))? {
            LoadOutcome::Contract(endpoints) => return Ok(endpoints),
            failed => first = first.or(Some(failed)),
        }
    }
    Err(StartError::Invalid(match first {
        Some(LoadOutcome::Threw(text)) => {
            match place.await {
                Some(Place { line, column }) => {
                    format!("{text} (line {}, column {})", line + 1, column + 1)
                }
                None => text,
            }
        }
        _ => "The executable has no endpoints: it must be an object literal with functions in it, or \
              define a function init that returns such an object"
            .to_owned(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_executable_is_blamed_only_for_processor_time_that_its_page_used() {
        let limit = Duration::from_secs(5);
        let blamed = |ms| {
            let error = overdue(limit, Duration::from_millis(ms));
            matches!(error, StartError::Invalid(_))
        };
        assert!(blamed(5000) && blamed(2500));
        assert!(!blamed(2490) && !blamed(0));
    }
}
