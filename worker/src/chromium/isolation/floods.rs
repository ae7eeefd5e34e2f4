//! Closes a page that floods its browser with messages.
//!
//! All pages share the thread of the browser that takes their messages, and neither Chromium nor
//! the kernel says how many each page sends: long URLs, moves of the window, prints, console
//! messages. So the browser is asked something trivial while calls are in flight. If it does not
//! reply although that thread computes all the time, the page that computes most meanwhile is
//! closed: a flood takes the page as much processor time as the browser. The stall is recorded in
//! `browser::stalls`, so that no other page's call is blamed for it.
//!
//! The evidence is processor time, so it is the same on a busy machine. The time that the browser
//! needs for the worker's own commands is not evidence: `cdp::traffic` knows what it may be.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use chromiumoxide_cdp::cdp::browser_protocol::browser::GetVersionParams;
use chromiumoxide_cdp::cdp::browser_protocol::target::TargetId;
use tokio::time::{Instant, sleep, timeout};

use super::watchdog::WatchedPages;
use crate::chromium::browser::Browser;
use crate::chromium::browser::death_watch::DeathWatch;
use crate::chromium::browser::stalls::Stalls;
use crate::chromium::process::proc::{CpuTimes, Process};

/// The time between a reply and the next question.
const PERIOD: Duration = Duration::from_millis(25);
/// A browser that has not replied by then is watched.
const UNUSUAL: Duration = Duration::from_millis(25);
/// The time between two checks of a browser that does not reply.
const CHECK: Duration = Duration::from_millis(10);
/// How long a reply is awaited. The heartbeat ends a browser that takes as long.
const REPLY_LIMIT: Duration = Duration::from_secs(10);
/// The processor time of the browser's thread, without a reply and without an explanation, that
/// shows a flood.
const FLOODED: Duration = Duration::from_millis(30);
/// The processor time that the page must have used meanwhile.
const SENDING: Duration = Duration::from_millis(20);
/// Processor time of the browser's thread after which the most active page is closed although
/// another one is nearly as active.
const UNCLEAR: Duration = Duration::from_millis(500);

/// Finds and closes pages that flood one browser.
#[derive(Debug)]
pub(crate) struct FloodWatch {
    pub(crate) browser: Arc<Browser>,
    pub(crate) stalls: Arc<Stalls>,
    pub(crate) closer: FloodCloser,
    /// The browser's own process, if it is known.
    pub(crate) process: Option<Process>,
}

/// Closes pages that flood one browser.
#[derive(Debug, Clone)]
pub(crate) struct FloodCloser {
    pub(crate) pages: Arc<WatchedPages>,
    pub(crate) deaths: Arc<DeathWatch>,
}

impl FloodCloser {
    /// Declares a page dead and kills its renderers at once: the browser could not close it, since
    /// its messages come first.
    pub(crate) fn close(&self, target: &TargetId, reason: &str) {
        let Some(renderers) = self.pages.remove(target) else {
            return;
        };
        tracing::warn!(page = target.as_ref(), reason, "page closed");
        self.deaths.announce(target, reason.to_owned());
        renderers.into_iter().for_each(Process::kill);
    }
}

/// The processor time used until some moment.
#[derive(Debug)]
struct Usage {
    /// By the browser's main thread.
    browser: Duration,
    /// What the worker's own commands explain of that.
    explained: Duration,
    pages: HashMap<TargetId, CpuTimes>,
}

impl FloodWatch {
    /// Asks the browser again and again while calls are in flight.
    pub(crate) async fn run(self) {
        let mut replied = Instant::now();
        loop {
            sleep(PERIOD).await;
            if self.pages().is_any_busy() {
                self.ask(replied).await;
            }
            replied = Instant::now();
        }
    }

    fn pages(&self) -> &WatchedPages {
        &self.closer.pages
    }

