//! A page that is dedicated to one contract: turns an executable into endpoints.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::time::{Instant, timeout};

use super::harness::form::{Executable, Offsets};
use super::harness::handle::Harness;
use super::harness::pieces::Pieces;
use super::harness::thrown::LoadOutcome;
use crate::chromium::browser::death_watch::PageDeath;
use crate::chromium::browser::handle::BrowserHandle;
use crate::chromium::browser::page_closer::PageSlot;
use crate::chromium::browser::send_slots::{SlotRequest, SlotShare};
use crate::chromium::cdp::commands::Place;
use crate::chromium::isolation::watchdog::Activity;
use crate::chromium::process::proc::Process;
use crate::sandbox::StartError;

/// An executable that was not evaluated in time is to blame if its page computed for at least this
/// part of the time. Otherwise the machine may have been too busy.
const BLAMED_SHARE: u32 = 2;

/// A page that replies within this time after the limit has passed was not computing.
const IDLE_LIMIT: Duration = Duration::from_secs(1);

const NO_ENDPOINTS: &str = "The executable has no endpoints: it must be an object literal with \
     functions in it, or define a function init that returns such an object";

/// How V8 reports an executable that is a module.
const MODULE_ERRORS: [&str; 3] = [
    "Cannot use import statement outside a module",
    "Cannot use 'import.meta' outside a module",
    "Unexpected token 'export'",
];
const MODULE_CURE: &str = ". The executable must be a script. A bundler makes one of modules, as \
     `esbuild --bundle --format=iife` does";

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

/// An executable that was evaluated.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) endpoints: Vec<String>,
    /// The schemas that the contract has beside its endpoints, as JSON text.
    pub(crate) schemas: Option<String>,
    /// Where the places in stacks are in the executable.
    pub(crate) offsets: Offsets,
    pub(crate) has_source_map: bool,
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
    /// Its share of the send slots.
    pub(super) share: SlotShare,
    pub(super) browser: Arc<BrowserHandle>,
}

impl LoadedPage {
    /// Requests a send slot for a message.
    pub(crate) fn request_send_slot(&self) -> SlotRequest {
        self.share.request()
    }

    /// The renderers that the page may live in.
    pub(crate) fn renderers(&self) -> &HashSet<Process> {
        &self.renderers
    }

    /// For how long the browser itself was stalled between two times.
    pub(crate) fn stalled_between(&self, start: Instant, end: Instant) -> Duration {
        self.browser.stalls.between(start, end)
    }

    /// Evaluates an executable, and waits for a promise that it returns; returns its endpoints.
    pub(crate) async fn load(
        &mut self,
        executable: &str,
        limit: Duration,
    ) -> Result<Loaded, LoadError> {
        let before = processor_time(&self.renderers);
        let runs = AtomicBool::new(false);
        let evaluating = async {
            let mut evaluating = pin!(evaluate(&self.harness, executable, &runs));
            if let Ok(outcome) = timeout(limit, &mut evaluating).await {
                return outcome;
            }
            let computed = processor_time(&self.renderers).saturating_sub(before);
            // A page that replies, but not with the executable's outcome, computes nothing: a
            // promise of the executable is pending.
            let is_pending = async {
                tokio::select! {
                    biased;
                    _ = &mut evaluating => false,
                    status = self.harness.status() => status.is_ok(),
                }
            };
            let is_idle = timeout(IDLE_LIMIT, is_pending).await.unwrap_or(false);
            Err(if is_idle && runs.load(Ordering::Relaxed) {
                StartError::Invalid(pending(limit))
            } else {
                overdue(limit, computed)
            })
        };
        tokio::select! {
            biased;
            outcome = evaluating => Ok(outcome?),
            PageDeath { reason, .. } = &mut self.death => {
                if self.browser.browser.dead().is_cancelled() {
                    return Err(LoadError::PageLost(reason));
                }
                let reason = format!("The executable ended its page: {reason}");
                Err(StartError::Invalid(reason).into())
            }
        }
    }

    /// Closes the page; returns when the page and its renderers are gone.
    pub(crate) async fn close(self) {
        self.slot.close().await;
    }
}

/// The processor time that a page has used so far.
fn processor_time(renderers: &HashSet<Process>) -> Duration {
    renderers.iter().map(|renderer| renderer.cpu()).sum()
}

/// The error of an executable whose promise was still pending after `limit`.
fn pending(limit: Duration) -> String {
    let millis = limit.as_millis();
    format!("The promise that the executable returned was not settled within {millis} ms")
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

/// Evaluates an executable once, in the form that it has. `runs` tells when all of it was sent.
async fn evaluate(
    harness: &Harness,
    source: &str,
    runs: &AtomicBool,
) -> Result<Loaded, StartError> {
    let broken =
        |reason: String| StartError::Invalid(format!("The executable broke its page: {reason}"));
    let executable = Executable::of(source);
    for (part, is_head) in [(executable.head.as_str(), true), (executable.body, false)] {
        let mut pieces = Pieces::of(part);
        while let Some(piece) = pieces.next() {
            harness.feed(piece, is_head).await.map_err(broken)?;
        }
    }
    let may_be_expression = executable.may_be_expression();
    runs.store(true, Ordering::Relaxed);
    let reply = harness.load(may_be_expression).await.map_err(broken)?;
    let offsets = executable.offsets();
    let outcome = LoadOutcome::parse(&reply, offsets).map_err(|error| broken(error.to_string()))?;
    Err(StartError::Invalid(match outcome {
        LoadOutcome::Contract(endpoints, schemas) => {
            return Ok(Loaded {
                endpoints,
                schemas,
                offsets,
                has_source_map: executable.has_source_map,
            });
        }
        LoadOutcome::Threw(text, None) => text,
        LoadOutcome::Threw(text, Some(at)) => with_place(text, at.line, at.column),
        LoadOutcome::Invalid(text) => {
            let place = harness.locate(may_be_expression).await;
            let place = place.and_then(|place| executable.place(place));
            syntax_error(text, place)
        }
        LoadOutcome::NoEndpoints => NO_ENDPOINTS.to_owned(),
    }))
}

/// The error of an executable that does not compile: what is wrong, where, and what to do if it is
/// of a kind that no page can run.
fn syntax_error(text: String, place: Option<Place>) -> String {
    let is_module = MODULE_ERRORS.iter().any(|error| text.ends_with(error));
    let text = match place {
        Some(Place { line, column }) => with_place(text, line + 1, column + 1),
        None => text,
    };
    if is_module { text + MODULE_CURE } else { text }
}

/// An error's text with its place, both numbers counted from 1.
fn with_place(mut text: String, line: u32, column: u32) -> String {
    // Writing to a string cannot fail.
    _ = write!(text, " (line {line}, column {column})");
    text
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
