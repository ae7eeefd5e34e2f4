//! A blank page: created in a renderer of its own, and not yet used by any contract.

use std::collections::HashSet;
use std::fmt;
use std::future::pending;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use chromiumoxide_cdp::cdp::browser_protocol::browser::BrowserContextId;
use chromiumoxide_cdp::cdp::browser_protocol::page::ResetNavigationHistoryParams;
use chromiumoxide_cdp::cdp::browser_protocol::target::{
    CreateBrowserContextParams, CreateTargetParams, TargetId,
};
use chromiumoxide_cdp::cdp::js_protocol::runtime::{CallFunctionOnParams, EvaluateParams};
use futures::FutureExt;
use futures::future::BoxFuture;
use nix::unistd::Pid;
use shared::protocol::job::EffectiveLimits;
use tokio::time::{Instant, sleep, timeout};

use super::harness::handle::Harness;
use super::loaded::LoadedPage;
use crate::chromium::browser::Browser;
use crate::chromium::browser::death_watch::PageDeath;
use crate::chromium::browser::handle::BrowserHandle;
use crate::chromium::browser::page_closer::PageSlot;
use crate::chromium::cdp::client::{ClientError, PageSession};
use crate::chromium::cdp::execute::{COMMAND_LIMIT, CdpError, within};
use crate::chromium::config::ChromiumConfig;
use crate::chromium::isolation::document::DocumentUrl;
use crate::chromium::isolation::layers::Layer;
use crate::chromium::isolation::watchdog::Activity;
use crate::chromium::process::memory;
use crate::chromium::process::proc::Process;

/// The time between two checks for the renderer of a page that is being created. The renderer
/// exists after about 15 ms, the page after 45 ms.
const RENDERER_CHECK: Duration = Duration::from_millis(5);
/// A page without a renderer by then will not get one.
const RENDERER_LIMIT: Duration = Duration::from_secs(1);

/// Why a page could not be created.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// The browser failed.
    #[error(transparent)]
    Cdp(#[from] CdpError),
    /// The page's renderer ended before the page was complete. Another attempt may succeed.
    #[error("a page's renderer ended while the page was created")]
    RendererEnded,
}

/// A page in a renderer of its own that no contract uses yet.
pub(crate) struct BlankPage {
    target: TargetId,
    session: PageSession,
    url: String,
    renderers: HashSet<Process>,
    death: BoxFuture<'static, PageDeath>,
    slot: PageSlot,
    browser: Arc<BrowserHandle>,
}

impl fmt::Debug for BlankPage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("BlankPage");
        shown.field("url", &self.url).finish_non_exhaustive()
    }
}

impl BlankPage {
    /// Creates a page in a browser context of its own and, by Chromium's site isolation, a renderer
    /// of its own.
    pub(crate) async fn open(
        browser: Arc<BrowserHandle>,
        config: &ChromiumConfig,
    ) -> Result<Self, OpenError> {
        let context = create_context(&browser.browser, config).await?;
        let mut slot = browser.closer.slot(context.clone());
        let created = create_target(&browser, &mut slot, context, config.load_limit).await?;
        let CreatedTarget {
            target,
            session,
            renderers,
            document,
        } = created;
        slot.add_target(target.clone());
        let mut death = browser
            .deaths
            .watch(target.clone(), session.id().to_owned());
        let replaced = tokio::select! {
            replaced = watch_document(&session) => replaced?,
            _ = &mut death => return Err(OpenError::RendererEnded),
        };
        let owner = Arc::clone(&browser.browser);
        let death = async move {
            tokio::select! {
                biased;
                Ok(reason) = death => PageDeath::of_page(reason),
                () = replaced => PageDeath::of_page("it replaced its document".to_owned()),
                () = owner.dead().cancelled() => PageDeath::of_browser(&owner),
            }
        };
        Ok(Self {
            target,
            session,
            url: document.url.clone(),
            renderers,
            death: death.boxed(),
            slot,
            browser: Arc::clone(&browser),
        })
    }

    /// The renderers that it may live in.
    pub(crate) fn renderers(&self) -> &HashSet<Process> {
        &self.renderers
    }

    /// Closes the page; returns when the page and its renderers are gone.
    pub(crate) async fn close(self) {
        self.slot.close().await;
    }

    /// Whether the page can still be used. Once this was false, do not ask again.
    pub(crate) fn is_alive(&mut self) -> bool {
        (&mut self.death).now_or_never().is_none()
    }

    /// Dedicates the page to a contract: limits its memory, starts measuring it, adds the harness.
    pub(crate) async fn dedicate(
        self,
        config: &ChromiumConfig,
        limits: &EffectiveLimits,
    ) -> Result<LoadedPage, CdpError> {
        let Self {
            target,
            session,
            url,
            renderers,
            death,
            slot,
            browser,
        } = self;
        if let Some(memory) = limits.memory_mb
            && config.layers.has(Layer::Memory)
        {
            memory::bound(config, &renderers, memory).await;
        }
        let activity = Activity::begin();
        browser
            .watched
            .add(target, renderers.clone(), Arc::clone(&activity));
        let harness = Harness::create(session, &url, limits.result_bytes).await?;
        Ok(LoadedPage {
            harness,
            renderers,
            death,
            activity,
            slot,
            share: browser.send_slots.share(),
            browser,
        })
    }
}

