//! One running browser: its connection, and the tasks that serve it.
//!
//! A browser is dead as soon as any of its tasks ends or panics, its guard ends, or it does not
//! answer any more. Everything that belongs to it then ends; another one is `Chromium`'s business.

pub(super) mod death_watch;
pub(super) mod page_closer;
pub(super) mod send_slots;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chromiumoxide::Handler;
use chromiumoxide::cdp::IntoEventKind;
use chromiumoxide::cdp::browser_protocol::browser::GetVersionParams;
use chromiumoxide::cdp::browser_protocol::fetch::{
    EnableParams, EventRequestPaused, RequestPattern,
};
use chromiumoxide::cdp::browser_protocol::system_info::GetProcessInfoParams;
use chromiumoxide::cdp::browser_protocol::target::TargetId;
use chromiumoxide::error::CdpError;
use chromiumoxide::handler::HandlerConfig;
use chromiumoxide::listeners::EventStream;
use chromiumoxide::types::Command;
use futures::StreamExt;
use nix::unistd::Pid;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::chromium::browser::death_watch::{Deaths, endings};
use crate::chromium::browser::page_closer::{self as reaper, Remains};
use crate::chromium::browser::send_slots::Lanes;
use crate::chromium::cdp::client::Wire;
use crate::chromium::cdp::commands::{COMMAND_LIMIT, Trouble, within};
use crate::chromium::config::ChromiumConfig;
use crate::chromium::isolation::interceptor::{Documents, intercept};
use crate::chromium::isolation::layers::{Layer, Layers};
use crate::chromium::isolation::watchdog::{self, Allowance, Subjects};
use crate::chromium::page::blank::BlankPage;
use crate::chromium::process::child::{GuardedChild, StartedChild, log_output};
use crate::chromium::process::confinement;
use crate::chromium::process::error::{LAUNCH_LIMIT, LaunchError};
use crate::chromium::process::proc::Process;

/// How often a browser is asked whether it still answers, and how long it may take to.
const HEARTBEAT: Duration = Duration::from_secs(5);
const HEARTBEAT_LIMIT: Duration = Duration::from_secs(10);

/// A browser, as its pages see it.
#[derive(Debug)]
pub(crate) struct Browser {
    cdp: chromiumoxide::Browser,
    /// What pages are called over.
    pub(crate) wire: Arc<Wire>,
    /// Whose turn it is to be called.
    pub(crate) lanes: Lanes,
    dead: CancellationToken,
    pages: AtomicUsize,
    remains: mpsc::UnboundedSender<Remains>,
    /// Of its pages.
    pub(crate) deaths: Deaths,
    /// How many pages each renderer may be of.
    claims: Mutex<HashMap<Process, usize>>,
    /// What may be fetched from it.
    pub(crate) documents: Documents,
    /// What its pages compute.
    pub(crate) subjects: Subjects,
    pub(crate) layers: Layers,
    /// Held until the process of a new page is there: what processes are new then are the page's.
    pub(crate) births: tokio::sync::Mutex<()>,
    moves_pages: AtomicBool,
}

/// The owner of a browser, who waits for its end and brings it about.
#[derive(Debug)]
pub(crate) struct Running {
    browser: Arc<Browser>,
    guarded: GuardedChild,
    tasks: TaskTracker,
}

impl Browser {
    /// Starts a browser and everything that serves it.
    pub(crate) async fn launch(config: &ChromiumConfig) -> Result<Running, LaunchError> {
        let StartedChild {
            child: guarded,
            address,
            stderr,
        } = GuardedChild::start(config).await?;
        let tasks = TaskTracker::new();
        let dead = CancellationToken::new();
        // Whoever else may hold its other end: it is of no interest any more.
        let draining = dead.clone().run_until_cancelled_owned(log_output(stderr));
        tasks.spawn(draining);
        let connecting = async {
            let browser = Self::connect(&address, config, &tasks, &dead).await?;
            let gaps = browser.examine(config).await?;
            Ok::<_, Trouble>((browser, gaps))
        };
        let outcome = tokio::time::timeout(LAUNCH_LIMIT, connecting).await;
        let error = match outcome {
            Ok(Ok((browser, gaps))) if gaps.is_empty() => {
                tasks.close();
                return Ok(Running {
                    browser,
                    guarded,
                    tasks,
                });
            }
            Ok(Ok((_, gaps))) => LaunchError::Unconfined(gaps.join(", ")),
            Ok(Err(trouble)) => LaunchError::Connect(trouble.to_string()),
            Err(_) => LaunchError::Connect("it does not answer".to_owned()),
        };
        end(guarded, &tasks, &dead).await;
        Err(error)
    }

