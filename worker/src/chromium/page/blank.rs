//! One page, from its making to the loaded contract in it.
//!
//! What a page may cost in time while it is made, and how an executable becomes a contract, is
//! decided here; the calls are `instance`'s.

use std::collections::HashSet;
use std::fmt;
use std::future::pending;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use chromiumoxide::cdp::browser_protocol::target::{
    CreateBrowserContextParams, CreateTargetParams, SetAutoAttachParams,
};
use chromiumoxide::cdp::browser_protocol::{log, network, page, performance};
use chromiumoxide::cdp::js_protocol::runtime::{self, CompileScriptParams};
use chromiumoxide::types::Command;
use futures::FutureExt;
use futures::future::BoxFuture;
use nix::unistd::Pid;
use shared::protocol::job::Limits;
use tokio::time::{Instant, sleep, timeout};

use crate::chromium::browser::Browser;
use crate::chromium::browser::page_closer::Lease;
use crate::chromium::browser::send_slots::Claim;
use crate::chromium::cdp::client::Session;
use crate::chromium::cdp::commands::{COMMAND_LIMIT, Trouble, within};
use crate::chromium::config::ChromiumConfig;
use crate::chromium::isolation::layers::Layer;
use crate::chromium::isolation::watchdog::Activity;
use crate::chromium::page::harness::handle::Harness;
use crate::chromium::page::harness::protocol::{self as harness, Loaded};
use crate::chromium::process::memory;
use crate::chromium::process::proc::Process;
use crate::sandbox::StartError;

/// How often the process of a page that is being made is looked for, and then looked after. It is there
/// after about 15 ms, the page after 45.
const BIRTH_CHECK: Duration = Duration::from_millis(5);
/// A page whose process was not seen by then will not get one.
const BIRTH_LIMIT: Duration = Duration::from_secs(1);

/// How much of an executable goes in one message, in bytes. A browser reads one message at a time,
/// about 20 ms for a megabyte: so long do the calls of its other pages wait.
const PIECE: usize = 256 << 10;

/// A page in a process of its own that nobody has yet.
pub(crate) struct BlankPage {
    page: chromiumoxide::Page,
    session: Session,
    url: String,
    renderers: HashSet<Process>,
    death: BoxFuture<'static, String>,
    lease: Lease,
}

impl fmt::Debug for BlankPage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("BlankPage");
        shown.field("url", &self.url).finish_non_exhaustive()
    }
}

impl BlankPage {
    /// Makes a page in a context and, with Chromium's site isolation, a process of its own.
    pub(crate) async fn open(
        browser: Arc<Browser>,
        config: &ChromiumConfig,
    ) -> Result<Self, Trouble> {
        let limit = config.load_limit;
        let mut context = None;
        if config.layers.has(Layer::Contexts) {
            let own = CreateBrowserContextParams::builder()
                .dispose_on_detach(true)
                .build();
            context = Some(browser.execute(own).await?.browser_context_id);
        }
        let mut lease = Lease::new(Arc::clone(&browser), context.clone());

        let turn = timeout(limit, browser.births.lock()).await;
        let turn = turn.map_err(|_| Trouble::Silent("the making of other pages".into(), limit))?;
        let before = browser.renderers().await?;
        let document = browser.documents.issue();
        let mut target = CreateTargetParams::new(document.url.clone());
        target.browser_context_id = context;
        let new_page = browser.connection().new_page(target);
        let mut making = pin!(within(limit, "Target.createTarget", new_page));
        let (made, renderers) = tokio::select! {
            page = &mut making => (Some(page?), browser.renderers_since(&before).await?),
            renderers = born(&browser, &before) => (None, renderers?),
        };
        lease.add_renderers(renderers.clone());
        drop(turn);
        let page = if let Some(page) = made {
            page
        } else {
            tokio::select! {
                page = making => page?,
                () = ended(&renderers) => return Err(Trouble::Stillborn),
            }
        };
        lease.add_target(page.target_id().clone());
        let (target, url) = (page.target_id().clone(), document.url.clone());
        let mut death = browser.deaths.watch(target, url);
        let attaching = browser.wire.attach(page.target_id().clone());
        let attaching = within(COMMAND_LIMIT, "Target.attachToTarget", attaching);
        let ((), session) = tokio::select! {
            done = async { tokio::try_join!(silence(&page), attaching) } => done?,
            _ = &mut death => return Err(Trouble::Stillborn),
        };
        let dead = browser.dead().clone().cancelled_owned();
        let death = async move {
            tokio::select! {
                biased;
                Ok(reason) = death => reason,
                () = dead => "its browser ended".to_owned(),
            }
        };
        Ok(Self {
            page,
            session,
            url: document.url.clone(),
            renderers,
            death: death.boxed(),
            lease,
        })
    }

    /// The processes that it lives in.
    pub(crate) fn renderers(&self) -> &HashSet<Process> {
        &self.renderers
    }

    /// Closes the page; returns when nothing of it is left.
    pub(crate) async fn close(self) {
        self.lease.close().await;
    }

    /// Whether it can still be used. Not to be asked again after it was denied.
    pub(crate) fn lives(&mut self) -> bool {
        (&mut self.death).now_or_never().is_none()
    }