/// A browser context for one page; none where the attack suite has turned that layer off.
async fn create_context(
    browser: &Browser,
    config: &ChromiumConfig,
) -> Result<Option<BrowserContextId>, CdpError> {
    if !config.layers.has(Layer::Contexts) {
        return Ok(None);
    }
    let own = CreateBrowserContextParams::builder()
        .dispose_on_detach(true)
        .build();
    Ok(Some(browser.execute(own).await?.browser_context_id))
}

struct CreatedTarget<'a> {
    target: TargetId,
    session: PageSession,
    renderers: HashSet<Process>,
    /// Valid until it is dropped.
    document: DocumentUrl<'a>,
}

/// Creates the page in its context, and finds its renderers. Until a page has its renderers, the
/// next page's creation waits.
async fn create_target<'a>(
    handle: &'a BrowserHandle,
    slot: &mut PageSlot,
    context: Option<BrowserContextId>,
    limit: Duration,
) -> Result<CreatedTarget<'a>, OpenError> {
    let browser = &handle.browser;
    let turn = timeout(limit, browser.page_creation.lock()).await;
    let turn = turn.map_err(|_| CdpError::Timeout("the creation of other pages".into(), limit))?;
    let before = browser.renderers().await?;
    let document = handle.documents.issue();
    let mut target = CreateTargetParams::new(document.url.clone());
    target.browser_context_id = context;
    let mut creating = pin!(within(
        limit,
        "creating a page",
        show_document(browser, target)
    ));
    let (created, renderers) = tokio::select! {
        page = &mut creating => (Some(page?), browser.renderers_since(&before).await?),
        renderers = new_renderers(browser, &before) => (None, renderers?),
    };
    slot.add_renderers(renderers.clone());
    drop(turn);
    let (target, session) = if let Some(page) = created {
        page
    } else {
        tokio::select! {
            page = creating => page?,
            () = renderers_ended(&renderers) => return Err(OpenError::RendererEnded),
        }
    };
    Ok(CreatedTarget {
        target,
        session,
        renderers,
        document,
    })
}

/// The renderers of the page that is being created, as soon as they exist. Pending where the
/// browser moves pages: the page may end up in others.
async fn new_renderers(
    browser: &Browser,
    before: &HashSet<Pid>,
) -> Result<HashSet<Process>, OpenError> {
    if browser.moves_pages() {
        return pending().await;
    }
    let deadline = Instant::now() + RENDERER_LIMIT;
    while Instant::now() < deadline {
        sleep(RENDERER_CHECK).await;
        let new = browser.renderers_since(before).await?;
        if !new.is_empty() {
            return Ok(new);
        }
    }
    Err(OpenError::RendererEnded)
}

/// Waits for the end of the renderers of a page that is being created. Chromium does not report
/// every such end.
async fn renderers_ended(renderers: &HashSet<Process>) {
    while renderers.iter().any(|renderer| renderer.is_alive()) {
        sleep(RENDERER_CHECK).await;
    }
}

/// Creates a page, and waits until it shows its document.
async fn show_document(
    browser: &Browser,
    create: CreateTargetParams,
) -> Result<(TargetId, PageSession), CdpError> {
    let is_shown = format!(
        "document.URL === \"{}\" || new Promise(() => {{}})",
        create.url
    );
    browser.traffic().add_page();
    let target = browser.execute(create).await?.target_id;
    let session = browser.attach(target.clone()).await?;
    let mut is_shown = EvaluateParams::new(is_shown);
    is_shown.await_promise = Some(true);
    let mut refusals = 0;
    loop {
        match session.send(&is_shown).await {
            Ok(_) => return Ok((target, session)),
            // Until then the page shows the document that every page begins with. The promise in
            // it fails when that is replaced.
            Err(ClientError::Refused(reason)) => {
                tracing::trace!(reason, "page does not show its document yet");
                // Once is usual.
                if refusals > 0 {
                    sleep(RENDERER_CHECK).await;
                }
                refusals += 1;
            }
            Err(error) => return Err(CdpError::Refused("the document".into(), error.to_string())),
        }
    }
}

/// Removes the navigation history, through which a contract could leave its document. Returns a
/// future that ends when the document is replaced nevertheless.
///
/// No event tells of that without a text of the page in it. So the browser is asked to await a
/// promise that never settles: the reply is an error, and comes when the document is gone.
async fn watch_document(
    session: &PageSession,
) -> Result<impl Future<Output = ()> + Send + use<>, CdpError> {
    // The commands are in flight together.
    let reset = ResetNavigationHistoryParams::default();
    let reset = session.execute(COMMAND_LIMIT, &reset);
    let promise = EvaluateParams::new("new Promise(() => {})");
    let promise = session.execute(COMMAND_LIMIT, &promise);
    let (_, promise) = tokio::try_join!(reset, promise)?;
    let mut watch = CallFunctionOnParams::new("function() { return this }");
    watch.object_id = promise.result.object_id;
    watch.await_promise = Some(true);
    let replaced = session.send(&watch);
    Ok(async move {
        // The end of the page or of the browser is reported elsewhere, with the reason.
        if let Err(ClientError::Closed) = replaced.await {
            pending::<()>().await;
        }
    })
}