    async fn connect(
        address: &str,
        config: &ChromiumConfig,
        tasks: &TaskTracker,
        dead: &CancellationToken,
    ) -> Result<Arc<Self>, Trouble> {
        // Above every deadline that is kept here, so that it never strikes first.
        let request_timeout = LAUNCH_LIMIT + config.call_limit * 2 + config.load_limit * 2;
        let handler_config = HandlerConfig {
            viewport: None,
            ignore_https_errors: false,
            request_timeout,
            ..HandlerConfig::default()
        };
        let connection = chromiumoxide::Browser::connect_with_config(address, handler_config);
        let (cdp, handler) = within(LAUNCH_LIMIT, "connecting", connection).await?;
        let (wire, driving) = within(LAUNCH_LIMIT, "connecting", Wire::connect(address)).await?;
        serve(tasks, dead, driving);
        let (remains, queue) = mpsc::unbounded_channel();
        let browser = Arc::new(Self {
            cdp,
            wire,
            lanes: Lanes::of(config.browsers),
            dead: dead.clone(),
            pages: AtomicUsize::new(0),
            remains,
            deaths: Deaths::default(),
            claims: Mutex::default(),
            documents: Documents::new(&config.layers),
            subjects: Subjects::default(),
            layers: config.layers.clone(),
            births: tokio::sync::Mutex::default(),
            moves_pages: AtomicBool::new(false),
        });
        serve(tasks, dead, drive(handler, dead.clone()));
        let requests = browser.listen::<EventRequestPaused>().await?;
        serve(tasks, dead, intercept(Arc::clone(&browser), requests));
        let pattern = RequestPattern {
            url_pattern: Some("*".to_owned()),
            ..Default::default()
        };
        browser
            .execute(EnableParams::builder().pattern(pattern).build())
            .await?;
        let (told, endings) = (Arc::clone(&browser), endings(&browser).await?);
        serve(
            tasks,
            dead,
            async move { told.deaths.follow(endings).await },
        );
        serve(tasks, dead, reaper::run(Arc::clone(&browser), queue));
        serve(tasks, dead, Arc::clone(&browser).heartbeat());
        if config.layers.has(Layer::Watch) {
            let own = browser.processes("browser").await?.into_iter().next();
            let own = own.and_then(Process::find);
            let allowance = Allowance {
                idle_cpu: config.idle_cpu,
                browser_bytes: u64::from(config.browser_mb) << 20,
            };
            let watching = watchdog::run(Arc::clone(&browser), own, allowance);
            serve(tasks, dead, watching);
        }
        Ok(browser)
    }

    /// Sends a command to the browser as a whole.
    pub(crate) async fn execute<C: Command>(&self, command: C) -> Result<C::Response, Trouble> {
        self.execute_within(COMMAND_LIMIT, command).await
    }

    /// The same with a deadline of its own.
    pub(crate) async fn execute_within<C: Command>(
        &self,
        limit: Duration,
        command: C,
    ) -> Result<C::Response, Trouble> {
        let name = command.identifier();
        within(limit, name, self.cdp.execute(command))
            .await
            .map(|answer| answer.result)
    }

    /// The connection itself, for what is no plain command.
    pub(crate) fn connection(&self) -> &chromiumoxide::Browser {
        &self.cdp
    }

    /// Cancelled when the browser is dead.
    pub(crate) fn dead(&self) -> &CancellationToken {
        &self.dead
    }

    /// How many pages it has, those included that are being made or closed.
    pub(crate) fn pages(&self) -> usize {
        self.pages.load(Ordering::Relaxed)
    }