    /// Asks the browser once, and watches it until it replies.
    async fn ask(&self, replied: Instant) {
        self.stalls.ask(replied, Instant::now());
        let question = GetVersionParams::default();
        let mut reply = Box::pin(self.browser.execute_within(REPLY_LIMIT, question));
        if timeout(UNUSUAL, &mut reply).await.is_err() {
            self.find(reply.as_mut()).await;
        }
        self.stalls.reply(Instant::now());
    }

    /// Closes flooding pages until the browser replies.
    async fn find(&self, mut reply: Pin<&mut impl Future>) {
        let mut before = self.measure();
        while timeout(CHECK, &mut reply).await.is_err() {
            if let Some(target) = suspect(&before, &self.measure()) {
                self.closer
                    .close(&target, "it flooded its browser with messages");
                before = self.measure();
            }
        }
    }

    fn measure(&self) -> Usage {
        Usage {
            browser: self
                .process
                .map_or(Duration::ZERO, Process::main_thread_cpu),
            explained: self.browser.traffic().explained(),
            pages: self.pages().cpu_times(),
        }
    }
}

/// The page to blame for what the browser did between two measurements, if there was a flood.
///
/// A flood takes system calls, which a page that only computes does not make.
fn suspect(before: &Usage, after: &Usage) -> Option<TargetId> {
    let explained = after.explained.saturating_sub(before.explained);
    let browser = after
        .browser
        .saturating_sub(before.browser)
        .saturating_sub(explained);
    if browser < FLOODED {
        return None;
    }
    let mut used: Vec<_> = after
        .pages
        .iter()
        .filter_map(|(target, times)| {
            let used = times.since(*before.pages.get(target)?);
            (used.user + used.system >= SENDING).then_some((used.system, used.user, target))
        })
        .collect();
    used.sort_by_key(|(system, user, _)| std::cmp::Reverse((*system, *user)));
    let (system, _, target) = *used.first()?;
    let is_clear = used.get(1).is_none_or(|second| second.0 * 2 <= system);
    (is_clear || browser >= UNCLEAR).then(|| target.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(browser: u64, pages: &[(&str, u64, u64)]) -> Usage {
        let ms = Duration::from_millis;
        let times = |user, system| CpuTimes {
            user: ms(user),
            system: ms(system),
        };
        let pages = pages
            .iter()
            .map(|(name, user, system)| (TargetId::new(*name), times(*user, *system)));
        Usage {
            browser: ms(browser),
            explained: Duration::ZERO,
            pages: pages.collect(),
        }
    }

    #[test]
    fn what_the_worker_asked_for_is_no_flood() {
        let before = usage(1000, &[("a", 0, 0)]);
        let flood = [("a", 50, 50)];
        let mut after = usage(1100, &flood);
        assert!(suspect(&before, &after).is_some());
        after.explained = Duration::from_millis(160);
        assert!(suspect(&before, &after).is_none());
        after.browser *= 2;
        assert!(suspect(&before, &after).is_some());
    }

    #[test]
    fn the_page_that_sends_is_to_blame_and_not_the_one_that_computes() {
        let before = usage(1000, &[("a", 500, 500), ("b", 0, 0), ("c", 0, 0)]);
        let found = |browser, pages: &[_]| {
            let target = suspect(&before, &usage(browser, pages))?;
            Some(target.as_ref().to_owned())
        };
        let flood = [("a", 500, 500), ("b", 900, 0), ("c", 100, 50)];
        assert_eq!(found(1060, &flood).as_deref(), Some("c"));
        // The browser has not computed enough, or no page has.
        assert_eq!(found(1029, &flood), None);
        assert_eq!(found(1060, &[("a", 510, 500), ("b", 9, 10)]), None);
        // Two pages are as active: neither is closed at first.
        let unclear = [("b", 60, 50), ("c", 60, 40)];
        assert_eq!(found(1060, &unclear), None);
        assert_eq!(found(1600, &unclear).as_deref(), Some("b"));
        // A page that is new since is not to blame.
        assert_eq!(found(1060, &[("d", 100, 100)]), None);
    }
}
