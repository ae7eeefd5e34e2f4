//! One running browser: its commands, and what is counted of its pages.
//!
//! This file is the bottom of the folder; it knows none of the others. From here up:
//!
//! - [`death_watch`] reports when a page dies. [`page_closer`] ends pages. [`send_slots`] limits
//!   the messages in flight to pages. [`stalls`] records when the browser itself was stalled.
//! - [`handle`] is everything that a page needs of its browser.
//! - [`start`] launches a browser, connects to it, examines it, and runs its tasks.

pub(super) mod death_watch;
pub(super) mod handle;
pub(super) mod page_closer;
pub(super) mod send_slots;
pub(super) mod stalls;
pub(super) mod start;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chromiumoxide_cdp::cdp::browser_protocol::system_info::GetProcessInfoParams;
use chromiumoxide_cdp::cdp::browser_protocol::target::TargetId;
use chromiumoxide_types::Command;
use nix::unistd::Pid;
use tokio_util::sync::CancellationToken;

use super::cdp::client::{CdpClient, PageSession};
use super::cdp::execute::{COMMAND_LIMIT, CdpError};
use super::cdp::traffic::Traffic;
use super::process::proc::Process;

/// One running browser.
#[derive(Debug)]
pub(crate) struct Browser {
    client: Arc<CdpClient>,
    dead: CancellationToken,
    /// It is dead because it did not reply.
    unresponsive: AtomicBool,
    pages: AtomicUsize,
    /// How many pages may live in each renderer.
    renderer_users: Mutex<HashMap<Process, usize>>,
    moves_pages: AtomicBool,
    /// Held from the start of a page's creation until its renderer exists: the renderers that
    /// appear meanwhile belong to that page.
    pub(crate) page_creation: tokio::sync::Mutex<()>,
}

impl Browser {
    /// A browser behind an open connection. `dead` is cancelled when the browser ends.
    pub(crate) fn new(client: Arc<CdpClient>, dead: CancellationToken) -> Self {
        Self {
            client,
            dead,
            unresponsive: AtomicBool::new(false),
            pages: AtomicUsize::new(0),
            renderer_users: Mutex::default(),
            moves_pages: AtomicBool::new(false),
            page_creation: tokio::sync::Mutex::default(),
        }
    }

    /// Sends a command to the browser as a whole.
    pub(crate) async fn execute<C: Command>(&self, command: C) -> Result<C::Response, CdpError> {
        self.execute_within(COMMAND_LIMIT, command).await
    }

    /// The same with another time limit.
    pub(crate) async fn execute_within<C: Command>(
        &self,
        limit: Duration,
        command: C,
    ) -> Result<C::Response, CdpError> {
        self.client.execute(limit, &command).await
    }

    /// Sends a command to the browser as a whole, without waiting for its reply.
    pub(crate) fn post<C: Command>(&self, command: &C) {
        self.client.post(command);
    }

    /// What the connection to the browser has carried.
    pub(crate) fn traffic(&self) -> &Traffic {
        self.client.traffic()
    }

    /// Opens a session with a page.
    pub(crate) async fn attach(&self, page: TargetId) -> Result<PageSession, CdpError> {
        self.client.attach(COMMAND_LIMIT, page).await
    }

    /// Cancelled when the browser is dead.
    pub(crate) fn dead(&self) -> &CancellationToken {
        &self.dead
    }

    /// Whether it is dead because it did not reply.
    pub(crate) fn is_unresponsive(&self) -> bool {
        self.unresponsive.load(Ordering::Relaxed)
    }

    /// Records that the browser does not reply. Its death must follow.
    pub(crate) fn set_unresponsive(&self) {
        self.unresponsive.store(true, Ordering::Relaxed);
    }

    /// How many pages it has, including those that are being created or closed.
    pub(crate) fn pages(&self) -> usize {
        self.pages.load(Ordering::Relaxed)
    }

    /// Counts one page more.
    pub(crate) fn add_page(&self) {
        self.pages.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts one page less.
    pub(crate) fn remove_page(&self) {
        self.pages.fetch_sub(1, Ordering::Relaxed);
    }

    /// The browser's own process, if it can be identified.
    pub(crate) async fn own_process(&self) -> Result<Option<Process>, CdpError> {
        let own = self.processes("browser").await?.into_iter().next();
        Ok(own.and_then(Process::find))
    }

    /// All renderer processes.
    pub(crate) async fn renderers(&self) -> Result<HashSet<Pid>, CdpError> {
        self.processes("renderer").await
    }

    /// The renderers that were started since.
    pub(crate) async fn renderers_since(
        &self,
        before: &HashSet<Pid>,
    ) -> Result<HashSet<Process>, CdpError> {
        let now = self.renderers().await?;
        let new = now.difference(before);
        Ok(new.filter_map(|pid| Process::find(*pid)).collect())
    }

    async fn processes(&self, kind: &str) -> Result<HashSet<Pid>, CdpError> {
        let processes = self
            .execute(GetProcessInfoParams::default())
            .await?
            .process_info;
        let wanted = processes.iter().filter(|process| process.r#type == kind);
        Ok(wanted
            .filter_map(|process| Some(Pid::from_raw(process.id.try_into().ok()?)))
            .collect())
    }

    /// Whether the browser may show a page's document in another renderer than the one that it
    /// starts for the page. Chromium 148 to 156 do not, with the flags used here.
    pub(crate) fn moves_pages(&self) -> bool {
        self.moves_pages.load(Ordering::Relaxed)
    }

    /// Records that the browser moves pages between renderers.
    pub(crate) fn set_moves_pages(&self) {
        self.moves_pages.store(true, Ordering::Relaxed);
    }

    /// Records that a page may live in these renderers.
    pub(crate) fn use_renderers(&self, renderers: &HashSet<Process>) {
        let mut users = locked(&self.renderer_users);
        for renderer in renderers {
            *users.entry(*renderer).or_default() += 1;
        }
    }

    /// Records that a page left these renderers; returns those that no other page may live in.
    pub(crate) fn release_renderers(&self, mut renderers: HashSet<Process>) -> HashSet<Process> {
        let mut users = locked(&self.renderer_users);
        renderers.retain(|renderer| {
            let others = users.get(renderer).map_or(0, |count| count - 1);
            if others == 0 {
                users.remove(renderer);
            } else {
                users.insert(*renderer, others);
            }
            others == 0
        });
        renderers
    }
}

/// No panic can leave the table half changed.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