    /// Counts one page more.
    pub(crate) fn page_begins(&self) {
        self.pages.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts one page less.
    pub(crate) fn page_ended(&self) {
        self.pages.fetch_sub(1, Ordering::Relaxed);
    }

    /// The renderer processes that there are.
    pub(crate) async fn renderers(&self) -> Result<HashSet<Pid>, Trouble> {
        self.processes("renderer").await
    }

    /// Those that came up since.
    pub(crate) async fn renderers_since(
        &self,
        before: &HashSet<Pid>,
    ) -> Result<HashSet<Process>, Trouble> {
        let now = self.renderers().await?;
        let new = now.difference(before);
        Ok(new.filter_map(|pid| Process::find(*pid)).collect())
    }

    async fn processes(&self, kind: &str) -> Result<HashSet<Pid>, Trouble> {
        let processes = self
            .execute(GetProcessInfoParams::default())
            .await?
            .process_info;
        let wanted = processes.iter().filter(|process| process.r#type == kind);
        Ok(wanted
            .filter_map(|process| Some(Pid::from_raw(process.id.try_into().ok()?)))
            .collect())
    }

    /// Whether it may show the document of a page in another process than the one that it starts for
    /// the page. Chromium 148 to 156 do not, as they are started here.
    pub(crate) fn moves_pages(&self) -> bool {
        self.moves_pages.load(Ordering::Relaxed)
    }

    /// Notes that a page may live in these processes.
    pub(crate) fn claim(&self, renderers: &HashSet<Process>) {
        let mut claims = locked(&self.claims);
        for renderer in renderers {
            *claims.entry(*renderer).or_default() += 1;
        }
    }

    /// Takes a claim back; gives those processes that nobody else has one to.
    pub(crate) fn release(&self, mut renderers: HashSet<Process>) -> HashSet<Process> {
        let mut claims = locked(&self.claims);
        renderers.retain(|renderer| {
            let others = claims.get(renderer).map_or(0, |count| count - 1);
            if others == 0 {
                claims.remove(renderer);
            } else {
                claims.insert(*renderer, others);
            }
            others == 0
        });
        renderers
    }

    /// Has what is left of a page closed.
    pub(crate) fn reap(&self, remains: Remains) {
        // Fails when the browser is dead, and every page with it.
        _ = self.remains.send(remains);
    }

    /// Watches a page no longer.
    pub(crate) fn forget(&self, target: &TargetId) {
        self.deaths.forget(target);
        self.subjects.remove(target);
    }

    /// Takes a page for dead, as it has done what it must not.
    pub(crate) fn condemn(&self, target: &TargetId, reason: &str) {
        self.subjects.remove(target);
        self.deaths.announce(target, reason.to_owned());
    }

    /// Looks at how the browser treats a page, its first one: what keeps the renderer from being
    /// confined is given (nothing, if all is well).
    async fn examine(self: &Arc<Self>, config: &ChromiumConfig) -> Result<Vec<String>, Trouble> {
        let page = BlankPage::open(Arc::clone(self), config).await?;
        let renderers = self.renderers().await?;
        let seen: HashSet<_> = page.renderers().iter().map(|seen| seen.pid).collect();
        if seen != renderers {
            tracing::warn!(
                "this Chromium moves pages between processes: they are made one at a time"
            );
            self.moves_pages.store(true, Ordering::Relaxed);
        }
        let mut gaps: Vec<_> = renderers
            .iter()
            .flat_map(|renderer| confinement::gaps(*renderer))
            .collect();
        if renderers.is_empty() {
            gaps.push("no renderer process".to_owned());
        }
        page.close().await;
        Ok(gaps)
    }

    /// The browser's events of one kind.
    pub(crate) async fn listen<E: IntoEventKind + Unpin>(&self) -> Result<EventStream<E>, Trouble> {
        within(COMMAND_LIMIT, "listening", self.cdp.event_listener::<E>()).await
    }

    /// Ends when the browser does not answer any more.
    async fn heartbeat(self: Arc<Self>) {
        loop {
            tokio::time::sleep(HEARTBEAT).await;
            let version = self.execute_within(HEARTBEAT_LIMIT, GetVersionParams::default());
            if let Err(trouble) = version.await {
                tracing::warn!(%trouble, "a browser does not answer");
                return;
            }
        }
    }
}

impl Running {
    /// The browser.
    pub(crate) fn browser(&self) -> Arc<Browser> {
        Arc::clone(&self.browser)
    }

    /// Waits for the browser's death; what is left of it then is for [`Self::end`]. Cancel safe.
    pub(crate) async fn closed(&mut self) {
        tokio::select! {
            () = self.browser.dead.cancelled() => {}
            () = self.guarded.ended() => self.browser.dead.cancel(),
        }
    }

    /// Ends the browser, its processes and its tasks, and waits for all of it.
    pub(crate) async fn end(self) {
        end(self.guarded, &self.tasks, &self.browser.dead).await;
    }
}

async fn end(guarded: GuardedChild, tasks: &TaskTracker, dead: &CancellationToken) {
    dead.cancel();
    guarded.end().await;
    tasks.close();
    tasks.wait().await;
}

/// Runs a task that the browser cannot live without: its end, a panic too, is the browser's.
fn serve(
    tasks: &TaskTracker,
    dead: &CancellationToken,
    task: impl Future<Output = ()> + Send + 'static,
) {
    let dead = dead.clone();
    tasks.spawn(async move {
        let _end = dead.clone().drop_guard();
        dead.run_until_cancelled(task).await;
    });
}

/// Moves what is said to and from the browser. Dropping the handler fails every pending command.
async fn drive(mut handler: Handler, dead: CancellationToken) {
    // Dropped before the handler: whoever sees a command fail sees the browser dead.
    let _end = dead.drop_guard();
    while let Some(event) = handler.next().await {
        match event {
            // Dropped; whoever waits for it has a deadline.
            Ok(()) | Err(CdpError::InvalidMessage(..)) => {}
            Err(error) => {
                tracing::warn!(%error, "a browser's connection broke");
                return;
            }
        }
    }
}

/// The tables are whole between any two statements, so a panic elsewhere does them no harm.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
