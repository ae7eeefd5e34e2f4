//! A page that is dedicated to one contract: turns an executable into endpoints.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use chromiumoxide::cdp::js_protocol::runtime::{self, CompileScriptParams};
use futures::future::BoxFuture;
use tokio::time::timeout;

use super::harness::handle::Harness;
use super::harness::protocol::{LoadOutcome, looks_like_literal};
use crate::chromium::browser::death_watch::PageDeath;
use crate::chromium::browser::handle::BrowserHandle;
use crate::chromium::browser::page_closer::PageSlot;
use crate::chromium::browser::send_slots::SlotRequest;
use crate::chromium::cdp::execute::{COMMAND_LIMIT, execute};
use crate::chromium::isolation::watchdog::Activity;
use crate::chromium::process::proc::Process;
use crate::sandbox::StartError;

/// How much of an executable is sent in one message, in bytes. A browser reads one message at a
/// time, at about 20 ms for a megabyte, and the calls of its other pages wait meanwhile.
const PIECE: usize = 256 << 10;

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
    for piece in pieces(source, PIECE) {
        harness.feed(piece).await.map_err(broken)?;
    }
    let is_literal = looks_like_literal(source);
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
            syntax_error(harness, source, is_literal).await.unwrap_or(text)
        }
        _ => "The executable has no endpoints: it must be an object literal with functions in it, or \
              define a function init that returns such an object"
            .to_owned(),
    }))
}

/// Cuts a text into pieces of at most `size` bytes, between characters.
fn pieces(mut text: &str, size: usize) -> impl Iterator<Item = &str> {
    std::iter::from_fn(move || {
        let (piece, rest) = text.split_at(text.floor_char_boundary(size));
        text = rest;
        (!piece.is_empty()).then_some(piece)
    })
}

/// The position of a syntax error: `SyntaxError: .. (line 2, column 5)`, counted from one. `eval`
/// does not report it, so the source is compiled once more, which runs no code. None if it
/// compiles.
async fn syntax_error(harness: &Harness, source: &str, is_literal: bool) -> Option<String> {
    let prefix = if is_literal { "0," } else { "" };
    let compile = CompileScriptParams::new(format!("{prefix}{source}"), "", false);
    execute(
        &harness.page,
        COMMAND_LIMIT,
        runtime::EnableParams::default(),
    )
    .await
    .ok()?;
    let details = execute(&harness.page, COMMAND_LIMIT, compile)
        .await
        .ok()?
        .exception_details?;
    let description = details.exception?.description?;
    let message = description.lines().next()?;
    let indent = if details.line_number == 0 {
        prefix.len()
    } else {
        0
    };
    let column = usize::try_from(details.column_number)
        .ok()?
        .checked_sub(indent)?
        + 1;
    Some(format!(
        "{message} (line {}, column {column})",
        details.line_number + 1
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_cut_between_characters_and_lose_nothing() {
        let cut = |text, size| pieces(text, size).collect::<Vec<_>>();
        assert_eq!(cut("abcde", 2), ["ab", "cd", "e"]);
        assert_eq!(cut("aüb", 2), ["a", "ü", "b"]);
        assert!(cut("", 2).is_empty());
    }

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
