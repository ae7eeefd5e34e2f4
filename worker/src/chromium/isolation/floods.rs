//! Closes a page that floods its browser with messages.
//!
//! All pages share the thread of the browser that takes their messages, and neither Chromium nor
//! the kernel says how many each page sends: long URLs, moves of the window, prints, console
//! messages. So the browser is asked something trivial while calls are in flight. If it does not
//! reply although that thread computes all the time, the page that is in system calls most of the
//! time meanwhile is closed. The stall is recorded in `browser::stalls`, so that no other page's
//! call is blamed for it.
//!
//! The evidence is processor time, so it is the same on a busy machine. The time that the browser
//! needs for the worker's own commands is not evidence: `cdp::traffic` knows what it may be.
//!
//! Measured on Chromium 150, until the browser's thread had used 30, 100, 300 and 500 ms: every
//! page that floods had been in system calls for 0.6 to 3 times as long. A page that only computes
//! or collects garbage is in system calls for a tenth of its time.

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
use crate::chromium::browser::stalls::{PERIOD, Stalls};
use crate::chromium::process::proc::{CpuTimes, Process};

/// A browser that has not replied by then is watched.
const UNUSUAL: Duration = Duration::from_millis(25);
/// The time between two checks of a browser that does not reply.
const CHECK: Duration = Duration::from_millis(10);
/// How long a reply is awaited. The heartbeat ends a browser that takes as long.
const REPLY_LIMIT: Duration = Duration::from_secs(10);
/// The processor time of the browser's thread, without a reply and without an explanation, that
/// shows a flood.
const FLOODED: Duration = Duration::from_millis(30);
/// The time that the page must have been in system calls meanwhile: two ticks of the kernel's
/// clock.
const SENDING: Duration = Duration::from_millis(20);
/// The part of the browser's time that it must be at least: a fifth.
const SHARE: u32 = 5;
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
            self.stalls.wait(Instant::now());
            sleep(PERIOD).await;
            self.stalls.wake(Instant::now());
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
/// The browser may also be busy with what a page has left behind that is closed already. Then no
/// page is to blame, and none is in system calls for long enough.
fn suspect(before: &Usage, now: &Usage) -> Option<TargetId> {
    let commands = now.explained.saturating_sub(before.explained);
    let browser = now
        .browser
        .saturating_sub(before.browser)
        .saturating_sub(commands);
    if browser < FLOODED {
        return None;
    }
    let mut used: Vec<_> = now
        .pages
        .iter()
        .filter_map(|(target, times)| {
            let system = times.since(*before.pages.get(target)?).system;
            (system >= SENDING && system * SHARE >= browser).then_some((system, target))
        })
        .collect();
    used.sort_by_key(|(system, _)| std::cmp::Reverse(*system));
    let (system, target) = *used.first()?;
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
        after.explained = Duration::from_millis(80);
        assert!(suspect(&before, &after).is_none());
        after.browser += Duration::from_millis(100);
        assert!(suspect(&before, &after).is_some());
    }

    #[test]
    fn the_page_that_sends_is_to_blame_and_not_the_one_that_computes() {
        let before = usage(1000, &[("a", 500, 500), ("b", 0, 0), ("c", 0, 0)]);
        let found = |browser: u64, pages: &[_]| {
            let target = suspect(&before, &usage(1000 + browser, pages))?;
            Some(target.as_ref().to_owned())
        };
        let flood = [("a", 500, 500), ("b", 900, 0), ("c", 100, 50)];
        assert_eq!(found(60, &flood).as_deref(), Some("c"));
        // The browser has not computed enough, or no page has sent enough.
        assert_eq!(found(29, &flood), None);
        assert_eq!(found(60, &[("a", 510, 500), ("b", 9, 10)]), None);
        // A page that collects garbage while the browser is busy with what another one has left.
        assert_eq!(found(300, &[("a", 500, 500), ("b", 270, 30)]), None);
        // Two pages are as active: neither is closed at first.
        let unclear = [("b", 60, 150), ("c", 60, 140)];
        assert_eq!(found(60, &unclear), None);
        assert_eq!(found(600, &unclear).as_deref(), Some("b"));
        // A page that is new since is not to blame.
        assert_eq!(found(60, &[("d", 100, 100)]), None);
    }
}