    /// Gives the page to a contract: bounds and watches it, puts the harness in.
    pub(crate) async fn dedicate(
        self,
        config: &ChromiumConfig,
        limits: &Limits,
        result_limit: u32,
    ) -> Result<Page, Trouble> {
        let Self {
            page,
            session,
            url,
            renderers,
            death,
            lease,
        } = self;
        if config.layers.has(Layer::Memory) {
            memory::bound(config, &renderers, limits.memory_mb).await;
        }
        let activity = Activity::begin();
        let target = page.target_id().clone();
        let subjects = &lease.browser().subjects;
        subjects.add(target, renderers, Arc::clone(&activity));
        let harness = Harness::make(page, session, &url, result_limit).await?;
        Ok(Page {
            harness,
            death,
            activity,
            lease,
        })
    }
}

/// A page with its harness, and nothing of a contract yet.
pub(crate) struct Page {
    pub(crate) harness: Harness,
    /// Ends with the page, with the reason.
    pub(crate) death: BoxFuture<'static, String>,
    /// Whether calls are under way: the watch wants to know.
    pub(crate) activity: Arc<Activity>,
    lease: Lease,
}

impl Page {
    /// Takes a lane for a message, or gets in the queue for one.
    pub(crate) fn claim_lane(&self) -> Claim {
        self.lease.browser().lanes.claim()
    }

    /// Evaluates an executable; gives its endpoints.
    pub(crate) async fn load(
        &mut self,
        executable: &str,
        limit: Duration,
    ) -> Result<Vec<String>, StartError> {
        let evaluating = timeout(limit, evaluate(&self.harness, executable));
        tokio::select! {
            biased;
            outcome = evaluating => outcome.unwrap_or_else(|_| {
                let limit = limit.as_millis();
                Err(StartError::Invalid(format!("The executable ran longer than {limit} ms")))
            }),
            reason = &mut self.death => Err(if self.lease.browser().dead().is_cancelled() {
                StartError::Unavailable(reason)
            } else {
                StartError::Invalid(format!("The executable ended its page: {reason}"))
            }),
        }
    }

    /// Closes the page; returns when nothing of it is left.
    pub(crate) async fn close(self) {
        self.lease.close().await;
    }
}

/// The processes of the page that is being made, as soon as there are any. Pending where they say
/// nothing: the page may end up in others.
async fn born(browser: &Browser, before: &HashSet<Pid>) -> Result<HashSet<Process>, Trouble> {
    if browser.moves_pages() {
        return pending().await;
    }
    let deadline = Instant::now() + BIRTH_LIMIT;
    while Instant::now() < deadline {
        sleep(BIRTH_CHECK).await;
        let born = browser.renderers_since(before).await?;
        if !born.is_empty() {
            return Ok(born);
        }
    }
    Err(Trouble::Stillborn)
}

/// Waits for the end of the processes of a page that is being made. chromiumoxide waits for such a page
/// all the same, and not every such end is announced.
async fn ended(renderers: &HashSet<Process>) {
    while renderers.iter().any(|renderer| renderer.is_alive()) {
        sleep(BIRTH_CHECK).await;
    }
}

/// Turns off what a contract could use to flood the worker with events, and takes away the history
/// through which it could leave its document.
async fn silence(page: &chromiumoxide::Page) -> Result<(), Trouble> {
    // Sent together, answered together.
    tokio::try_join!(
        execute(page, COMMAND_LIMIT, SetAutoAttachParams::new(false, false)),
        execute(page, COMMAND_LIMIT, log::DisableParams::default()),
        execute(page, COMMAND_LIMIT, network::DisableParams::default()),
        execute(page, COMMAND_LIMIT, performance::DisableParams::default()),
        execute(page, COMMAND_LIMIT, runtime::DisableParams::default()),
        execute(
            page,
            COMMAND_LIMIT,
            page::ResetNavigationHistoryParams::default()
        ),
        execute(page, COMMAND_LIMIT, page::DisableParams::default()),
    )
    .map(drop)
}

pub(crate) async fn execute<C: Command>(
    page: &chromiumoxide::Page,
    limit: Duration,
    command: C,
) -> Result<C::Response, Trouble> {
    let name = command.identifier();
    within(limit, name, page.execute(command))
        .await
        .map(|answer| answer.result)
}

/// Tries the forms that an executable may have. What looks like an object may still be a script that
/// begins with a block; when it is neither, the error is that of the form it looks like.
async fn evaluate(harness: &Harness, source: &str) -> Result<Vec<String>, StartError> {
    let broken =
        |reason: String| StartError::Invalid(format!("The executable broke its page: {reason}"));
    for piece in pieces(source, PIECE) {
        harness.feed(piece).await.map_err(broken)?;
    }
    let is_literal = harness::looks_like_literal(source);
    let mut first = None;
    for literal in [true, false] {
        if literal && !is_literal {
            continue;
        }
        let answer = harness.load(literal).await.map_err(broken)?;
        match Loaded::parse(&answer).map_err(|error| broken(error.to_string()))? {
            Loaded::Contract(endpoints) => return Ok(endpoints),
            failed => first = first.or(Some(failed)),
        }
    }
    Err(StartError::Invalid(match first {
        Some(Loaded::Threw(text)) => {
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

/// Where a source does not compile: `SyntaxError: .. (line 2, column 5)`, counted from one. `eval` does
/// not tell, so it is compiled again, which runs nothing.
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
    use super::pieces;

    #[test]
    fn pieces_are_the_whole_text_cut_between_characters() {
        let cut = |text, size| pieces(text, size).collect::<Vec<_>>();
        assert_eq!(cut("abcde", 2), ["ab", "cd", "e"]);
        assert_eq!(cut("aüb", 2), ["a", "ü", "b"]);
        assert!(cut("", 2).is_empty());
    }
}
